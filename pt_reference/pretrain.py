"""Pre-train a BERT in PyTorch: `python -m pt_reference.pretrain`, `--help` for the options."""

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from ms_bert.commands import pretraining
from ms_bert.config import BertConfig
from ms_bert.options import MindSporeOptions, Options
from ms_bert.tasks import Task

DESCRIPTION = """Pre-train a BERT in PyTorch, as ms_bert.pretrain does in MindSpore: same options, same run folder."""


@dataclasses.dataclass(frozen=True)
class PyTorchCommand(Options):
    """The options, without those that only MindSpore has."""

    mindspore: tyro.conf.Suppress[MindSporeOptions] = dataclasses.field(default_factory=MindSporeOptions)


class PyTorch:
    """PyTorch as the command's framework; it is imported when it is needed, not before."""

    name = "PyTorch"
    options = PyTorchCommand

    def check(self, options: Options) -> None:
        from pt_reference.device import use_device

        use_device(options.run.device, options.pytorch.compile, options.run.threads)

    def trainer(self, config: BertConfig, options: Options, task: Task):
        from pt_reference.training.trainer import TorchTrainer

        return TorchTrainer(config, options, task)

    def versions(self) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__}

    def kernels(self, options: Options) -> str:
        return "torch.compile" if options.pytorch.compile else "eager kernels"


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return pretraining.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
