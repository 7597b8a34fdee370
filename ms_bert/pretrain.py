"""Pre-train a BERT in MindSpore: `python -m ms_bert.pretrain`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.commands import huge_pages

DESCRIPTION = """Pre-train a BERT in MindSpore graph mode, from text to a folder that transformers can load."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    from ms_bert.commands import pretraining
    from ms_bert.framework import MindSpore

    return pretraining.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    huge_pages.restart_with()
    sys.exit(main())
