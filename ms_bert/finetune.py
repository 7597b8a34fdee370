"""Fine-tune a BERT on labelled data in MindSpore: `python -m ms_bert.finetune`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.commands import huge_pages

DESCRIPTION = """Fine-tune a BERT on labelled texts in MindSpore, from any checkpoint to a folder that predicts."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.finetune") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    from ms_bert.commands import finetuning
    from ms_bert.framework import MindSpore

    return finetuning.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    huge_pages.restart_with()
    sys.exit(main())
