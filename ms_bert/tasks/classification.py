"""Tasks on a text or a pair of texts: one label of several, a number, or any of several labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.data.packing import INPUTS, NUMBERS, WEIGHTS
from ms_bert.data.sequences import Sequences, encoded
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed, shown
from ms_bert.tasks import Curve, Metrics, Panel, Sums
from ms_bert.tasks.examples import Example
from ms_bert.tasks.metrics import METRICS


@dataclasses.dataclass(frozen=True)
class SentenceTask:
    """What the three have in common. See `ms_bert.tasks.Task`.

    Attributes:
        labels: their names, by id. measures: of `ms_bert.tasks.metrics`, the one that the best checkpoint has the
            highest of first. longest: tokens of a sequence. dataset: the name by which the user asked for the task.
    """

    labels: tuple[str, ...]
    measures: tuple[str, ...]
    longest: int = 128
    dataset: str = ""

    name: ClassVar[str]
    architecture: ClassVar[str] = "BertForSequenceClassification"
    problem_type: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = (*INPUTS, "labels", WEIGHTS)
    weights: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    sums: ClassVar[tuple[str, ...]] = ("loss", "correct", "count")
    count: ClassVar[str] = "count"

    @property
    def measure(self) -> str:
        return self.measures[0]

    def metrics(self, sums: Sums) -> Metrics:
        """loss and accuracy (0..1)."""
        return {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}

    def shown(self, metrics: Metrics) -> str:
        return f"loss {metrics['loss']:.3f} accuracy {metrics['accuracy']:.1%}"

    def evaluation(self) -> Scored:
        return Scored(self)

    def told(self, metrics: Metrics) -> str:
        return ", ".join((f"loss {metrics['loss']:.3f}", *(f"{name} {metrics[name]:.4f}" for name in self.measures)))

    def panels(self) -> tuple[Panel, ...]:
        return (
            Panel("Loss", "nats", (Curve("loss", "tab:blue"),)),
            *(Panel(name.replace("_", " ").capitalize(), "", (Curve(name, "tab:orange"),)) for name in self.measures),
        )

    def config(self) -> dict[str, Any]:
        """What the task sets in a model's config.json."""
        return {
            "id2label": {str(number): name for number, name in enumerate(self.labels)},
            "label2id": {name: number for number, name in enumerate(self.labels)},
            "problem_type": self.problem_type,
        }

    def remembered(self) -> dict[str, Any]:
        """What predictions need of a run's folder besides the model, as JSON."""
        return {
            "task": self.name,
            "dataset": self.dataset,
            "labels": list(self.labels),
            "measures": list(self.measures),
            "longest": self.longest,
        }

    @classmethod
    def from_remembered(cls, values: dict[str, Any]):
        """What `remembered` was made of."""
        return cls(tuple(values["labels"]), tuple(values["measures"]), values["longest"], values["dataset"])

    def sequences(self, examples: Sequence[Example], vocabulary: Vocabulary, labelled: bool = True) -> Sequences:
        """The examples as sequences, with their labels where they have some.

        Raises:
            UserError: a label is not among the task's.
        """
        made = encoded([example.texts for example in examples], vocabulary, self.longest)
        if labelled:
            made.of_sequences["labels"] = self.targets(examples)
        return made

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """The labels as the loss takes them, (n,) or (n, C)."""
        raise NotImplementedError

    def weights_of(self, sequences: Sequences) -> np.ndarray:
        """The weight of each sequence (n,) float32 with which all labels weigh alike: n / (C * number of its label).

        Raises:
            UserError: a sequence has not one label of several.
        """
        raise UserError(f"--class-weights balanced is for classification, not for {self.name}; leave it out.")

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """What the metrics compare with the labels, of logits (n, C)."""
        raise NotImplementedError

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """What is told of each text, as JSON, of logits (n, C) float32."""
        raise NotImplementedError

    def gold(self, example: Example) -> Any:
        """An example's label as `answers` gives it."""
        return example.label

    def _number(self, name: str, place: str) -> int:
        try:
            return self.labels.index(name)
        except ValueError:
            raise UserError(
                f"{place}: the label {shown(name)} is none of {listed(self.labels)}; correct it, or train on data that "
                "has it."
            ) from None


@dataclasses.dataclass(frozen=True)
class Classification(SentenceTask):
    """One of several labels."""

    name: ClassVar[str] = "classification"
    problem_type: ClassVar[str] = "single_label_classification"

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(n,) int32."""
        numbers = {name: number for number, name in enumerate(self.labels)}
        found = [
            numbers[e.label] if e.label in numbers else self._number(e.label, e.place)  # type: ignore[arg-type]
            for e in examples
        ]
        return np.array(found, np.int32)

    def weights_of(self, sequences: Sequences) -> np.ndarray:
        labels = sequences.of_sequences["labels"]
        counts = np.bincount(labels, minlength=len(self.labels))
        return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """(n,) int64."""
        return logits.argmax(1)

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """label, and the probabilities by label."""
        rows = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        rows /= rows.sum(1, keepdims=True)
        return [
            {"label": self.labels[int(best)], "probabilities": dict(zip(self.labels, map(float, row)))}
            for row, best in zip(rows, self.guesses(logits))
        ]


@dataclasses.dataclass(frozen=True)
class Regression(SentenceTask):
    """A number."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[str] = "regression"

    def config(self) -> dict[str, Any]:
        """One output, which Hugging Face calls a label."""
        return {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": self.problem_type}

    def metrics(self, sums: Sums) -> Metrics:
        """loss: the mean squared error."""
        return {"loss": sums["loss"] / sums["count"]}

    def shown(self, metrics: Metrics) -> str:
        return f"loss {metrics['loss']:.3f}"

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(n,) float32."""
        return np.array([example.label for example in examples], np.float32)

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """(n,) float64."""
        return logits[:, 0].astype(np.float64)

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """value."""
        return [{"value": float(value)} for value in logits[:, 0]]


@dataclasses.dataclass(frozen=True)
class MultiLabel(SentenceTask):
    """Any of several labels, each by itself."""

    name: ClassVar[str] = "multi-label"
    problem_type: ClassVar[str] = "multi_label_classification"

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(n, C) float32, 0 or 1."""
        made = np.zeros((len(examples), len(self.labels)), np.float32)
        for row, example in zip(made, examples):
            for name in example.label:  # type: ignore[union-attr]
                row[self._number(name, example.place)] = 1.0
        return made

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """(n, C) bool."""
        return logits > 0.0

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """labels, those of a probability over a half, and the probabilities by label."""
        rows = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return [
            {
                "labels": [name for name, holds in zip(self.labels, held) if holds],
                "probabilities": dict(zip(self.labels, map(float, row))),
            }
            for row, held in zip(rows, self.guesses(logits))
        ]

    def gold(self, example: Example) -> list[str]:
        return list(example.label)  # type: ignore[arg-type]


class Scored:
    """The evaluation of these tasks: its metrics are those of all sequences together, not means over batches.

    Attributes:
        logits: (n, C) of the sequences seen so far, in their order.
    """

    def __init__(self, task: SentenceTask):
        self.task = task
        self._sums: Sums = {}
        self._numbers: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []

    def add(self, batch: Batch, sums: Sums, outputs: tuple[np.ndarray, ...]) -> None:
        there = batch[WEIGHTS] > 0
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in sums.items()}
        self._numbers.append(batch[NUMBERS][there])
        self._labels.append(batch["labels"][there])
        self._logits.append(outputs[0][there])

    @property
    def logits(self) -> np.ndarray:
        return np.concatenate(self._logits)[np.argsort(np.concatenate(self._numbers))]

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate(self._labels)[np.argsort(np.concatenate(self._numbers))]

    def metrics(self) -> Metrics:
        """loss, and the task's measures."""
        labels, guesses = self.labels, self.task.guesses(self.logits)
        measured = {name: METRICS[name](labels, guesses) for name in self.task.measures}
        return {"loss": self.task.metrics(self._sums)["loss"], **measured}


TASKS: dict[str, type[SentenceTask]] = {kind.name: kind for kind in (Classification, Regression, MultiLabel)}
