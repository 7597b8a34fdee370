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

DESCRIPTION = """Predict with a BERT in MindSpore: the labels of a fine-tuned task, or the words behind [MASK]."""


def load(
    path: str | Path, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.Predictor:
    """A fine-tuned model as a function of texts; see `ms_bert.commands.prediction.Predictor`."""
    return prediction.Predictor(path, MindSpore(), device, precision, threads)


def load_mask_filler(
    path: str | Path, top: int = 5, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.MaskFiller:
    """A pre-trained model as a function of texts with [MASK]; see `ms_bert.commands.prediction.MaskFiller`."""
    return prediction.MaskFiller(path, MindSpore(), top, device, precision, threads)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.predict") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return prediction.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
