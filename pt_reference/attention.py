"""Attention of a BERT in PyTorch: `python -m pt_reference.attention`, `--help` for the options.

from pt_reference.attention import load

(found,) = load("runs/base")(["The file is closed."])
found["attention"]  # (L, heads, S, S) float32
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import attention
from pt_reference.framework import PyTorch

DESCRIPTION = """Show how much each token of a text attends to each other one, with a BERT in PyTorch."""


def load(path: str | Path, device: str = "CPU", threads: int | None = None) -> attention.Attention:
    """A model as a function: a list of n texts or pairs -> for each "tokens", a list of S strings, and "attention",
    (layers, heads, S, S) float32: how much the token of a row attends to that of a column.

    Args:
        path: the folder of a run, one of Hugging Face, or a checkpoint of any format.
        device: 'CPU', 'GPU' or 'Ascend'. threads: to compute with; None: as many as the processor has.

    Raises:
        UserError: the checkpoint cannot be read; the sentence says why.
    """
    return attention.Attention(path, PyTorch(), device, threads)


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.attention") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return attention.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
