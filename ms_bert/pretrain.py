"""Pre-train a BERT in MindSpore: `python -m ms_bert.pretrain`, `--help` for the options."""

import sys
from collections.abc import Sequence

from ms_bert.config import BertConfig
from ms_bert.options import Options
from ms_bert.run import command

DESCRIPTION = """Pre-train a BERT in MindSpore graph mode, from text to a folder that transformers can load."""


class MindSpore:
    """MindSpore as the command's framework; it is imported when it is needed, not before."""

    name = "MindSpore"

    def check(self, options: Options) -> None:
        from ms_bert.device import use_device

        use_device(options.run.device, options.training.precision, options.training.recompute, options.run.threads)

    def trainer(self, config: BertConfig, options: Options):
        from ms_bert.training.trainer import MindSporeTrainer

        graphs = options.text.cache / "graphs" if options.run.graph_cache else None
        return MindSporeTrainer(config, options, graphs)

    def versions(self) -> dict[str, str]:
        import mindspore

        return {"mindspore": mindspore.__version__}

    def kernels(self, options: Options) -> str:
        from ms_bert import kernels
        from ms_bert.kernels import native

        device, precision = options.run.device, options.training.precision
        if options.training.kernels == "stock" or not kernels.fusible(device, precision):
            own = kernels.attention(device, precision) is not kernels.stock.attention
            return "stock kernels, its fused attention among them" if own else "stock kernels"
        if native.why_not():
            return f"stock kernels (not by the faster fused ones: {native.why_not()})"
        return f"fused kernels ({native.instructions()})"


def main(arguments: Sequence[str] | None = None, program: str = "python -m ms_bert.pretrain") -> int:
    """Run the command with its arguments, by default those of the process; returns the exit code."""
    return command.main(MindSpore(), program, DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
