"""The fine-tuning command, whatever framework computes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from conversion import configs, pretrained
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.pretrained import Pretrained
from ms_bert.commands import command, training
from ms_bert.commands.framework import Framework
from ms_bert.commands.training import Run
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.packing import EvaluationBatches, TrainingBatches
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed
from ms_bert.finetuning_options import DataOptions, FinetuneOptions
from ms_bert.randomness import HELD_OUT, ORDER, permuted
from ms_bert.run import checkpoints
from ms_bert.run.folder import TASK
from ms_bert.run.loop import Loop, evaluate
from ms_bert.run.progress import Progress
from ms_bert.tasks import examples as general
from ms_bert.tasks import glue
from ms_bert.tasks.classification import TASKS, Classification, Regression, Scored, SentenceTask
from ms_bert.tasks.examples import Example
from ms_bert.tasks.metrics import interval

PREDICTIONS, RESULTS = "predictions.jsonl", "results.json"


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def run(arguments: Sequence[str]) -> int:
        return finetune(framework, parse(framework, program, description, arguments))

    return command.main(run, program, arguments)


def parse(framework: Framework, program: str, description: str, arguments: Sequence[str]) -> FinetuneOptions:
    """Options from the command line; with --resume or --repeat those of that run, as far as not given.

    Raises:
        UserError: see the options; no model or data is named; or an option that a resumed run must not change.
    """
    line = (program, description, arguments)
    given = training.command_line(framework, *line, default=FinetuneOptions())
    options = training.taken_over(framework, given, tuple(TASKS), *line)
    if options.start.model is None:
        raise UserError("--model is missing; name a checkpoint to begin with, such as a run's folder or one of a hub.")
    if options.data.train is None:
        raise UserError("--train is missing; name labelled data to train on.")
    return options


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled data as a run needs it.

    Attributes:
        skipped: rows that were left out, by reason.
    """

    examples: list[Example]
    sequences: Sequences
    skipped: Counter[str]

    def described(self) -> dict:
        """What run.json says of it."""
        return {
            "examples": len(self.examples),
            "tokens": len(self.sequences.ids),
            "truncated": self.sequences.truncated,
            "skipped": dict(self.skipped),
            "sha256": _hash(self.sequences),
        }


def finetune(framework: Framework, options: FinetuneOptions) -> int:
    """Fine-tune as the options say; returns the exit code."""
    began, progress = time.perf_counter(), Progress()
    held: list[Labelled] = []  # what the model is evaluated on, once it is read

    def made(begun: bool) -> Run:
        run, dev = _run(framework, options, progress, begun)
        held.append(dev)
        return run

    if options.run.resume:
        loop = training.resume(framework, options, made, _check_data, progress)
    else:
        loop = training.begin(framework, options, options.data.task, made, progress)
    path = loop.folder.path
    if not loop.finished:
        if stopped := training.train(loop, framework, options):
            return stopped
    elif (path / RESULTS).exists():
        progress.say(f"{path} is complete at step {loop.step}; give more --epochs or --steps to continue.")
        return 0
    _conclude(loop, held[0].examples)
    progress.say(f"done in {time.perf_counter() - began:.0f} s: {path}/{checkpoints.MODEL}, {path}/{PREDICTIONS}")
    return 0


def _run(framework: Framework, options: FinetuneOptions, progress: Progress, begun: bool) -> tuple[Run, Labelled]:
    """What a run needs, and the data that it is evaluated on; what takes long comes last.

    Args:
        begun: whether the run has checkpoints of its own, so that the one of --model is not needed any more.
    """
    training.check_threads(options.run.threads)
    framework.check(options)
    start, data, resume = options.start, options.data, options.run.resume
    initial = None
    if not begun:
        assert start.model is not None
        initial = pretrained.read(start.model, start.config)
    vocabulary = _vocabulary(options, initial)
    task, *found = read(data, progress)
    if initial is not None:
        task = _with_labels_of(task, initial)
        config = initial.config.replace(**task.config()).with_dropout(start.dropout)
        same_labels = config.id2label == initial.config.id2label
    else:
        assert resume is not None
        task = _remembered(resume, task)
        config = configs.read(resume).config
    _check_config(config, vocabulary, data.longest, any(len(example.texts) > 1 for example in found[0][0]))
    train, dev = (Labelled(part, task.sequences(part, vocabulary), skipped) for part, skipped in found)
    for name, part in (("train", train), ("dev", dev)):
        progress.say(f"{name}: {_told(part)}")
    seed, parts = options.training.seed, options.training.accumulate
    positions = config.max_position_embeddings
    weights = task.weights_of(train.sequences) if options.training.class_weights == "balanced" else None
    batches = TrainingBatches(train.sequences, positions, options.training.batch_size, seed, parts, weights)
    resolved = dataclasses.replace(
        options,
        training=options.training.resolved(batches.steps_per_epoch),
        run=options.run.resolved(batches.steps_per_epoch),
    )
    trainer = framework.trainer(config, resolved, task)
    if initial is not None:
        parameters = shapes(config, (*BACKBONE, *ARCHITECTURES[task.architecture].parts))
        fit = initial.fit(parameters, task.architecture, same_labels)
        progress.say(training.origin(initial, fit))
        trainer.load_weights(fit.values(seed))
    files = {TASK: (json.dumps(task.remembered(), indent=2, ensure_ascii=False) + "\n").encode()}
    described = {"data": {"train": train.described(), "dev": dev.described()}}
    held_out = EvaluationBatches(dev.sequences, positions, parts)
    whole = Run(
        task,
        config,
        vocabulary,
        trainer,
        batches,
        held_out,
        resolved.training,
        resolved.run,
        described,
        files,
        options.run.patience,
    )
    return whole, dev


Found = tuple[list[Example], Counter[str]]


def read(data: DataOptions, progress: Progress) -> tuple[SentenceTask, Found, Found]:
    """The task that the data is of, the examples to train on, and those to evaluate on.

    Raises:
        UserError: a file cannot be read, or its labels do not make a task.
    """
    dataset = glue.DATASETS.get(data.task)
    columns = named_columns(data.columns)

    def examples(source: str, split: str) -> Found:
        if dataset is not None:
            return glue.examples(dataset, source, split=split, skip_bad=data.skip_bad)
        found, used, skipped = general.read(
            source,
            data.task,  # type: ignore[arg-type]
            columns,
            separator=data.separator,
            quoted=data.quotes,
            split=split,
            skip_bad=data.skip_bad,
        )
        texts = " and ".join(name for name in (used.text, used.text2) if name is not None)
        progress.say(f"{source}: text from {texts}, labels from {used.label}")
        return found, skipped

    assert data.train is not None  # `parse` asks for it
    train = examples(data.train, "train")
    if data.dev is not None:
        dev = examples(data.dev, "validation")
    else:
        kept, held = _divided(train[0], data.dev_share)
        train, dev = (kept, train[1]), (held, Counter())
    if dataset is not None:
        kind = Regression if dataset.regression else Classification
        ordered = (dataset.main, *(name for name in dataset.metrics if name != dataset.main))
        return kind(dataset.labels, ordered, data.longest, dataset.name), train, dev
    return _general_task(data, train[0]), train, dev


def named_columns(columns: Sequence[str]) -> Mapping[str, str]:
    """--columns ROLE=NAME ... by role."""
    pairs = [column.partition("=") for column in columns]
    if wrong := [column for column, (role, mark, name) in zip(columns, pairs) if not (role and mark and name)]:
        raise UserError(f"--columns {wrong[0][:100]!r} is not ROLE=NAME; write for example text=review label=stars.")
    return {role: name for role, _, name in pairs}


def _general_task(data: DataOptions, examples: list[Example]) -> SentenceTask:
    """The task of a file by its columns: its labels are those of the training data, in the order of their names."""
    kind = TASKS[data.task]
    if kind is Regression:
        return kind((), ("pearson", "spearman"), data.longest)
    several = kind is not Classification
    names = {
        name
        for example in examples
        for name in (example.label if several else (example.label,))  # type: ignore[union-attr]
    }
    if len(names) < (1 if several else 2):
        raise UserError(
            f"the training data has the labels {listed(sorted(map(str, names))) or 'none'}; a classification needs at "
            "least 2, so name another column or more data."
        )
    measures = ("f1_micro", "f1_macro", "subset_accuracy") if several else ("accuracy", "f1_macro")
    return kind(tuple(sorted(map(str, names), key=_natural)), measures, data.longest)


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by their value, before words."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def _divided(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(train, dev): a random share is kept out, the same one whatever the seed of the run is."""
    count = len(examples)
    if count < 2:
        raise UserError("there is only one example to train on; name more data.")
    number = min(max(1, round(share * count)), count - 1)
    order = permuted(np.arange(count), count, 0, ORDER + HELD_OUT, np.zeros(count, np.int64))
    held = set(order[:number].tolist())
    return [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]


def _with_labels_of(task: SentenceTask, initial: Pretrained) -> SentenceTask:
    """The task with its labels in the order of the model's, where they are the same: its head goes on then."""
    names = tuple((initial.config.id2label or {}).values())
    return dataclasses.replace(task, labels=names) if set(names) == set(task.labels) else task


def _remembered(path: Path, task: SentenceTask) -> SentenceTask:
    """The task of a run that has begun, which the data must still be of."""
    remembered = read_task(path)
    if set(remembered.labels) != set(task.labels) or type(remembered) is not type(task):
        raise UserError(f"the labels of the training data are not those that {path} was begun with; restore the data.")
    return remembered


def read_task(path: Path) -> SentenceTask:
    """The task that a run's folder is of.

    Raises:
        UserError: there is no task.json, or it is damaged.
    """
    file = path / TASK
    try:
        values = json.loads(file.read_bytes())
        return TASKS[values["task"]].from_remembered(values)
    except FileNotFoundError:
        raise UserError(f"there is no {file}; name the folder of a fine-tuned model.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it.") from None


def _vocabulary(options: FinetuneOptions, initial: Pretrained | None) -> Vocabulary:
    if options.run.resume is not None:
        return tokenizer.load(options.run.resume)
    if options.start.vocab is not None:
        return tokenizer.load(options.start.vocab)
    assert initial is not None
    if not initial.checkpoint.tokenizer:
        raise UserError(
            f"no vocabulary was found beside {initial.checkpoint.source.path}; name the one that it was trained with "
            "with --vocab."
        )
    return tokenizer.load(initial.checkpoint.source.home)


def _check_config(config: BertConfig, vocabulary: Vocabulary, longest: int, pairs: bool) -> None:
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} entries and the config's vocab_size is {config.vocab_size}; use the "
            "vocabulary that belongs to the model."
        )
    if config.max_position_embeddings < longest:
        raise UserError(
            f"--longest {longest} is more than the {config.max_position_embeddings} positions of the model; choose at "
            f"most {config.max_position_embeddings}."
        )
    if pairs and config.type_vocab_size < 2:
        raise UserError("the model's type_vocab_size is 1; pairs of texts need 2, so choose another model.")


def _check_data(path: Path, description: dict, made: Run) -> None:
    """Raise UserError unless the data is that of the run."""
    begun = description.get("data", {})
    for name, part in made.data["data"].items():
        if begun.get(name, {}).get("sha256") != part["sha256"]:
            raise UserError(
                f"the {name} data is not what {path} began with, so its next batch cannot be made; restore it, or "
                "begin a new run."
            )


def _hash(sequences: Sequences) -> str:
    arrays = (sequences.ids, sequences.types, sequences.starts, *sequences.of_sequences.values())
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _told(part: Labelled) -> str:
    mean = len(part.sequences.ids) / len(part.examples)
    told = [f"{len(part.examples):,} examples, {mean:.1f} tokens each on average"]
    if part.sequences.truncated:
        told.append(f"{part.sequences.truncated:,} truncated")
    told += [f"{number:,} left out: {reason}" for reason, number in part.skipped.items()]
    return ", ".join(told)


def _conclude(loop: Loop, examples: list[Example]) -> None:
    """Evaluate the run's model once more: predictions.jsonl and results.json."""
    folder, task, trainer = loop.folder, loop.task, loop.trainer
    assert isinstance(task, SentenceTask) and loop.held_out is not None
    trainer.load_weights(load_file(folder.path / checkpoints.MODEL))
    scored = evaluate(task, trainer, loop.held_out)
    assert isinstance(scored, Scored)
    metrics, logits, labels = scored.metrics(), scored.logits, scored.labels
    guesses = task.guesses(logits)
    results = {
        name: dict(zip(("value", "low", "high"), (metrics[name], *interval(name, labels, guesses, seed=0))))
        for name in task.measures
    }
    lines = [
        json.dumps({"texts": list(example.texts), "gold": task.gold(example), **answer}, ensure_ascii=False)
        for example, answer in zip(examples, task.answers(logits), strict=True)
    ]
    folder.write(PREDICTIONS, ("\n".join(lines) + "\n").encode())
    step = loop.step if loop.best is None else int(loop.best["step"])
    whole = {"step": step, "examples": len(lines), "loss": metrics["loss"], "metrics": results}
    folder.write(RESULTS, (json.dumps(whole, indent=2) + "\n").encode())
    for name, result in results.items():
        loop.progress.say(
            f"dev {name} {result['value']:.4f} (95% interval {result['low']:.4f} to {result['high']:.4f}) of "
            f"{len(lines):,} examples at step {step}"
        )
