"""Kill a run before and after each of its writes in turn, resume it, and compare: test_kill.py runs this.

python -m tests.faults.killed_everywhere STORE VOCABULARY FOLDER

The loop, the run folder and the checkpoints are the real ones; the trainer is a few NumPy lines, and every run is a
fork of this small process, so that a hundred kills take seconds. Prints the number of kills.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.data.batches import BatchMaker, FirstRows
from ms_bert.data.store import TokenStore
from ms_bert.data.tokenizer import load
from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions
from ms_bert.run import checkpoints, curves
from ms_bert.run.folder import RUN, RunFolder
from ms_bert.run.loop import Loop, StepResult
from ms_bert.tasks.pretraining import PreTraining

OPTIONS = Options(
    examples=ExampleOptions(seq_length=16),
    training=TrainingOptions(batch_size=4, steps=9, warmup_steps=2),
    run=RunOptions(log_every=2, eval_every=4, eval_sequences=8, checkpoint_every=3, keep=2),
)
DESCRIPTION = {"options": OPTIONS.to_dict()}


class Trainer:
    """Weights and moments that depend on every batch and every step."""

    shapes = {"w": (3,)}

    def compile(self, batches):
        return False

    def __init__(self):
        self.model, self.moment, self.updates = np.zeros(3, np.float32), np.zeros(3, np.float32), 0

    def train_step(self, batch, step, rate):
        gradient = np.array([batch["input_ids"].mean(), batch["masked_labels"].mean(), step], np.float32)
        self.moment = np.float32(0.9) * self.moment + gradient
        self.model = self.model - np.float32(rate) * self.moment
        self.updates += 1
        return StepResult(dict.fromkeys(PreTraining.sums, float(abs(self.model).sum()) + 1), float(gradient.sum()))

    def evaluate(self, batch):
        return dict.fromkeys(PreTraining.sums, float(abs(self.model).sum() + batch["input_ids"].mean())), ()

    def state(self):
        scalars = {"updates": self.updates, "loss_scale": 1.0, "good_steps": 0}
        return {"w": self.model}, {"m.w": self.moment, "v.w": self.moment}, scalars

    def load(self, model, optimizer, scalars):
        self.model, self.moment, self.updates = model["w"], optimizer["m.w"], scalars["updates"]


class Silent:
    """A progress display that shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __getattr__(self, name):
        return lambda *arguments: None


def train(path, store, vocabulary):
    """Begin the run, or go on with it."""
    task, begun = PreTraining(), (path / RUN).exists()
    folder = (
        RunFolder(path)
        if begun
        else RunFolder.create(path, DESCRIPTION, task.architecture, BertConfig(vocab_size=vocabulary.size), vocabulary)
    )
    train_maker, held_out = (
        BatchMaker(split, vocabulary, OPTIONS.examples, 4, 1, held_out=split is store.held_out)
        for split in (store.train, store.held_out)
    )
    first = FirstRows(held_out, OPTIONS.run.eval_sequences, task.weights)
    loop = Loop(task, OPTIONS.training, OPTIONS.run, Trainer(), folder, train_maker, first, Silent())
    if begun:
        loop.resume(checkpoints.load_newest(path, warn=sys.exit))
    loop.run()


def forked(function) -> int:
    """Exit status of a child that calls the function."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(write, after, function):
    """Call the function with every way to change the disk counted, and be killed at one of them."""
    count = 0

    def wrap(owner, name):
        original = getattr(owner, name)

        def counted(*arguments, **named):
            nonlocal count
            count += 1
            if count == write and not after:
                os.kill(os.getpid(), 9)
            result = original(*arguments, **named)
            if count == write and after:
                os.kill(os.getpid(), 9)
            return result

        setattr(owner, name, counted)

    for owner, name in (
        (os, "replace"),
        (os, "rename"),
        (os, "link"),
        (os, "fsync"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "mkdir"),
        (checkpoints, "save_file"),
        (RunFolder, "log"),
    ):
        wrap(owner, name)
    function()


def content(path):
    files = [path / "metrics.jsonl", path / "model.safetensors", *sorted((path / "checkpoints").rglob("*.*"))]
    return {str(f.relative_to(path)): f.read_bytes() for f in files if f.is_file()}


def main(store, vocabulary, work):
    store, vocabulary, work = TokenStore(Path(store)), load(Path(vocabulary)), Path(work)
    curves.draw = lambda *arguments: None  # it is slow, and only draws
    assert forked(lambda: train(work / "undisturbed", store, vocabulary)) == 0
    expected, kills = content(work / "undisturbed"), 0
    for after in (False, True):
        write = 0
        while True:
            write += 1
            path = work / "killed"
            shutil.rmtree(path, ignore_errors=True)
            status = forked(lambda: dying_at(write, after, lambda: train(path, store, vocabulary)))
            if status == 0:
                break  # it made fewer writes than this
            assert status == -9, status
            kills += 1
            resumed = forked(lambda: train(path, store, vocabulary))
            assert resumed == 0, f"killed {'after' if after else 'before'} write {write}, it cannot be resumed"
            assert content(path) == expected, (
                f"killed {'after' if after else 'before'} write {write}, it ends differently"
            )
    print(kills)


if __name__ == "__main__":
    main(*sys.argv[1:])
