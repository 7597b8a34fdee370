"""Pre-train a BERT in MindSpore: `python -m ms_bert.pretrain`, `--help` for the options."""

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from ms_bert.commands import pretraining
from ms_bert.config import BertConfig
from ms_bert.options import Options, PyTorchOptions
from ms_bert.tasks import Task

DESCRIPTION = """Pre-train a BERT in MindSpore graph mode, from text to a folder that transformers can load."""


@dataclasses.dataclass(frozen=True)
class MindSporeCommand(Options):
    """The options, without those that only PyTorch has."""

    pytorch: tyro.conf.Suppress[PyTorchOptions] = dataclasses.field(default_factory=PyTorchOptions)


class MindSpore:
    """MindSpore as the command's framework; it is imported when it is needed, not before."""

    name = "MindSpore"
    options = MindSporeCommand

    def check(self, options: Options) -> None:
        from ms_bert.device import use_device

        use_device(options.run.device, options.training.precision, options.training.recompute, options.run.threads)

    def trainer(self, config: BertConfig, options: Options, task: Task):
        from ms_bert.training.trainer import MindSporeTrainer

        graphs = options.text.cache / "graphs" if options.mindspore.graph_cache else None
        return MindSporeTrainer(config, options, task, graphs)

    def versions(self) -> dict[str, str]:
        import mindspore

        return {"mindspore": mindspore.__version__}

    def kernels(self, options: Options) -> str:
        from ms_bert import kernels

        device, precision = options.run.device, options.training.precision
        return kernels.operations(device, precision, options.mindspore.kernels).description


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return pretraining.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
