"""What the commands need of a framework, whichever it is."""

from __future__ import annotations

from typing import Protocol

from ms_bert.config import BertConfig
from ms_bert.options import Options
from ms_bert.run.loop import Trainer


class Framework(Protocol):
    """What the command needs of a framework."""

    name: str

    def check(self, options: Options) -> None:
        """Raise UserError unless the device is there and can do what is asked."""

    def trainer(self, config: BertConfig, options: Options) -> Trainer:
        """A freshly initialised trainer."""

    def versions(self) -> dict[str, str]:
        """Of the framework."""

    def kernels(self, options: Options) -> str:
        """What computes the operations, in words that stand after "by"."""
