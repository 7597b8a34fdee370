"""Pre-train a BERT in PyTorch: `python -m pt_reference.pretrain`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.config import BertConfig
from ms_bert.options import Options
from ms_bert.run import command

DESCRIPTION = """Pre-train a BERT in PyTorch, as ms_bert.pretrain does in MindSpore: same options, same run folder."""


class PyTorch:
    """PyTorch as the command's framework; it is imported when it is needed, not before."""

    name = "PyTorch"

    def check(self, options: Options) -> None:
        from pt_reference.device import use_device

        use_device(options.run.device, options.training.compile, options.run.threads)

    def trainer(self, config: BertConfig, options: Options):
        from pt_reference.training.trainer import TorchTrainer

        return TorchTrainer(config, options)

    def versions(self) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__}

    def kernels(self, options: Options) -> str:
        return "torch.compile" if options.training.compile else "eager kernels"


def main(arguments: Sequence[str] | None = None, program: str = "python -m pt_reference.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return command.main(PyTorch(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
