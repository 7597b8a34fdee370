"""The pre-training command, whatever framework computes it."""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

import ms_bert
from ms_bert.commands import command
from ms_bert.commands.evaluation import evaluate_checkpoint
from ms_bert.commands.framework import Framework
from ms_bert.commands.preparation import Prepared, check_threads, prepare
from ms_bert.data.batches import BatchMaker
from ms_bert.errors import UserError
from ms_bert.options import RESUMABLE, ModelOptions, Options, changed
from ms_bert.run import checkpoints
from ms_bert.run.folder import CURVES, RUN, RunFolder, check_free, read_description
from ms_bert.run.loop import Interrupted, Loop, Trainer
from ms_bert.run.progress import Progress
from ms_bert.tasks import Task
from ms_bert.tasks.pretraining import PreTraining


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def run(arguments: Sequence[str]) -> int:
        options = parse(framework, program, description, arguments)
        return evaluate_checkpoint(framework, options) if options.run.evaluate else pretrain(framework, options)

    return command.main(run, program, arguments)


def parse(framework: Framework, program: str, description: str, arguments: Sequence[str]) -> Options:
    """Options from the command line; with --resume, --repeat or --evaluate those of that run, as far as not given.

    Raises:
        UserError: see the options; or an option that a resumed run must not change.
    """
    given = _from_command_line(program, description, arguments, framework.options())
    run = given.run
    if run.resume is not None and (run.repeat is not None or run.output is not None):
        raise UserError("--resume continues in the run's own folder; leave out --output and --repeat.")
    if run.resume is not None and run.resume.is_file():
        raise UserError(f"--resume names {run.resume}, which is a file; name the folder of the run.")
    if run.evaluate is not None and (run.resume or run.repeat or run.output or given.model.init):
        raise UserError("--evaluate trains nothing; leave out --resume, --repeat, --output and --init.")
    own = run.evaluate is not None and (run.evaluate / RUN).is_file()
    source = run.resume or run.repeat or (run.evaluate if own else None)
    if source is None:
        return given
    saved = framework.options.from_dict(_description_of(source)["options"], str(source))
    begun = dataclasses.replace(saved, run=dataclasses.replace(saved.run, output=None, resume=None, repeat=None))
    if own:  # the config and the vocabulary are those in its folder
        begun = dataclasses.replace(begun, text=dataclasses.replace(begun.text, vocab=None), model=ModelOptions())
    options = _from_command_line(program, description, arguments, begun)
    refused = [name for name in changed(begun, options) if name not in RESUMABLE]
    if given.run.resume is not None and refused:
        raise UserError(
            f"--{refused[0].replace('_', '-')} cannot be changed when a run is resumed, because that would change "
            f"the training; leave it out, or begin a new run with --repeat {source}."
        )
    return options


def _from_command_line(program, description, arguments, default: Options) -> Options:
    return tyro.cli(
        type(default),
        prog=program,
        description=description,
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def _description_of(path: Path) -> dict:
    """The run.json of a pre-training run."""
    description = read_description(path)
    if description["task"] != PreTraining.name:
        raise UserError(f"{path} is a run of {description['task']}, not of {PreTraining.name}; name another run.")
    return description


def pretrain(framework: Framework, options: Options) -> int:
    """Pre-train as the options say; returns the exit code."""
    begun = time.perf_counter()
    progress, steps = Progress(), options.training.steps
    resume = options.run.resume
    loop = _resumed_run(resume, framework, options, progress) if resume else _new_run(framework, options, progress)
    path = loop.folder.path
    if loop.step >= steps:
        progress.say(f"{path} is complete at step {loop.step}; give a larger --steps to continue.")
        return 0
    config = loop.trainer.config
    progress.say(
        f"BERT of {config.num_hidden_layers} layers of {config.hidden_size} with {config.num_attention_heads} "
        f"heads, {_parameters(loop.trainer):,} parameters, {framework.name} on {options.run.device} in "
        f"{options.training.precision} by {framework.kernels(options)}; step {loop.step} of {steps} in {path}"
    )
    try:
        loop.run()
    except Interrupted as stop:
        progress.say(f"{stop} and saved; continue with --resume {path}")
        return stop.exit_code
    progress.say(f"done in {time.perf_counter() - begun:.0f} s: {path}/{checkpoints.MODEL}, {path}/{CURVES}")
    return 0


def _new_run(framework: Framework, options: Options, progress: Progress) -> Loop:
    """A run that has a folder and has not begun."""
    path = options.run.output or _free_folder(options.model.preset)
    check_free(path)
    prepared, task, trainer = _computing(framework, options, progress)
    description = _description(framework, options, prepared, task, trainer)
    folder = RunFolder.create(path, description, task.architecture, prepared.config, prepared.vocabulary)
    return _loop(options, prepared, task, trainer, folder, progress)


def _resumed_run(path: Path, framework: Framework, options: Options, progress: Progress) -> Loop:
    """The run of a folder as its newest checkpoint has left it; complete, it is left as it is."""
    folder = RunFolder(path)
    checkpoints.check_begun(path)
    prepared, task, trainer = _computing(framework, options, progress, begun=bool(checkpoints.steps(path)))
    description = _description_of(path)
    _check_store(path, description, prepared)
    if mended := folder.mend_tokenizer(prepared.vocabulary, prepared.config.max_position_embeddings):
        progress.say(f"rewrote {' and '.join(mended)} in {path}: missing or damaged")
    state = checkpoints.load_newest(path, warn=lambda sentence: print(sentence, file=sys.stderr))
    if state is None and checkpoints.steps(path):
        raise UserError(
            f"{path} holds weights but no intact checkpoint to continue from; restore a checkpoint, or begin a new run "
            "with --init."
        )
    loop = _loop(options, prepared, task, trainer, folder, progress)
    loop.resume(state)
    if loop.step < options.training.steps:
        trained_by = _trained_by(description["trained_by"], framework, options, loop.step)
        folder.describe({**description, "options": options.to_dict(), "trained_by": trained_by})
    return loop


def _computing(
    framework: Framework, options: Options, progress: Progress, begun: bool = False
) -> tuple[Prepared, Task, Trainer]:
    """What both kinds of run compute with; begun: whether weights are those of a checkpoint of the run."""
    check_threads(options.run.threads)
    framework.check(options)
    prepared = prepare(options, progress, begun=begun)
    task = PreTraining(prepared.store.unigram_entropy)
    trainer = framework.trainer(prepared.config, options, task)
    if prepared.fit is not None:
        trainer.load_weights(prepared.fit.values(options.training.seed, options.model.truncated_normal))
    return prepared, task, trainer


def _loop(
    options: Options, prepared: Prepared, task: Task, trainer: Trainer, folder: RunFolder, progress: Progress
) -> Loop:
    def batches(split, held_out: bool) -> BatchMaker:
        training = options.training
        return BatchMaker(
            split, prepared.vocabulary, options.examples, training.batch_size, training.seed, held_out=held_out
        )

    train = batches(prepared.store.train, held_out=False)
    held_out = batches(prepared.store.held_out, held_out=True) if options.text.held_out else None
    return Loop(task, options.training, options.run, trainer, folder, train, held_out, progress)


def _check_store(path: Path, description: dict, prepared: Prepared) -> None:
    """Raise UserError unless the text is that of the run."""
    # The counts too: another version may make other ids of the same text.
    begun_with = description.get("store"), description.get("text", {}).get("train")
    if begun_with != (prepared.store.fingerprint, prepared.store.train.counts):
        raise UserError(
            f"the corpus or the vocabulary is not the one that {path} began with, so its next batch cannot be "
            "made; restore it, or begin a new run."
        )


def _description(framework: Framework, options: Options, prepared: Prepared, task: Task, trainer: Trainer) -> dict:
    """What run.json says."""
    store = prepared.store
    return {
        "task": task.name,
        "options": options.to_dict(),
        "trained_by": _trained_by([], framework, options, 0),
        "parameters": _parameters(trainer),
        "config": prepared.config.to_dict(),
        "vocabulary": prepared.vocabulary.fingerprint(),
        "store": store.fingerprint,
        "text": {
            "train": store.train.counts,
            "held_out": store.held_out.counts,
            "held_out_unigram_entropy": store.unigram_entropy,
        },
    }


def _trained_by(before: list[dict], framework: Framework, options: Options, step: int) -> list[dict]:
    """What computed the run from which step on: what is known of the steps so far, and this process."""
    now = {
        "framework": framework.name,
        "device": options.run.device,
        "kernels": framework.kernels(options),
        "versions": {
            "ms_bert": ms_bert.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **framework.versions(),
        },
    }
    kept = [entry for entry in before if entry["from_step"] < step]
    if kept and {**kept[-1], **now} == kept[-1]:
        return kept
    return [*kept, {"from_step": step, **now}]


def _parameters(trainer: Trainer) -> int:
    """Number of trainable values; the tied output matrix counts once."""
    return sum(math.prod(shape) for shape in trainer.shapes.values())


def _free_folder(preset: str) -> Path:
    """The first free of runs/PRESET, runs/PRESET-2, ..."""
    number = 1
    while (path := Path("runs") / (preset if number == 1 else f"{preset}-{number}")).exists():
        number += 1
    return path
