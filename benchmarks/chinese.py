"""What does pre-training give a Chinese classifier: on books, with words masked whole, on its own texts too?

Chinese BERTs of one size, which differ in how they were pre-trained, are fine-tuned with several seeds to tell good
reviews of hotels from bad ones, from all labels and from a few; the last of them also on texts that are changed by its
own guesses, and by a model that was fine-tuned before (self-distillation).

The runs are kept in the cache, in a folder of the commit, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import runs
from benchmarks.runs import Run, named
from ms_bert.data import labelled
from ms_bert.data.files import write_atomically

CORPUS, REVIEWS = "corpus_zh/corpus.txt.xz", "chnsenticorp_htl/ChnSentiCorp_htl_all.csv"
TEXT, LABEL = "review", "label"
HELD_OUT = 10  # every tenth review is kept for the scores, and read by no model before
UNTRAINED, CHARACTERS, WORDS = "none", "books, characters masked", "books, words masked"
ON_REVIEWS = f"{WORDS}, then reviews"
# By its name, the options of a pre-training on the books.
ON_BOOKS = {
    UNTRAINED: (
        "--phases",
        "--steps",
        "1",
        "--learning-rate",
        "1e-12",
        "--warmup-steps",
        "0",
    ),  # as its weights were drawn
    CHARACTERS: (),
    WORDS: ("--masking", "whole-word", "--segmenter", "rjieba"),
}
MODELS = (*ON_BOOKS, ON_REVIEWS)
PLAIN, AUGMENTED, DISTILLED, FEW = "fine-tuned", "with augmentation", "self-distilled", "fine-tuned, few labels"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        books: options of the pre-training on books. reviews: of that on reviews. finetuning: of what follows. few: the
        same, of every `period`-th review. seeds: of what is fine-tuned.
    """

    books: tuple[str, ...]
    reviews: tuple[str, ...]
    finetuning: tuple[str, ...]
    few: tuple[str, ...]
    period: int
    seeds: tuple[int, ...]


FULL = Size(
    books=(
        *("--preset", "mini", "--steps", "3000", "--learning-rate", "1e-3", "--warmup-steps", "200"),
        *("--pack", "2", "--eval-every", "500", "--checkpoint-every", "250", "--sentences", "line"),
        *("--phases", "32x128x1500", "--dropout", "0", "--precision", "bfloat16"),
    ),
    reviews=(
        *("--steps", "300", "--learning-rate", "1e-4", "--warmup-steps", "30", "--checkpoint-every", "100"),
        *("--dropout", "0", "--precision", "bfloat16"),
    ),
    finetuning=("--epochs", "3", "--learning-rate", "1e-4", "--precision", "bfloat16"),
    few=("--epochs", "10", "--learning-rate", "1e-4", "--precision", "bfloat16"),
    period=14,  # 500 of 6,989
    seeds=(1, 2, 3),
)


def measure(output: Path, data: Path | None = None, size: Size = FULL, work: Path | None = None) -> Iterator[dict]:
    """A result for each model that was pre-trained, and each run that was fine-tuned.

    Args:
        data: the folder of the text and of the reviews. work: of the runs; None: one in the cache.
    """
    return _measured(runs.with_files(data, (CORPUS, REVIEWS)), size, runs.folder("chinese", work))


def _measured(data: Path, size: Size, work: Path) -> Iterator[dict]:
    train, dev, few, texts = _divided(data / REVIEWS, work, size.period)
    # One vocabulary, made from the books.
    of_books = ["--corpus", data / CORPUS, *size.books]
    of_reviews = ["--corpus", texts, "--documents", "line", "--no-nsp", "--init", work / named(WORDS)]
    pretrained = {name: [*of_books, *options] for name, options in ON_BOOKS.items()}
    pretrained[ON_REVIEWS] = [*of_reviews, *ON_BOOKS[WORDS], *size.reviews]
    places = {data: "DATA", work: "WORK"}
    for model, line in pretrained.items():
        run = Run("ms_bert.pretrain", (), line, work / named(model), places)
        about = {"kind": "pretraining", "model": model, **run.done()}
        yield {**about, "held_out_before": run.held_out(first=True), "held_out": run.held_out()}

    def finetuned(model: str, way: str, seed: int, more: Sequence = ()) -> dict:
        chosen, options = (few, size.few) if way == FEW else (train, size.finetuning)
        line = ["--task", "classification", "--columns", f"text={TEXT}", f"label={LABEL}", "--train", chosen]
        line += ["--dev", dev, "--model", work / named(model), *options, "--seed", seed, *more]
        run = Run("ms_bert.finetune", (), line, work / named(f"{model} {way} {seed}"), places)
        about = {"kind": "finetuning", "model": model, "way": way, "seed": seed}
        return {**about, **run.done(), "metrics": run.metrics()}

    # By seeds first: so there is something to compare early.
    for seed, model in itertools.product(size.seeds, MODELS):
        yield finetuned(model, PLAIN, seed)
    for seed in size.seeds:
        yield finetuned(ON_REVIEWS, AUGMENTED, seed, ("--augment", "guesses", "dropped", "swapped"))
        teacher = work / named(f"{ON_REVIEWS} {PLAIN} {seed}")
        yield finetuned(ON_REVIEWS, DISTILLED, seed, ("--teacher", teacher))
    for seed, model in itertools.product(size.seeds, MODELS):
        yield finetuned(model, FEW, seed)


def _divided(source: Path, work: Path, period: int) -> list[Path]:
    """Files of the reviews to train on, of the others, of a few of the first, and of the texts alone of the first, each
    in a line."""
    rows = [row.values for row in labelled.read(str(source))]
    parts = [[row for i, row in enumerate(rows) if (i % HELD_OUT == 0) is held] for held in (False, True)]
    parts.append(parts[0][::period])
    paths = [work / name for name in ("train.csv", "dev.csv", "few.csv", "texts.txt")]
    for path, part in zip(paths, parts):
        made = io.StringIO()
        table = csv.writer(made, lineterminator="\n")
        table.writerows([(TEXT, LABEL), *((row[TEXT], row[LABEL]) for row in part)])
        write_atomically(path, made.getvalue().encode())
    texts = (" ".join(row[TEXT].split()) for row in parts[0])
    write_atomically(paths[3], "".join(f"{text}\n" for text in texts if text).encode())
    return paths
