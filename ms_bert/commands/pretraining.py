"""The pre-training command, whatever framework computes it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import command, training
from ms_bert.commands.evaluation import evaluate_checkpoint
from ms_bert.commands.framework import Framework
from ms_bert.commands.preparation import prepare
from ms_bert.commands.training import Run
from ms_bert.data.batches import BatchMaker, FirstRows, Phases
from ms_bert.errors import UserError
from ms_bert.options import ModelOptions, Options
from ms_bert.process import processors
from ms_bert.run import checkpoints
from ms_bert.run.folder import CURVES, RUN
from ms_bert.run.progress import Progress
from ms_bert.run.workers import Workers
from ms_bert.tasks.pretraining import PreTraining


def main(framework: Framework, program: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def run(arguments: Sequence[str]) -> int:
        options = parse(framework, program, description, arguments)
        work = functools.partial(evaluate_checkpoint if options.run.evaluate else pretrain, framework, options)
        return training.by_workers(framework, options, "pretrain", arguments, options.model.preset, work)

    return command.main(run, program, arguments)


def parse(framework: Framework, program: str, description: str, arguments: Sequence[str]) -> Options:
    """Options from the command line; with --resume, --repeat or --evaluate those of that run, as far as not given.

    Raises:
        UserError: see the options; or an option that a resumed run must not change.
    """
    tasks, line = (PreTraining.name,), (program, description, arguments)
    given = training.command_line(framework, *line, default=Options())
    run = given.run
    if run.evaluate is None:
        return training.taken_over(framework, given, tasks, *line).resolved()
    if run.resume or run.repeat or run.output or given.model.init:
        raise UserError("--evaluate trains nothing; leave out --resume, --repeat, --output and --init.")
    if not (run.evaluate / RUN).is_file():
        return given
    begun = training.saved(run.evaluate, Options, tasks)
    # The config and the vocabulary are those in its folder; it may have been trained on a larger machine.
    begun = dataclasses.replace(begun, text=dataclasses.replace(begun.text, vocab=None), model=ModelOptions())
    if (begun.run.threads or 1) > processors():
        begun = dataclasses.replace(begun, run=dataclasses.replace(begun.run, threads=None))
    return training.command_line(framework, *line, default=begun)


def pretrain(framework: Framework, options: Options, workers: Workers) -> int:
    """Pre-train as the options say; returns the exit code."""
    began = time.perf_counter()
    progress = Progress(shown=workers.rank == 0)

    def made(begun: bool) -> Run:
        return _run(framework, options, progress, begun, workers)

    if options.run.resume:
        loop = training.resume(framework, options, made, _check_store, progress, workers)
    else:
        loop = training.begin(framework, options, options.model.preset, made, progress, workers)
    path = loop.folder.path
    if loop.finished:
        progress.say(f"{path} is complete at step {loop.step}; give a larger --steps to continue.")
        return 0
    if stopped := training.train(loop, framework, options):
        return stopped
    progress.say(f"done in {time.perf_counter() - began:.0f} s: {path}/{checkpoints.MODEL}, {path}/{CURVES}")
    return 0


def _run(framework: Framework, options: Options, progress: Progress, begun: bool, workers: Workers) -> Run:
    """What a run needs; begun: whether its weights are those of a checkpoint of its own."""
    prepared = prepare(options, progress, begun=begun)
    store, vocabulary, seed = prepared.store, prepared.vocabulary, options.training.seed
    task = PreTraining(store.unigram_entropy, options.examples.objective)
    config = prepared.config.with_dropout(options.model.dropout)
    framework.check_rows(options, config, options.row_lengths)
    trainer = framework.trainer(config, options, task, workers)
    if prepared.fit is not None:
        trainer.load_weights(prepared.fit.values(seed, options.model.truncated_normal))

    leaves = options.training.in_leaves
    train, held_out = Phases(store.train, vocabulary, options.examples, options.phases, seed, leaves), None
    words = train.makers[0].words
    if words.unknown:
        progress.say(f"--dictionary: the vocabulary lacks a piece of {words.unknown:,} terms, which are not used")
    if options.text.held_out:
        examples, rows = options.examples.of_held_out, options.training.batch_size
        make = BatchMaker(store.held_out, vocabulary, examples, rows, seed, held_out=True)
        held_out = FirstRows(make, options.run.eval_sequences, task.weights)
    data = {
        "store": store.fingerprint,
        **({} if words.fingerprint is None else {"dictionary": words.fingerprint}),
        "text": {
            "train": store.train.counts,
            "held_out": store.held_out.counts,
            "held_out_unigram_entropy": store.unigram_entropy,
        },
    }
    return Run(
        task,
        prepared.config,
        vocabulary,
        trainer,
        train,
        held_out,
        options.training,
        options.run,
        data,
        workers=workers,
    )


def _check_store(path: Path, description: dict, made: Run) -> None:
    """Raise UserError unless the text is that of the run."""
    # The counts too: another version may make other ids of the same text.
    begun_with = description.get("store"), description.get("text", {}).get("train")
    if description.get("dictionary") != made.data.get("dictionary"):
        raise UserError(f"the terms of --dictionary are not those that {path} began with; restore the file.")
    if begun_with != (made.data["store"], made.data["text"]["train"]):
        raise UserError(
            f"the corpus or the vocabulary is not the one that {path} began with, so its next batch cannot be "
            "made; restore it, or begin a new run."
        )
