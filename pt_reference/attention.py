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
    """A model as a function from texts to their attention; see `ms_bert.commands.attention.Attention`."""
    return attention.Attention(path, PyTorch(), device, threads)


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.attention") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return attention.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
