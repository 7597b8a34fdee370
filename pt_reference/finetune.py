"""Fine-tune a BERT on labelled data in PyTorch: `python -m pt_reference.finetune`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.commands import huge_pages

DESCRIPTION = """Fine-tune a BERT on labelled texts in PyTorch, from any checkpoint to a folder that predicts."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.finetune") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    from ms_bert.commands import finetuning
    from pt_reference.framework import PyTorch

    return finetuning.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    huge_pages.restart_with()
    sys.exit(main())
