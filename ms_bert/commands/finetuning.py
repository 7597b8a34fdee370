"""The fine-tuning command, whatever framework computes it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from conversion import configs, pretrained
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.pretrained import Pretrained
from ms_bert.commands import command, scoring, seeds, training
from ms_bert.commands.augmenting import Augmenter
from ms_bert.commands.framework import Framework
from ms_bert.commands.teaching import taught
from ms_bert.commands.training import Run
from ms_bert.config import BertConfig, ordered_as
from ms_bert.data import tokenizer
from ms_bert.data.packing import EvaluationBatches, TrainingBatches
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError
from ms_bert.finetuning_options import DataOptions, FinetuneOptions, StartOptions, depth
from ms_bert.options import changed
from ms_bert.randomness import HELD_OUT, ORDER, permuted
from ms_bert.run import checkpoints
from ms_bert.run.folder import EVALUATION, PREDICTIONS, RESULTS, RUN, TASK
from ms_bert.run.loop import Loop, evaluate
from ms_bert.run.progress import Progress
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import registry
from ms_bert.tasks.downstream import Collected, DownstreamTask, Read
from ms_bert.tasks.pictures import drawn

# Options that say what --evaluate scores, how and where; all others are of training.
OF_SCORES = (
    *("task", "test", "columns", "quotes", "separator", "skip_bad", "scored_questions", "cache"),
    *("longest", "longest_question", "longest_answer", "stride", "device", "precision", "threads"),
)


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def run(arguments: Sequence[str]) -> int:
        options = parse(framework, program, description, arguments)
        work = functools.partial(finetune, framework, options)
        return training.by_workers(framework, options, "finetune", arguments, options.data.task, work)

    interrupted = (
        "interrupted outside of training; nothing new was saved, and a run that has begun goes on with --resume."
    )
    return command.main(run, program, arguments, interrupted)


def parse(framework: Framework, program: str, description: str, arguments: Sequence[str]) -> FinetuneOptions:
    """Options from the command line; with --resume or --repeat those of that run, as far as not given.

    Raises:
        UserError: see the options; no model or data is named; or an option that a resumed run must not change.
    """
    line = (program, description, arguments)
    given = training.command_line(framework, *line, default=_usual(arguments))
    if given.run.evaluate is not None:
        options = _to_evaluate(framework, given, *line)
    else:
        options = training.taken_over(framework, given, tuple(registry.KINDS), *line)
        if options.start.model is None:
            raise UserError(
                "--model is missing; name a checkpoint to begin with, such as a run's folder or one of a hub."
            )
        if options.data.train is None:
            raise UserError("--train is missing; name labelled data to train on.")
    stems = [Path(source).stem for source in options.data.test]
    if len(set(stems)) < len(stems):
        raise UserError(
            f"--test names two files called {_first_twice(stems)}; rename one, for their predictions' files."
        )
    return options


def _usual(arguments: Sequence[str]) -> FinetuneOptions:
    """The options by default; of --evaluate RUN those of its task, so that others of the task may be given."""
    line = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    line.add_argument("--evaluate", nargs="?", type=Path)
    run = line.parse_known_args(arguments)[0].evaluate
    if run is None or not (run / RUN).is_file():
        return FinetuneOptions()
    begun = training.saved(run, FinetuneOptions, tuple(registry.KINDS))
    return FinetuneOptions(data=DataOptions(task=begun.data.task))


def _to_evaluate(
    framework: Framework, given: FinetuneOptions, program: str, description: str, arguments: Sequence[str]
) -> FinetuneOptions:
    """The options of --evaluate; where it names a run, the other ones of that run, as far as not given."""
    run = given.run
    if run.resume is not None or run.repeat is not None:
        raise UserError("--evaluate trains nothing; leave out --resume and --repeat.")
    if idle := [name for name in changed(FinetuneOptions(), given) if name not in OF_SCORES]:
        raise UserError(
            f"--{idle[0].replace('_', '-')} has no effect on --evaluate, which trains nothing; leave it out."
        )
    if not given.data.test:
        raise UserError("--evaluate scores a model on labelled data; name them with --test.")
    assert run.evaluate is not None
    if not (run.evaluate / RUN).is_file():
        return given
    begun = training.saved(run.evaluate, FinetuneOptions, tuple(registry.KINDS))
    # It may have been trained by several workers, on a larger machine and another device.
    own = dataclasses.replace(begun.run, seeds=1, workers=1, threads=None, device=run.device, auto_resume=False)
    begun = dataclasses.replace(begun, data=dataclasses.replace(begun.data, test=()), run=own)
    return training.command_line(framework, program, description, arguments, default=begun)


def _first_twice(names: Sequence[str]) -> str:
    return next(name for number, name in enumerate(names) if name in names[:number])


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled data as a run needs it.

    Attributes:
        skipped: what was left out, by reason.
    """

    sequences: Sequences
    skipped: Counter[str]

    def described(self) -> dict:
        """What run.json says of it."""
        return {
            "examples": len(self.sequences.examples),
            "tokens": len(self.sequences.ids),
            "truncated": self.sequences.truncated,
            "skipped": dict(self.skipped),
            "sha256": scoring.content_hash(self.sequences),
        }


def finetune(framework: Framework, options: FinetuneOptions, workers: Workers) -> int:
    """Fine-tune as the options say, once or with several seeds, or only score a model; returns the exit code."""
    if options.run.evaluate is not None:
        return scoring.score(framework, options)
    if options.run.seeds > 1:
        return seeds.finetune(options, functools.partial(_finetune, framework), Progress())
    return _finetune(framework, options, workers)


def _finetune(framework: Framework, options: FinetuneOptions, workers: Workers = ALONE) -> int:
    began, progress = time.perf_counter(), Progress(shown=workers.rank == 0)
    tests: dict[str, EvaluationBatches] = {}

    def made(begun: bool) -> Run:
        run, found = _run(framework, options, progress, begun, workers)
        tests.update(found)
        return run

    if options.run.resume:
        loop = training.resume(framework, options, made, _check_data, progress, workers)
    else:
        loop = training.begin(framework, options, options.data.task, made, progress, workers)
    path = loop.folder.path
    if not loop.finished:
        if loop.leads:
            # Those of a run that was shorter; without them it is evaluated at its end. The last one names the others.
            for name in [*map(scoring.predictions_name, _scored(path).get("test", {})), RESULTS]:
                (path / name).unlink(missing_ok=True)
        if stopped := training.train(loop, framework, options):
            return stopped
    elif (scored := _scored(path)) and all(_is_of(scored, source, of) for source, of in tests.items()):
        ended = {"more --steps": loop.step >= loop.training.steps, "a larger --patience": loop.stalled}
        remedies = " and ".join(name for name, so in ended.items() if so)
        so_far = " and has scored these files" if tests else ""
        progress.say(f"{path} is complete at step {loop.step}{so_far}; give {remedies} to continue.")
        return 0
    _conclude(loop, tests)
    progress.say(f"done in {time.perf_counter() - began:.0f} s: {path}/{checkpoints.MODEL}, {path}/{PREDICTIONS}")
    return 0


def _run(
    framework: Framework, options: FinetuneOptions, progress: Progress, begun: bool, workers: Workers
) -> tuple[Run, dict[str, EvaluationBatches]]:
    """What a run needs, and the batches of its test data by the names of the files; what takes long comes last.

    Args:
        begun: whether the run has checkpoints of its own, so that the one of --model is not needed any more.
    """
    start, data, resume = options.start, options.data, options.run.resume
    initial: Pretrained | None = None
    kept = ""
    if not begun:
        assert start.model is not None
        initial, kept = _kept(pretrained.read(start.model, start.config), start)
    vocabulary = _vocabulary(options, initial)
    augmenter = Augmenter(options, initial, vocabulary)
    task, found = read(data, progress)
    if initial is not None:
        task, same_labels = _with_labels_of(task, initial)
        config = initial.config.replace(**task.config()).with_dropout(start.dropout)
        if same_labels and not task.labels:  # the one of a regression keeps its name
            config = config.replace(id2label=initial.config.id2label, label2id=initial.config.label2id)
    else:
        assert resume is not None
        task = _remembered(resume, task)
        config = configs.read(resume).config
    _check_config(options, config, vocabulary, task.longest)
    if config.is_decoder and not task.per_token:
        remedy = "add --pooling mean" if hasattr(task, "pooling") else f"{task.name} needs another model"
        raise UserError(
            f"{start.model} is read from left to right (is_decoder): [CLS] sees no word of a text; {remedy}."
        )
    for name, labelled in found.items():
        if name != "train":
            task.check_scored(labelled.examples)
    parts = {name: Labelled(task.sequences(read.examples, vocabulary), read.skipped) for name, read in found.items()}
    train = parts["train"]
    if max(part.sequences.types.max(initial=0) for part in parts.values()) >= config.type_vocab_size:
        raise UserError("the model's type_vocab_size is 1; pairs of texts need 2, so choose another model.")
    for name, part in parts.items():
        progress.say(f"{name}: {scoring.described(found[name], part.sequences)}")
    described = {"data": {name: part.described() for name, part in parts.items()}}
    examples = {name: read.examples for name, read in found.items()}
    sequences = {name: part.sequences for name, part in parts.items()}
    task, files = taught(framework, options, task, config, examples, sequences, progress)
    augmented, guessed = augmenter(framework, train.sequences, progress)
    seed, in_parts = options.training.seed, options.training.parts
    positions = config.max_position_embeddings
    weights = task.weights_of(train.sequences) if options.training.class_weights == "balanced" else None
    batches = TrainingBatches(
        train.sequences, positions, options.training.batch_size, seed, in_parts, weights, task.together, augmented
    )
    resolved = dataclasses.replace(
        options,
        training=options.training.resolved(batches.steps_per_epoch),
        run=options.run.resolved(batches.steps_per_epoch),
    )
    held_out, *tests = (
        EvaluationBatches(part.sequences, positions, in_parts, together=task.together)
        for part in parts.values()
        if part is not train
    )
    framework.check_rows(resolved, config, {batches.tokens, held_out.tokens, *(of.tokens for of in tests)})
    trainer = framework.trainer(config, resolved, task, workers)
    if initial is not None:
        parameters = shapes(config, (*BACKBONE, *ARCHITECTURES[task.architecture].parts))
        fit = initial.fit(parameters, task.architecture, same_labels)
        if start.reinitialized_layers is not None:
            fit = fit.without(_top(config.num_hidden_layers, start.reinitialized_layers), "the pooler and top layers")
        progress.say(training.origin(initial, fit, kept))
        trainer.load_weights(fit.values(seed))
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
        {TASK: _task_file(task), **files, **guessed},
        options.run.patience,
        workers,
    )
    return whole, dict(zip(data.test, tests))


def _kept(initial: Pretrained, start: StartOptions) -> tuple[Pretrained, str]:
    """The model to begin with as --keep-layers leaves it, and what was kept, in words.

    Raises:
        UserError: it has no such layers.
    """
    layers, count = start.keep_layers, initial.config.num_hidden_layers
    if not layers:
        return initial, ""
    if list(layers) != sorted(set(layers) & set(range(1, count + 1))):
        raise UserError(
            f"--keep-layers is {' '.join(map(str, layers))}, but {start.model} has the layers 1 to {count}; name some "
            "of these, each once, from the lowest to the highest."
        )
    return initial.with_layers([layer - 1 for layer in layers]), f"{training.named_layers(layers)} of {count} kept"


def read(data: DataOptions, progress: Progress) -> tuple[DownstreamTask, dict[str, Read]]:
    """The task that the data is of, and the examples: "train", "dev" and "--test FILE" of each file to test.

    Raises:
        UserError: a file cannot be read, or its labels do not make a task.
    """
    kind = registry.kind(data.task)

    def examples(source: str, split: str) -> Read:
        found = kind.examples(data, source, split)
        if found.told:
            progress.say(f"{source}: {found.told}")
        return found

    assert data.train is not None  # `parse` asks for it
    train = examples(data.train, "train")
    task = kind.of(data, train.examples)  # before some are kept out, for a rare label may be among them
    if data.dev is not None:
        dev = examples(data.dev, "validation")
    else:
        kept, held = _divided(task, train.examples, data.dev_share)
        train, dev = Read(kept, train.skipped), Read(held)
    tests = {f"--test {source}": examples(source, "test") for source in data.test}
    if getattr(task, "pooling", "cls") != data.pooling:
        raise UserError(f"--pooling {data.pooling} is for tasks on texts such as classification, not for {task.name}.")
    return task, {"train": train, "dev": dev, **tests}


def _divided(task: DownstreamTask, examples: list[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(train, dev): a random share is kept out, the same one whatever the seed of the run is.

    All examples about a passage are in the same part: otherwise the scores would be those of passages that were seen.
    An example with a label that no other has is trained on.
    """
    if len(examples) < 2:
        raise UserError("there is only one example to train on; name more data.")
    passages: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        passages.setdefault(task.passage(example) or i, []).append(i)
    if len(passages) == 1:
        passages = {i: [i] for i in range(len(examples))}
    order = permuted(np.arange(len(passages)), len(passages), 0, ORDER + HELD_OUT, np.zeros(len(passages), np.int64))
    groups, number, held = list(passages.values()), max(1, round(share * len(examples))), set[int]()

    def names(group: Iterable[int]) -> Counter[str]:
        return Counter(name for i in group for name in task.names_of(examples[i]))

    left = names(range(len(examples)))

    def can_go(group: list[int]) -> bool:
        """Whether each of its labels still has an example then."""
        return all(left[name] > count for name, count in names(group).items())

    for group in (groups[place] for place in order):
        if len(held) + len(group) <= number and can_go(group):
            held.update(group)
            left.subtract(names(group))
    if not held:  # rather more examples than the only one of a label
        smallest: list[int] = min([*filter(can_go, groups)] or groups, key=len)
        held = set(smallest)
    return [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]


def _with_labels_of(task: DownstreamTask, initial: Pretrained) -> tuple[DownstreamTask, bool]:
    """The task with its labels in the order of the model's, and whether they are the same: its head goes on then."""
    own = task.config().get("id2label")
    if own is None or ARCHITECTURES[task.architecture].choices:  # the head has no labels
        return task, True
    names = initial.config.labels
    if not task.labels:
        return task, len(names) == len(own)
    labels = ordered_as(task.labels, names)
    return (task, False) if labels is None else (dataclasses.replace(task, labels=labels), True)


def _remembered(path: Path, task: DownstreamTask) -> DownstreamTask:
    """The task of a run that has begun, which the data must still be of."""
    remembered = training.read_task(path)
    if set(remembered.labels) != set(task.labels) or type(remembered) is not type(task):
        raise UserError(f"the labels of the training data are not those that {path} was begun with; restore the data.")
    return remembered


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


def _check_config(options: FinetuneOptions, config: BertConfig, vocabulary: Vocabulary, longest: int) -> None:
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} entries and the config's vocab_size is {config.vocab_size}; use the "
            "vocabulary that belongs to the model."
        )
    layers = config.num_hidden_layers
    for option, count in (
        ("--frozen-layers", options.training.frozen_layers),
        ("--reinitialized-layers", options.start.reinitialized_layers),
    ):
        if count is not None and count > layers:
            raise UserError(f"{option} is {count}, but the model has {layers} layers; choose at most {layers}.")
    frozen, drawn_anew = options.training.frozen_layers or 0, options.start.reinitialized_layers or 0
    if frozen + drawn_anew > layers:
        raise UserError(
            f"--frozen-layers {frozen} and --reinitialized-layers {drawn_anew} overlap in a model of {layers} layers, "
            "where random layers would never be trained; choose at most as many together."
        )
    training.check_longest(longest, config)


def _top(layers: int, count: int) -> Callable[[str], bool]:
    """Whether a parameter is of the pooler or of the `count` highest layers."""

    def of_top(name: str) -> bool:
        below = depth(name)
        return ".pooler." in name or (below is not None and below >= layers - count)

    return of_top


def _check_data(path: Path, description: dict, made: Run) -> None:
    """Raise UserError unless the data is that of the run."""
    begun = description.get("data", {})
    for name in ("train", "dev"):  # no batch is made of what --test names
        if begun.get(name, {}).get("sha256") != made.data["data"][name]["sha256"]:
            raise UserError(
                f"the {name} data is not what {path} began with, so its next batch cannot be made; restore it, or "
                "begin a new run."
            )


def _conclude(loop: Loop, tests: Mapping[str, EvaluationBatches]) -> None:
    """Evaluate the run's model once more: predictions.jsonl, evaluation.png and results.json, which comes last."""
    folder, trainer = loop.folder, loop.trainer
    loop.workers.gather(np.zeros(1))  # the first has put the model there
    trainer.load_weights(load_file(folder.path / checkpoints.MODEL))
    step = loop.step if loop.best is None else int(loop.best["step"])
    assert isinstance(loop.task, DownstreamTask) and isinstance(loop.held_out, EvaluationBatches)
    evaluation = _evaluated(loop, loop.task, loop.held_out)
    task = evaluation.task = loop.task.tuned(evaluation.sequences, evaluation.logits)
    folder.write(TASK, _task_file(task))
    folder.write(PREDICTIONS, scoring.predictions(task, evaluation.sequences, evaluation.logits))
    if drawings := task.drawings(evaluation.sequences, evaluation.logits):
        folder.write(EVALUATION, drawn(drawings))
    results = {"step": step, **_results(task, evaluation)}
    told, of_tests = [("dev", results)], dict(_scored(folder.path).get("test", {}))  # those of a complete run stay
    for source, held_out in tests.items():
        tested = _evaluated(loop, task, held_out)
        predictions = scoring.predictions_name(source)
        for other in [name for name in of_tests if scoring.predictions_name(name) == predictions]:
            del of_tests[other]  # its predictions are written over
        folder.write(predictions, scoring.predictions(task, tested.sequences, tested.logits))
        of_tests[source] = {"sha256": scoring.content_hash(held_out.sequences), **_results(task, tested)}
        told.append((f"--test {source}", of_tests[source]))
    if of_tests:
        results["test"] = of_tests
    folder.write(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    for name, one in told:
        for line in scoring.told(name, one, f" at step {step}"):
            loop.progress.say(line)


def _scored(path: Path) -> dict[str, Any]:
    """The results.json of a complete run; {} where there is none that can be read."""
    try:
        found = json.loads((path / RESULTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("test", {}), dict) else {}


def _is_of(scored: Mapping[str, Any], source: str, held_out: EvaluationBatches) -> bool:
    """Whether results have the scores of a file as it is now; older ones do not say of what content they are."""
    of_test, content = scored.get("test", {}).get(source), scoring.content_hash(held_out.sequences)
    return isinstance(of_test, dict) and of_test.get("sha256", content) == content


def _evaluated(loop: Loop, task: DownstreamTask, held_out: EvaluationBatches) -> Collected:
    evaluation = evaluate(task, loop.trainer, held_out, loop.workers)
    assert isinstance(evaluation, Collected)
    return evaluation


def _results(task: DownstreamTask, evaluation: Collected) -> dict[str, Any]:
    """What results.json says of labelled data."""
    return scoring.results(task, evaluation.sequences, evaluation.logits, loss=evaluation.loss)


def _task_file(task: DownstreamTask) -> bytes:
    return (json.dumps(task.remembered(), indent=2, ensure_ascii=False) + "\n").encode()
