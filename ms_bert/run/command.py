"""The pre-training command, whatever framework computes it."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tyro

import ms_bert
from ms_bert.config import PRESETS, BertConfig
from ms_bert.data import tokenizer
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import TokenStore, open_store
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError
from ms_bert.options import RESUMABLE, Options, changed
from ms_bert.run import checkpoints
from ms_bert.run.folder import CURVES, RunFolder, check_free, read_description
from ms_bert.run.loop import Interrupted, Loop, Trainer
from ms_bert.run.progress import Progress


class Framework(Protocol):
    """What the command needs of a framework."""

    name: str

    def check(self, options: Options) -> None:
        """Raise UserError unless the device is there and can do what is asked."""

    def trainer(self, config: BertConfig, options: Options) -> Trainer:
        """A freshly initialised trainer."""

    def versions(self) -> dict[str, str]:
        """Of the framework."""

    def kernels(self, options: Options) -> str:
        """What computes the operations, in words that stand after "by"."""


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return pretrain(framework, parse(program, description, sys.argv[1:] if arguments is None else arguments))
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
    """Options from the command line; with --resume or --repeat those of that run, as far as not given.

    Raises:
        UserError: see the options; or an option that a resumed run must not change.
    """
    given = _from_command_line(program, description, arguments, Options())
    if given.run.resume is not None and (given.run.repeat is not None or given.run.output is not None):
        raise UserError("--resume goes on in its own folder; leave out --output and --repeat.")
    source = given.run.resume or given.run.repeat
    if source is None:
        return given
    saved = Options.from_dict(read_description(source)["options"], str(source))
    begun = dataclasses.replace(saved, run=dataclasses.replace(saved.run, output=None, resume=None, repeat=None))
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
    if not resumed:
        check_free(path)
    _check_threads(options.run.threads)
    framework.check(options)

    source = resumed or options.model.init
    vocabulary, store = _text(options, source if source and source.is_dir() else None, progress)
    config = _config(options, vocabulary)
    training, examples = options.training, options.examples
    train = BatchMaker(store.train, vocabulary, examples, training.batch_size, training.seed)
    held_out = None
    if options.text.held_out:
        held_out = BatchMaker(
            store.held_out,
            vocabulary,
            examples,
            training.batch_size // training.accumulate,
            training.seed,
            held_out=True,
        )

    trainer = framework.trainer(config, options)
    if resumed:
        description = read_description(path)
        # The counts too: another version may make other ids of the same text.
        if description["store"] != store.fingerprint or description["text"]["train"] != store.train.counts:
            raise UserError(
                f"the corpus is not the one that {path} was begun with, so its next batch cannot be made; "
                "restore the corpus, or begin a new run."
            )
        folder = RunFolder(path)
        state = checkpoints.load_newest(path, warn=lambda sentence: print(sentence, file=sys.stderr))
        if state is None and (checkpoints.steps(path) or (path / checkpoints.MODEL).exists()):
            raise UserError(
                f"{path} holds weights and no whole checkpoint to go on from; restore one of these, or begin a "
                "new run with --init."
            )
    else:
        state = None
    if options.model.init is not None and state is None:
        trainer.load_weights(checkpoints.load_weights(options.model.init, trainer.shapes))
    if not resumed:
        description = _description(framework, options, config, store, trainer)
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


def _text(options: Options, source: Path | None, progress: Progress) -> tuple[Vocabulary, TokenStore]:
    """The vocabulary and the token store; the vocabulary is that of `source` (a run or --init), if it has one."""
    begun, text = time.perf_counter(), options.text
    corpus = Corpus(text)
    if source is not None and (options.run.resume or text.vocab is None):
        text = dataclasses.replace(text, vocab=source)
    vocabulary = tokenizer.vocabulary(text, corpus)
    store, made = open_store(text, corpus, vocabulary)
    counts = store.train.counts
    progress.say(
        f"corpus {' '.join(text.corpus)}: {counts['documents']:,} documents, {counts['sentences']:,} sentences, "
        f"{counts['tokens']:,} tokens of {vocabulary.size:,} kinds ({'made' if made else 'kept'} in "
        f"{store.folder}, {time.perf_counter() - begun:.1f} s)"
    )
    return vocabulary, store


def _config(options: Options, vocabulary: Vocabulary) -> BertConfig:
    """The config of a run, checked against the vocabulary and the sequence length.

    It is that of the resumed folder, else --config, else that of an --init folder, else the preset.
    """
    init = options.model.init
    source = options.run.resume or options.model.config or (init if init is not None and init.is_dir() else None)
    config = (
        BertConfig.from_json(source)
        if source
        else PRESETS[options.model.preset].replace(vocab_size=vocabulary.size, pad_token_id=vocabulary.pad)
    )
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the vocabulary has {vocabulary.size} entries and the config's vocab_size is "
            f"{config.vocab_size}; use the vocabulary that belongs to {source}, or a larger vocab_size."
        )
    if config.max_position_embeddings < options.examples.seq_length:
        raise UserError(
            f"--seq-length {options.examples.seq_length} is longer than the position table of "
            f"{config.max_position_embeddings}; choose a shorter one, or a --config with a larger "
            "max_position_embeddings."
        )
    if options.examples.nsp and config.type_vocab_size < 2:
        raise UserError("the config's type_vocab_size is 1, and sentence pairs need 2; use --no-nsp or another config.")
    if options.model.dropout is not None:
        config = config.replace(
            hidden_dropout_prob=options.model.dropout, attention_probs_dropout_prob=options.model.dropout
        )
    return config


def _description(
    framework: Framework, options: Options, config: BertConfig, store: TokenStore, trainer: Trainer
) -> dict:
    """What run.json says."""
    return {
        "options": options.to_dict(),
        "trained_by": _trained_by([], framework, options, 0),
        "parameters": _parameters(trainer),
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


def _check_threads(threads: int | None) -> None:
    # Not where options are made: a resumed run's may have been chosen on a larger machine, and be overridden here.
    most = len(os.sched_getaffinity(0))
    if threads is not None and threads > most:
        raise UserError(
            f"--threads is {threads}, more than the processors that this process may use; choose at most {most}."
        )


def _free_folder(preset: str) -> Path:
    """The first free of runs/PRESET, runs/PRESET-2, ..."""
    number = 1
    while (path := Path("runs") / (preset if number == 1 else f"{preset}-{number}")).exists():
        number += 1
    return path
