"""Similarity of texts by a BERT in MindSpore: `python -m ms_bert.similarity`, `--help` for the options.

from ms_bert.similarity import load

similarity = load("runs/base")
similarity(["The file is closed."], ["The file was shut.", "A tuple has no order."])  # (1, 2) float32
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import similarity
from ms_bert.framework import MindSpore

DESCRIPTION = """Say how alike texts are, by the cosines of their vectors, with a BERT in MindSpore."""


def load(path: str | Path, pooling: str | None = None, **options) -> similarity.Similarity:
    """A model as a function: n texts and m others -> the cosines of their vectors, (n, m) float32, from -1 to 1.

    Its method `pairs` takes a list of n pairs -> (n,) float32.

    Args:
        path, pooling, options: as `load` of the module `embed` takes them; the pooling 'tokens' is refused.

    Raises:
        UserError: the checkpoint cannot be read, or cannot give such vectors; the sentence says why.
    """
    return similarity.Similarity(path, MindSpore(), pooling=pooling, **options)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.similarity") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return similarity.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
