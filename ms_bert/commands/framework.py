"""What the commands need of a framework, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np

from conversion.pretrained import Pretrained
from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.data.sequences import Sequences
from ms_bert.options import TrainerOptions
from ms_bert.run.loop import Trainer
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Task


class Compute(Protocol):
    """A model for inference."""

    def __call__(self, batch: Batch) -> np.ndarray:
        """The logits of the sequences of a batch (B * N, C), or of its tokens (B, S, C), float32."""

    def logits(self, sequences: Sequences, per_token: bool) -> np.ndarray:
        """(n, C) float32 of n sequences, or (T, C) of their tokens; of each the same whatever the others are."""


class Framework(Protocol):
    """What the commands need of a framework.

    Attributes:
        name: in run.json. package: that has its commands. without: the group of options that it does not have.
    """

    name: str
    package: str
    without: str

    def check(self, options: TrainerOptions) -> None:
        """Raise UserError unless the framework and the device are there and can do what is asked."""

    def environments(self, count: int) -> list[dict[str, str]]:
        """The environment variables of so many workers on this machine, in the order of their ranks, and of what else
        is to be started for them."""

    def rounds_by_threads(self, options: TrainerOptions) -> bool:
        """Whether the bytes of a run depend on the number of threads, which it must remember then."""

    def shares(self) -> bool:
        """Whether this process is one of several workers, as its environment says."""

    def scheduled(self, options: TrainerOptions) -> bool:
        """Whether this process is the scheduler of MindSpore's workers, which computes nothing; they are done then."""

    def workers(self, options: TrainerOptions) -> Workers:
        """Those that this process is one of, as its environment says; it has met the others then."""

    def check_rows(self, options: TrainerOptions, config: BertConfig, lengths: Collection[int]) -> None:
        """Raise UserError unless the device can compute rows of so many tokens."""

    def trainer(self, config: BertConfig, options: TrainerOptions, task: Task, workers: Workers = ALONE) -> Trainer:
        """A freshly initialised trainer."""

    def versions(self) -> dict[str, str]:
        """Of the framework."""

    def compute(
        self,
        architecture: str,
        found: Pretrained,
        device: str,
        precision: str,
        threads: int | None,
        fields: tuple[str, ...],
        arguments: Mapping[str, Any],
    ) -> Compute:
        """The model of a checkpoint for inference, a function of these fields of a batch.

        Args:
            arguments: of its class, besides config and numerics.
        """

    def attention(
        self, found: Pretrained, device: str, threads: int | None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """The model of a checkpoint as a function of a sequence's ids and token types, both (S,) int32, to the
        attention probabilities of all layers (L, heads, S, S), float32."""

    def kernels(self, options: TrainerOptions) -> str:
        """What computes the operations, in words that stand after "by"."""
