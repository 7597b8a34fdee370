"""Predict with a BERT in MindSpore: `python -m ms_bert.predict`, `--help` for the options.

from ms_bert.predict import load

classify = load("runs/sst2")
classify(["a visually stunning rumination on love"])
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import prediction
from ms_bert.framework import MindSpore

DESCRIPTION = """Predict with a BERT in MindSpore: the labels of a fine-tuned task, the words behind [MASK],
or whether a text follows another."""


def load(
    path: str | Path, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.Predictor:
    """A fine-tuned model as a function of texts; see `ms_bert.commands.prediction.Predictor`."""
    return prediction.Predictor(path, MindSpore(), device, precision, threads)


def load_mask_filler(
    path: str | Path,
    top: int = 5,
    pieces: int = 1,
    candidates: Sequence[str] = (),
    device: str = "CPU",
    precision: str = "float32",
    threads: int | None = None,
) -> prediction.MaskFiller:
    """A pre-trained model as a function of texts with [MASK]; see `ms_bert.commands.prediction.MaskFiller`."""
    return prediction.MaskFiller(path, MindSpore(), top, pieces, candidates, device, precision, threads)


def load_next_sentence(
    path: str | Path, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.NextSentence:
    """A pre-trained model as a function of pairs of texts; see `ms_bert.commands.prediction.NextSentence`."""
    return prediction.NextSentence(path, MindSpore(), device, precision, threads)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.predict") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return prediction.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
