"""Vectors of texts by a BERT in MindSpore: `python -m ms_bert.embed`, `--help` for the options.

from ms_bert.embed import load

embed = load("runs/base")
vectors = embed(["The file is closed.", "A tuple has no order."])  # (2, D) float32
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ms_bert.commands import embedding
from ms_bert.framework import MindSpore

DESCRIPTION = """Turn texts into vectors with a BERT in MindSpore."""


def load(path: str | Path, pooling: str | None = None, **options) -> embedding.Embedder:
    """A model as a function: a list of n texts -> their vectors, (n, D) float32, or with the pooling 'tokens' a list of
    n arrays (tokens, D).

    Args:
        path: the folder of a run, of Hugging Face or of sentence-transformers, or a checkpoint of any format.
        pooling: 'mean', 'cls', 'max', 'mean-max', 'pooler' or 'tokens'; None: what the folder says, or else 'mean'.
        options: layers, special_tokens, normalize, prompt, longest, device, precision and threads, as the options of
            the command; see `ms_bert.commands.embedding.Embedder`.

    Raises:
        UserError: the checkpoint cannot be read, or cannot give such vectors; the sentence says why.
    """
    return embedding.Embedder(path, MindSpore(), pooling, **options)


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.embed") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return embedding.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
