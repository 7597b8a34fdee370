"""Vectors of texts by a BERT in PyTorch: `python -m pt_reference.embed`, `--help` for the options.

from pt_reference.embed import load

embed = load("runs/base")
vectors = embed(["The file is closed.", "A tuple has no order."])  # (2, D) float32
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import embedding
from pt_reference.framework import PyTorch

DESCRIPTION = """Turn texts into vectors with a BERT in PyTorch."""


def load(path: str | Path, pooling: str | None = None, **options) -> embedding.Embedder:
    """A model as a function from texts to vectors; see `ms_bert.commands.embedding.Embedder` for the options."""
    return embedding.Embedder(path, PyTorch(), pooling, **options)


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.embed") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return embedding.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
