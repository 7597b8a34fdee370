"""Predict with a BERT in PyTorch: `python -m pt_reference.predict`, `--help` for the options.

from pt_reference.predict import load

classify = load("runs/sst2")
classify(["a visually stunning rumination on love"])
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import prediction
from pt_reference.framework import PyTorch

DESCRIPTION = """Predict with a BERT in PyTorch: the labels of a fine-tuned task, the words behind [MASK],
or whether a text follows another."""


def load(
    path: str | Path, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.Predictor:
    """A fine-tuned model as a function: a list of n texts, or of pairs (text, text2), -> a list of n answers.

    An answer is a dictionary, of a classifier {"label": str, "probabilities": {label: float}}; docs/fine_tuning.md has
    the fields of each task. It does not depend on the other texts. A text that is too long is truncated, and its answer
    has "truncated": True.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format.
        device: 'CPU', 'GPU' or 'Ascend'. precision: 'float32', 'float16' or 'bfloat16'.
        threads: to compute with; None: as many as the processor has.

    Raises:
        UserError: the checkpoint cannot be read, or lacks what this needs; the sentence says which.
    """
    return prediction.Predictor(path, PyTorch(), device, precision, threads)


def load_mask_filler(
    path: str | Path,
    top: int = 5,
    pieces: int = 1,
    candidates: Sequence[str] = (),
    device: str = "CPU",
    precision: str = "float32",
    threads: int | None = None,
) -> prediction.MaskFiller:
    """A pre-trained model as a function: a list of n texts with [MASK] -> a list of n answers.

    An answer is a dictionary: "text", with the best guesses in place, and "masks", for each [MASK] a list of
    {"token": str, "probability": float}, the best first.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format.
        top: guesses for each mask. pieces: also words of 2, 3, ... up to so many pieces. candidates: words to guess
            among; none: all.
        device: 'CPU', 'GPU' or 'Ascend'. precision: 'float32', 'float16' or 'bfloat16'.
        threads: to compute with; None: as many as the processor has.

    Raises:
        UserError: the checkpoint cannot be read, or lacks what this needs; the sentence says which.
    """
    return prediction.MaskFiller(path, PyTorch(), top, pieces, candidates, device, precision, threads)


def load_next_sentence(
    path: str | Path, device: str = "CPU", precision: str = "float32", threads: int | None = None
) -> prediction.NextSentence:
    """A pre-trained model as a function: a list of n pairs of texts -> a list of n answers, whether the second text
    follows the first: {"label": "next" or "not next", "probabilities": {label: float}}.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format.
        device: 'CPU', 'GPU' or 'Ascend'. precision: 'float32', 'float16' or 'bfloat16'.
        threads: to compute with; None: as many as the processor has.

    Raises:
        UserError: the checkpoint cannot be read, or lacks what this needs; the sentence says which.
    """
    return prediction.NextSentence(path, PyTorch(), device, precision, threads)


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.predict") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return prediction.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
