"""The console command: `ms-bert COMMAND ...`, or `python -m ms_bert COMMAND ...`; `ms-bert --help` lists the commands.

The framework is part of a command's name and no option of it, because each framework has options that the other lacks.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Sequence

from ms_bert import __version__
from ms_bert.commands import huge_pages
from ms_bert.errors import shown

PROGRAM = "ms-bert"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of ms-bert.

    Attributes:
        module: its `main(arguments, program)` runs the command; it is imported when the command is called, not before.
        help: what it does. one_of_many: `main` runs several commands, and takes the command's name before its options.
        trains: it is faster with huge pages.
    """

    module: str
    help: str
    one_of_many: bool = False
    trains: bool = False

    def run(self, name: str, arguments: Sequence[str]) -> int:
        main = importlib.import_module(self.module).main
        if self.one_of_many:
            return main([name, *arguments], program=PROGRAM)
        return main(arguments, program=f"{PROGRAM} {name}")


COMMANDS = {
    "pretrain": Command("ms_bert.pretrain", "train a BERT from text in MindSpore", trains=True),
    "pretrain-torch": Command(
        "pt_reference.pretrain", "the same in PyTorch: same options, batches and run folder", trains=True
    ),
    "finetune": Command("ms_bert.finetune", "fine-tune a BERT on labelled texts in MindSpore", trains=True),
    "finetune-torch": Command("pt_reference.finetune", "the same in PyTorch", trains=True),
    "tokenize": Command("ms_bert.tokenize", "make the token store of a corpus, on one machine or several"),
    "predict": Command("ms_bert.predict", "predict with a fine-tuned BERT in MindSpore"),
    "predict-torch": Command("pt_reference.predict", "the same in PyTorch"),
    "embed": Command("ms_bert.embed", "turn texts into vectors with a BERT in MindSpore"),
    "embed-torch": Command("pt_reference.embed", "the same in PyTorch"),
    "similarity": Command("ms_bert.similarity", "say how alike texts are, with a BERT in MindSpore"),
    "similarity-torch": Command("pt_reference.similarity", "the same in PyTorch"),
    "attention": Command("ms_bert.attention", "show what tokens attend to, with a BERT in MindSpore"),
    "attention-torch": Command("pt_reference.attention", "the same in PyTorch"),
    "convert": Command("conversion.__main__", "write a checkpoint in another format, without loss", one_of_many=True),
    "inspect": Command("conversion.__main__", "print what a checkpoint holds", one_of_many=True),
    "diff": Command("conversion.__main__", "compare two checkpoints tensor by tensor", one_of_many=True),
    "verify": Command(
        "conversion.__main__", "run two checkpoints and say whether they compute the same", one_of_many=True
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        print(_help(), file=sys.stderr)
        return 2
    name, rest = given[0], given[1:]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(COMMANDS)}."
        print(f"{PROGRAM}: there is no command {shown(name)}; {meant}", file=sys.stderr)
        return 2
    if arguments is None and COMMANDS[name].trains:
        huge_pages.restart_with()
    return COMMANDS[name].run(name, rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {PROGRAM} [--help] [--version] COMMAND ...\n",
            "Train, convert and compare BERTs in MindSpore and PyTorch.\n",
            *(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()),
            f"\n{PROGRAM} COMMAND --help shows the options of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
