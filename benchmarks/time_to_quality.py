"""How much sooner does a BERT learn as much, by options of pre-training that leave it a BERT?

BERTs of one size are pre-trained on the built-in corpus: as the paper does it, then with options that save time, so
that runs of the same time and of half of it can be compared. Held-out text is always masked at 15%. All are fine-tuned
on SST-2 and CoLA with several seeds, so that a lower loss that is of no use would show. Two cores take about an hour.

The runs are kept in the cache, in a folder of the commit, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import runs
from benchmarks.real_tasks import TASKS, files_of
from benchmarks.runs import Run, named

PAPER = "as in the paper"
TUNED = ("sst2", "cola")
_EVERYWHERE = ("--eval-every", "500", "--checkpoint-every", "500")
_WITHOUT, _FEWER_BITS = ("--dropout", "0"), ("--precision", "bfloat16")
_SHORT_FIRST = ("--phases", "32x128x600")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        recipes: options of a pre-training, by its name; PAPER is what the others are compared with.
        finetuning: options of what follows. seeds: of that.
    """

    recipes: Mapping[str, tuple[str, ...]]
    finetuning: tuple[str, ...]
    seeds: tuple[int, ...]


FULL = Size(
    recipes={
        PAPER: (*_EVERYWHERE, "--dropout", "0.1", "--steps", "3500"),
        "without dropout": (*_EVERYWHERE, *_WITHOUT, "--steps", "4000"),
        "without dropout, in bfloat16": (*_EVERYWHERE, *_WITHOUT, *_FEWER_BITS, "--steps", "5400"),
        "without dropout, short rows first": (*_EVERYWHERE, *_WITHOUT, *_SHORT_FIRST, "--steps", "4000"),
        "all of these, fewer steps": (*_EVERYWHERE, *_WITHOUT, *_FEWER_BITS, *_SHORT_FIRST, "--steps", "1500"),
    },
    finetuning=("--epochs", "3", "--learning-rate", "3e-4"),
    seeds=(1, 2, 3),
)


def measure(output: Path, data: Path | None = None, size: Size = FULL, work: Path | None = None) -> Iterator[dict]:
    """A result for each recipe: the seconds of its steps, what it scores on held-out text, and what its fine-tuned
    models score.

    Args:
        data: the folder of the labelled data. work: of the runs; None: one in the cache.
    """
    files = [file for task in TUNED for file in TASKS[task].files]
    return _measured(runs.with_files(data, files), size, runs.folder("time_to_quality", work))


def _measured(data: Path, size: Size, work: Path) -> Iterator[dict]:
    places = {data: "DATA", work: "WORK"}
    # One after the other, before what follows, so that their times are of one hour.
    for recipe, options in size.recipes.items():
        run = Run("ms_bert.pretrain", (), options, work / named(recipe), places)
        yield {"kind": "pretraining", "recipe": recipe, **run.done(), "held_out": run.held_out()}
    # By seeds first: so there is something to compare early.
    for seed, task, recipe in itertools.product(size.seeds, TUNED, size.recipes):
        train, dev = files_of(TASKS[task], data, work / task)
        line = [*TASKS[task].options, "--model", work / named(recipe), "--train", train, "--dev", dev]
        line += [*size.finetuning, "--seed", seed]
        run = Run("ms_bert.finetune", (), line, work / named(f"{recipe} {task} {seed}"), places)
        about = {"kind": "finetuning", "recipe": recipe, "task": task, "seed": seed}
        yield {**about, **run.done(), "metrics": run.metrics()}
