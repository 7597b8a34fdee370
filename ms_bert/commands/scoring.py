"""How well a fine-tuned model does on labelled data: of a run at its end, or of any model by `--evaluate`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_bert.commands import training
from ms_bert.commands.framework import Framework
from ms_bert.commands.prediction import Predictor
from ms_bert.config import are_unnamed
from ms_bert.data.files import write_atomically
from ms_bert.data.sequences import Sequences
from ms_bert.errors import UserError, listed
from ms_bert.finetuning_options import DataOptions, FinetuneOptions
from ms_bert.run.folder import RESULTS, check_free
from ms_bert.run.progress import Progress
from ms_bert.tasks import glue, registry
from ms_bert.tasks.classification import SentenceTask
from ms_bert.tasks.downstream import DownstreamTask, Read

MOST_PROBABILITIES = 20  # of an answer in the file of predictions


def score(framework: Framework, options: FinetuneOptions) -> int:
    """Score the model of --evaluate on the files of --test, train nothing; returns the exit code.

    With --output, results.json and a file of predictions for each file are written into that folder, which is made.

    Raises:
        UserError: the model or a file cannot be read, or they are of different tasks or labels.
    """
    data, run, progress = options.data, options.run, Progress()
    assert run.evaluate is not None
    if run.output is not None:
        check_free(run.output)
    model = Predictor(run.evaluate, framework, run.device, options.training.precision, run.threads)
    if data.longest is not None:
        training.check_longest(data.longest, model.pretrained.config)
    kind = registry.kind(data.task)
    if type(model.task) is not kind:
        raise UserError(
            f"{run.evaluate} was fine-tuned for {model.task.name}, but the data are read for {kind.name}; give --task "
            f"{model.task.name}, or name another model."
        )
    found: dict[str, tuple[DownstreamTask, Sequences]] = {}
    for source in data.test:  # all of them before the first is computed, for one may be wrong
        read = kind.examples(data, source, "test")
        if said := read.told.partition(", scheme ")[0]:  # the scheme is the model's
            progress.say(f"{source}: {said}")
        task = as_the_data_say(model.task.with_options(data), data, read.examples, run.evaluate)
        task.check_scored(read.examples)
        found[source] = task, task.sequences(read.examples, model.vocabulary)
        progress.say(f"{source}: {described(read, found[source][1])}")
    scored, predicted = {}, {}
    for source, (task, sequences) in found.items():
        logits = model.outputs(sequences)
        scored[source] = {"sha256": content_hash(sequences), **results(task, sequences, logits)}
        predicted[predictions_name(source)] = predictions(task, sequences, logits)
        for line in told(source, scored[source]):
            progress.say(line)
    if run.output is not None:
        for name, content in predicted.items():
            write_atomically(run.output / name, content)
        whole = {"model": str(run.evaluate), "test": scored}
        write_atomically(run.output / RESULTS, (json.dumps(whole, indent=2) + "\n").encode())
        progress.say(f"done: {run.output}/{RESULTS} and {' '.join(predicted)}")
    return 0


def as_the_data_say(task: DownstreamTask, data: DataOptions, examples: Sequence[Any], path: Path) -> DownstreamTask:
    """A model's task with the names that the data have for its labels, and with the scores of the dataset.

    Raises:
        UserError: the data have labels that the model has not.
    """
    dataset = glue.DATASETS.get(data.task)
    if dataset is not None and isinstance(task, SentenceTask):
        of_it = registry.kind(data.task).of(data, examples)
        task = dataclasses.replace(task, measures=of_it.measures, dataset=of_it.dataset, pairs=of_it.pairs)
    elif isinstance(task, SentenceTask):
        task = dataclasses.replace(task, measures=task.general_measures, dataset="")
    if not task.labels:
        return task
    names = set().union(*map(task.names_of, examples)) if dataset is None else set(dataset.labels)
    if names <= set(task.labels):
        return task
    if not are_unnamed(task.labels):
        spelled = {name.casefold(): name for name in names}
        labels = tuple(spelled.get(label.casefold(), label) for label in task.labels)
    elif dataset is None:
        labels = tuple(map(str, range(len(task.labels))))
    else:  # but each model orders the classes of MNLI as it likes
        labels = dataset.labels if dataset.name != "mnli" else ()
    if len(set(labels)) == len(task.labels) and names <= set(labels):
        return task.renamed(labels)
    raise UserError(
        f"{path} has the labels {listed(task.labels)}, but the data have {listed(sorted(names - set(task.labels)))}; "
        "name the labels in the model's config.json (id2label) as the data do, or name other data."
    )


def described(read: Read, sequences: Sequences) -> str:
    """Labelled data in a few words: how much there is, and what was truncated or left out."""
    count = len(sequences.examples)
    said = [f"{count:,} examples, {len(sequences.ids) / count:.1f} tokens each on average"]
    if sequences.truncated:
        said.append(f"{sequences.truncated:,} truncated")
    said += [f"{number:,} left out: {reason}" for reason, number in read.skipped.items()]
    return ", ".join(said)


def content_hash(sequences: Sequences) -> str:
    """SHA-256 of labelled data, as a model is given them."""
    targets = (*sequences.of_sequences.values(), *sequences.of_tokens.values())
    arrays = (sequences.ids, sequences.types, sequences.starts, *targets)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def results(task: DownstreamTask, sequences: Sequences, logits: np.ndarray, **more: float) -> dict[str, Any]:
    """What results.json says of labelled data: of each measure the value and its 95% interval, and details.

    Args:
        logits: (n, C) of the sequences or (T, C) of their tokens, float32. more: put before the measures.
    """
    scores, intervals = task.scores(sequences, logits), task.intervals(sequences, logits)
    metrics = {name: dict(zip(("value", "low", "high"), (scores[name], *intervals[name]))) for name in task.measures}
    return {"examples": len(sequences.examples), **more, "metrics": metrics, **task.details(sequences, logits)}


def told(source: str, scored: Mapping[str, Any], where: str = "") -> list[str]:
    """The scores of a file in words, a line each."""
    return [
        f"{source} {name} {one['value']:.4f} (95% interval {one['low']:.4f} to {one['high']:.4f}) of "
        f"{scored['examples']:,} examples{where}"
        for name, one in scored["metrics"].items()
    ]


def predictions_name(source: str) -> str:
    """The name of the file with the predictions about a file of --test."""
    return f"predictions-{Path(source).stem}.jsonl"


def predictions(task: DownstreamTask, sequences: Sequences, logits: np.ndarray) -> bytes:
    """A line of JSON for each example: what it is, its label and what the model says; of many labels the most probable
    ones, or else the file would grow with examples times labels."""
    lines = [
        json.dumps({**task.inputs(example), "gold": task.gold(example), **_short(answer)}, ensure_ascii=False)
        for example, answer in zip(sequences.examples, task.answers(sequences, logits), strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    probabilities = answer.get("probabilities")
    if not isinstance(probabilities, dict) or len(probabilities) <= MOST_PROBABILITIES:
        return answer
    first = sorted(probabilities.items(), key=lambda pair: -pair[1])[:MOST_PROBABILITIES]
    return {**answer, "probabilities": dict(first)}
