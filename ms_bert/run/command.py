"""The pre-training command, whatever framework computes it."""

from __future__ import annotations

import dataclasses
import math
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

import ms_bert
from ms_bert.data.batches import BatchMaker
from ms_bert.errors import UserError
from ms_bert.options import RESUMABLE, ModelOptions, Options, changed
from ms_bert.run import checkpoints
from ms_bert.run.evaluation import evaluate_checkpoint
from ms_bert.run.folder import CURVES, RUN, RunFolder, check_free, read_description
from ms_bert.run.framework import Framework
from ms_bert.run.loop import Interrupted, Loop, Trainer
from ms_bert.run.preparation import Prepared, check_threads, prepare
from ms_bert.run.progress import Progress


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        options = parse(program, description, sys.argv[1:] if arguments is None else arguments)
        return evaluate_checkpoint(framework, options) if options.run.evaluate else pretrain(framework, options)
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # Outside the loop, which says what it has saved: the cache or the run folder cannot be written or read.
        print(f"{program}: {error}; check that the path is right, may be written and has room.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{program}: interrupted before training began, or twice; nothing new was saved.", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the command as Ctrl-C does."""


def _terminate(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough, and nothing half made is to be left behind
    raise _Terminated


def parse(program: str, description: str, arguments: Sequence[str]) -> Options:
    """Options from the command line; with --resume, --repeat or --evaluate those of that run, as far as not given.

    Raises:
        UserError: see the options; or an option that a resumed run must not change.
    """
    given = _from_command_line(program, description, arguments, Options())
    run = given.run
    if run.resume is not None and (run.repeat is not None or run.output is not None):
        raise UserError("--resume goes on in its own folder; leave out --output and --repeat.")
    if run.resume is not None and run.resume.is_file():
        raise UserError(f"--resume is {run.resume}, a file; name the folder of the run.")
    if run.evaluate is not None and (run.resume or run.repeat or run.output or given.model.init):
        raise UserError("--evaluate trains nothing; leave out --resume, --repeat, --output and --init.")
    own = run.evaluate is not None and (run.evaluate / RUN).is_file()
    source = run.resume or run.repeat or (run.evaluate if own else None)
    if source is None:
        return given
    saved = Options.from_dict(read_description(source)["options"], str(source))
    begun = dataclasses.replace(saved, run=dataclasses.replace(saved.run, output=None, resume=None, repeat=None))
    if own:  # the config and the vocabulary are those in its folder
        begun = dataclasses.replace(begun, text=dataclasses.replace(begun.text, vocab=None), model=ModelOptions())
    options = _from_command_line(program, description, arguments, begun)
    refused = [name for name in changed(begun, options) if name not in RESUMABLE]
    if given.run.resume is not None and refused:
        raise UserError(
            f"--{refused[0].replace('_', '-')} cannot change when a run is resumed, it would be another "
            f"training; leave it out, or begin a new run with --repeat {source}."
        )
    return options


def _from_command_line(program, description, arguments, default: Options) -> Options:
    return tyro.cli(
        Options,
        prog=program,
        description=description,
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def pretrain(framework: Framework, options: Options) -> int:
    """Pre-train as the options say; returns the exit code."""
    begun = time.perf_counter()
    progress, resumed = Progress(), options.run.resume
    path = resumed or options.run.output or _free_folder(options.model.preset)
    if resumed:
        folder = RunFolder(path)
        checkpoints.check_begun(path)
    else:
        check_free(path)
    check_threads(options.run.threads)
    framework.check(options)
    prepared = prepare(options, progress, begun=bool(resumed and checkpoints.steps(path)))
    store, vocabulary, config, fit = prepared.store, prepared.vocabulary, prepared.config, prepared.fit
    training, examples = options.training, options.examples
    train = BatchMaker(store.train, vocabulary, examples, training.batch_size, training.seed)
    held_out = None
    if options.text.held_out:
        held_out = BatchMaker(store.held_out, vocabulary, examples, training.batch_size, training.seed, held_out=True)

    trainer = framework.trainer(config, options)
    if resumed:
        description = read_description(path)
        # The counts too: another version may make other ids of the same text.
        begun_with = description.get("store"), description.get("text", {}).get("train")
        if begun_with != (store.fingerprint, store.train.counts):
            raise UserError(
                f"the corpus or the vocabulary is not the one that {path} was begun with, so its next batch cannot be "
                "made; restore it, or begin a new run."
            )
        if mended := folder.mend_tokenizer(vocabulary, config.max_position_embeddings):
            progress.say(f"wrote {' and '.join(mended)} of {path} anew: missing or damaged")
        state = checkpoints.load_newest(path, warn=lambda sentence: print(sentence, file=sys.stderr))
        if state is None and checkpoints.steps(path):
            raise UserError(
                f"{path} holds weights and no whole checkpoint to go on from; restore one of these, or begin a "
                "new run with --init."
            )
    else:
        state = None
    if fit is not None:
        trainer.load_weights(fit.values(training.seed, options.model.truncated_normal))
    if not resumed:
        description = _description(framework, options, prepared, trainer)
        folder = RunFolder.create(path, description, config, vocabulary)
    loop = Loop(options, trainer, folder, train, held_out, progress, store.unigram_entropy)
    if resumed:
        loop.resume(state)
        if loop.step >= training.steps:
            progress.say(f"{path} is complete at step {loop.step}; give a larger --steps to go on.")
            return 0
        trained_by = _trained_by(description["trained_by"], framework, options, loop.step)
        folder.describe({**description, "options": options.to_dict(), "trained_by": trained_by})

    progress.say(
        f"BERT of {config.num_hidden_layers} layers of {config.hidden_size} with {config.num_attention_heads} "
        f"heads, {_parameters(trainer):,} parameters, {framework.name} on {options.run.device} in "
        f"{training.precision} by {framework.kernels(options)}; step {loop.step} of {training.steps} in {path}"
    )
    try:
        loop.run()
    except Interrupted as stop:
        progress.say(f"{stop}, saved; go on with --resume {path}")
        return stop.exit_code
    progress.say(f"done in {time.perf_counter() - begun:.0f} s: {path}/{checkpoints.MODEL}, {path}/{CURVES}")
    return 0


def _description(framework: Framework, options: Options, prepared: Prepared, trainer: Trainer) -> dict:
    """What run.json says."""
    store = prepared.store
    return {
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
