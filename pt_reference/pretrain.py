"""Pre-train a BERT in PyTorch: `python -m pt_reference.pretrain`, `--help` for the options."""

import sys

from ms_bert.config import BertConfig
from ms_bert.options import Options
from ms_bert.run.command import main

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


if __name__ == "__main__":
    sys.exit(main(PyTorch(), "python -m pt_reference.pretrain", DESCRIPTION))
