"""What the commands need of a framework, whichever it is."""

from __future__ import annotations

from typing import Protocol

from ms_bert.config import BertConfig
from ms_bert.options import TrainerOptions
from ms_bert.run.loop import Trainer
from ms_bert.tasks import Task


class Framework(Protocol):
    """What the commands need of a framework.

    Attributes:
        name: in run.json. without: the group of options that it does not have.
    """

    name: str
    without: str

    def check(self, options: TrainerOptions) -> None:
        """Raise UserError unless the framework and the device are there and can do what is asked."""

    def trainer(self, config: BertConfig, options: TrainerOptions, task: Task) -> Trainer:
        """A freshly initialised trainer."""

    def versions(self) -> dict[str, str]:
        """Of the framework."""

    def kernels(self, options: TrainerOptions) -> str:
        """What computes the operations, in words that stand after "by"."""
