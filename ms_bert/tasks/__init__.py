"""What a model is trained for and asked: the seam between a run, which knows no task, and a task, which knows no run.

A task says which arrays a batch has and which sums a step gives, what both mean, and how they are shown and drawn. Its
loss is written once for each framework (`ms_bert.training.trainer`, `pt_reference.training.trainer`). No framework is
imported here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ms_bert.data.batches import Batch

Sums = dict[str, float]
Metrics = dict[str, float]


class Batches(Protocol):
    """Makes the batch of any step: a pure function of the data, the options, the seed and the step.

    With `part(step, number, count)` besides it makes one of `count` equal parts of the rows of a batch, which saves
    workers the time for those of others.
    """

    def __call__(self, step: int) -> Batch:
        """The arrays of the task's fields, of few shapes."""

    def samples(self, step: int = 0) -> Sequence[Batch]:
        """A batch of each shape that comes from a step on, for which a graph is compiled."""


class HeldOut(Protocol):
    """Batches of one shape that a model is evaluated on; what does not count has weight 0."""

    def __len__(self) -> int:
        """How many there are."""

    def __call__(self, number: int) -> Batch:
        """The arrays of the task's fields."""


class Evaluation(Protocol):
    """Collects what a model makes of batch after batch, also for metrics that do not add up, such as F1."""

    def add(self, batch: Batch, sums: Sums, outputs: tuple[np.ndarray, ...]) -> None:
        """One more batch; rows whose weights are 0 do not count. outputs: what the task's loss gives besides its sums,
        each array with the batch's rows first."""

    def metrics(self) -> Metrics:
        """Of all batches so far, by name: numbers that json holds."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric that is drawn over the steps, of training and, where there is one, of held-out data.

    Attributes:
        metric: its name. color: of matplotlib. name: where a panel has several.
    """

    metric: str
    color: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One of the diagrams of curves.png.

    Attributes:
        title, unit: what stands above it and beside it. line: a value to compare with, and what it is.
        limits: of the unit's axis; None: as the curves need.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    line: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None


class Task(Protocol):
    """What a model is trained for.

    Attributes:
        name: in run.json and on the progress bar. architecture: the class of Hugging Face, for config.json.
        fields: the arrays of a batch, in the order in which the loss takes them.
        weights: those fields that weigh the losses. A step's losses are divided by their sums over the whole step.
        sums: what a step or an evaluation gives, sums over the batch, so that they can be added up; in the order in
            which the loss gives them. count: the one of them that no step leaves at 0.
        measure: of the metrics of an evaluation, the one whose highest value makes the best checkpoint, which is then
            the model of the run; None: the newest is.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    weights: ClassVar[tuple[str, ...]]
    sums: ClassVar[tuple[str, ...]]
    count: ClassVar[str]

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def measure(self) -> str | None: ...

    def metrics(self, sums: Sums) -> Metrics:
        """Of training, from the sums of some steps; the first is the loss."""

    def shown(self, metrics: Metrics) -> str:
        """The metrics of training, in a few words for the progress bar."""

    def evaluation(self, held_out: Any) -> Evaluation:
        """A new one, of nothing yet, for these batches."""

    def told(self, metrics: Metrics) -> str:
        """The metrics of an evaluation, in a line."""

    def panels(self) -> tuple[Panel, ...]:
        """What curves.png draws of the metrics; throughput and learning rate have a panel of their own."""


class Added:
    """The evaluation of a task whose metrics follow from its sums alone."""

    def __init__(self, metrics: Callable[[Sums], Metrics]):
        self._metrics = metrics
        self._sums: Sums = {}

    def add(self, batch: Batch, sums: Sums, outputs: tuple[np.ndarray, ...]) -> None:
        self._sums = {name: self._sums.get(name, 0) + value for name, value in sums.items()}

    def metrics(self) -> Metrics:
        return self._metrics(self._sums)
