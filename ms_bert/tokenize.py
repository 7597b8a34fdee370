"""Make the token store of a corpus: `python -m ms_bert.tokenize`, `--help` for the options.

No framework is needed. A run of either finds the store in the cache, and does not make it again.
"""

import sys
from collections.abc import Sequence

DESCRIPTION = """Turn a corpus into a token store, ahead of a run that pre-trains on it; on one machine or several."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.tokenize") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    from ms_bert.commands import tokenization

    return tokenization.main(program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
