"""Pre-train a BERT in PyTorch: `python -m pt_reference.pretrain`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.commands import huge_pages

DESCRIPTION = """Pre-train a BERT in PyTorch, as ms_bert.pretrain does in MindSpore: same options, same run folder."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    from ms_bert.commands import pretraining
    from pt_reference.framework import PyTorch

    return pretraining.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    huge_pages.restart_with()
    sys.exit(main())
