"""Pre-train a BERT in MindSpore: `python -m ms_bert.pretrain`, `--help` for the options."""

import sys

from ms_bert.config import BertConfig
from ms_bert.options import Options
from ms_bert.run.command import main

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

        training = options.training
        return kernels.operations(options.run.device, training.precision, training.kernels).description


if __name__ == "__main__":
    sys.exit(main(MindSpore(), "python -m ms_bert.pretrain", DESCRIPTION))
