"""What all tasks have in common that a pre-trained model is fine-tuned for and asked: from a file to an answer.

`DownstreamTask` says what the commands need of such a task besides `ms_bert.tasks.Task`. The tasks are the modules
beside this one; `ms_bert.tasks.registry` knows them by name.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data.batches import Batch
from ms_bert.data.labelled import nul_byte
from ms_bert.data.packing import INPUTS, WEIGHTS, EvaluationBatches, Unpacked
from ms_bert.data.reading import endings, open_bytes, told_to_the_user
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed, not_utf8, shown
from ms_bert.prediction_options import AskOptions, PredictOptions
from ms_bert.tasks import Curve, Metrics, Panel, Sums
from ms_bert.tasks.distillation import Distillation
from ms_bert.tasks.examples import named_columns
from ms_bert.tasks.pictures import Drawing

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions


@dataclasses.dataclass(frozen=True)
class Read:
    """Labelled examples of a file or dataset.

    Attributes:
        examples: of the task's own kind, in the order of the file. skipped: what was left out, by reason.
        told: how the file was understood, in a line; empty: there is nothing to say.
    """

    examples: list[Any]
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    told: str = ""


@dataclasses.dataclass(frozen=True)
class DownstreamTask:
    """A task that a model is fine-tuned for. See `ms_bert.tasks.Task` for what the loop needs of it.

    Attributes:
        labels: their names, by id; none where there are no classes. measures: names of its scores, of which the first
            has its highest value at the best checkpoint. longest: tokens of a sequence. dataset: the name by which the
            user asked for the task. columns: that --columns named for the training data, without that of the labels;
            files to predict about are read by them, too. distillation: how it learns from a teacher; None: it has none.
        per_token: whether a model gives logits (T, C) of tokens, or (n, C) of sequences. labels_tokens: whether what is
            learned is of tokens, not of whole sequences. learned: fields of a batch that the loss takes without a
            teacher. usual_longest: where the user does not say. together: whether the loss takes all sequences of an
            example at once, so that they must lie in one batch; --batch-size counts examples then. augmented: whether
            words of its texts may be others in each epoch (--augment): a label is of a whole sequence, and each
            sequence is judged by itself.
    """

    labels: tuple[str, ...]
    measures: tuple[str, ...]
    longest: int = 128
    dataset: str = ""
    columns: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    distillation: Distillation | None = dataclasses.field(default=None, kw_only=True)

    name: ClassVar[str]
    architecture: ClassVar[str]
    per_token: ClassVar[bool] = False
    labels_tokens: ClassVar[bool] = False
    usual_longest: ClassVar[int] = 128
    label_roles: ClassVar[tuple[str, ...]] = ("label",)  # those of --columns that are of no use for predictions
    together: ClassVar[bool] = False
    augmented: ClassVar[bool] = False
    learned: ClassVar[tuple[str, ...]] = (*INPUTS, "labels", WEIGHTS)
    weights: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    sums: ClassVar[tuple[str, ...]] = ("loss", "correct", "count")
    count: ClassVar[str] = "count"

    # What a run takes and shows

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.learned, *(() if self.distillation is None else self.distillation.fields))

    @property
    def measure(self) -> str:
        return self.measures[0]

    def metrics(self, sums: Sums) -> Metrics:
        """loss and accuracy (0..1)."""
        return {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}

    def shown(self, metrics: Metrics) -> str:
        return f"loss {metrics['loss']:.3f} accuracy {metrics['accuracy']:.1%}"

    def evaluation(self, held_out: EvaluationBatches) -> Collected:
        return Collected(self, held_out.sequences)

    def told(self, metrics: Metrics) -> str:
        return ", ".join((f"loss {metrics['loss']:.3f}", *(f"{name} {metrics[name]:.4f}" for name in self.measures)))

    def panels(self) -> tuple[Panel, ...]:
        return (
            Panel("Loss", "nats", (Curve("loss", "tab:blue"),)),
            *(Panel(name.replace("_", " ").capitalize(), "", (Curve(name, "tab:orange"),)) for name in self.measures),
        )

    # What a folder remembers

    def config(self) -> dict[str, Any]:
        """What the task sets in a model's config.json."""
        if not self.labels:
            return {}
        return {
            "id2label": {str(number): name for number, name in enumerate(self.labels)},
            "label2id": {name: number for number, name in enumerate(self.labels)},
        }

    def remembered(self) -> dict[str, Any]:
        """What predictions need of a run's folder besides the model, as JSON."""
        values = {"task": self.name, **dataclasses.asdict(self)}
        return {name: value for name, value in values.items() if name != "distillation"}

    @classmethod
    def from_remembered(cls, values: dict[str, Any]):
        """What `remembered` was made of."""
        own = {name: value for name, value in values.items() if name != "task"}
        lists: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in own.items()}
        return cls(**lists)

    # Training data

    @classmethod
    def input_columns(cls, data: DataOptions) -> tuple[str, ...]:
        """What --columns names and is read for predictions, too."""
        named = named_columns(data.columns)
        return tuple(f"{role}={name}" for role, name in named.items() if role not in cls.label_roles)

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        """The labelled examples of a file, or of a split of a dataset of the hub.

        Raises:
            UserError: it cannot be read, or holds no examples of the task.
        """
        raise NotImplementedError

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Any]):
        """The task of these training data.

        Raises:
            UserError: their labels do not make a task.
        """
        raise NotImplementedError

    def with_options(self, data: DataOptions):
        """The task with the options that were given in place of its own: how long texts are, and what is scored.

        Raises:
            UserError: they do not fit together.
        """
        return self if data.longest is None else dataclasses.replace(self, longest=data.longest)

    def sequences(self, examples: Sequence[Any], vocabulary: Vocabulary, labelled: bool = True) -> Sequences:
        """The examples as sequences; if labelled, with the targets that the loss takes.

        Raises:
            UserError: a label is not among the task's.
        """
        raise NotImplementedError

    def renamed(self, labels: Sequence[str]):
        """The task with other names for its labels."""
        return dataclasses.replace(self, labels=tuple(labels))

    def names_of(self, example: Any) -> set[str]:
        """The names of the labels of an example, each of which must be learned of some; none of numbers."""
        return set()

    def passage(self, example: Any) -> Any:
        """What an example is about, if others may be about it too; empty: it stands alone.

        Examples about one passage are trained on together or kept out together.
        """
        return ""

    def check_scored(self, examples: Sequence[Any]) -> None:
        """Raise UserError if no scores can be had of these examples."""

    def weights_of(self, sequences: Sequences) -> np.ndarray:
        """The weight of each sequence (n,) float32 with which all labels weigh alike: n / (C * number of its label).

        Raises:
            UserError: a sequence has not one label of several.
        """
        raise UserError(
            f"--class-weights balanced is for classification and answer selection, not for {self.name}; leave it out."
        )

    # Scores, of logits (n, C) of sequences or (T, C) of tokens, float32

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        """The measures, of all labelled sequences together, and what else is worth a line of metrics.jsonl."""
        raise NotImplementedError

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of each measure the 95% interval, for other examples of the same kind."""
        raise NotImplementedError

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """What results.json tells besides, such as the scores of each label, as JSON."""
        return {}

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        """What evaluation.png shows."""
        return []

    def tuned(self, sequences: Sequences, logits: np.ndarray):
        """The task with what is chosen on development data, such as a threshold."""
        return self

    def learned_of(self, sequences: Sequences) -> dict[str, np.ndarray]:
        """What is learned of what is labelled, sequences or tokens, by field of a batch."""
        return sequences.of_tokens if self.labels_tokens else sequences.of_sequences

    def pooled(self, sequences: Sequences, logits: np.ndarray) -> np.ndarray:
        """The logits of what is labelled, sequences (n, C) or tokens (T, C), of those that a model gives."""
        return logits

    # Answers

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        """What is told of each example, as JSON."""
        raise NotImplementedError

    def gold(self, example: Any) -> Any:
        """An example's label as `answers` gives it."""
        raise NotImplementedError

    def inputs(self, example: Any) -> dict[str, Any]:
        """What an example was asked about, as JSON, to stand beside its answer."""
        raise NotImplementedError

    def plain(self, example: Any, answer: dict[str, Any]) -> str:
        """Example and answer in a line, for the terminal."""
        raise NotImplementedError

    def table(self, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """The rows of a csv file, the header first."""
        raise NotImplementedError

    def asked(self, options: PredictOptions) -> list[Any]:
        """The examples, without labels, that the command line gives, or the file that it names, or a pipe.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        raise NotImplementedError

    def example(self, given: Any) -> Any:
        """An example without a label, of what a caller in Python gives.

        Raises:
            UserError: it is nothing that the task can be asked about.
        """
        raise NotImplementedError

    def showing(self, top: int):
        """The task that tells so many of the best answers, where it tells several."""
        return self

    # For the tasks

    def by_columns(self, options: PredictOptions) -> PredictOptions:
        """The options with the columns that they name, or else those that were named in training."""
        return dataclasses.replace(options, columns=options.columns or self.columns)

    def _number(self, name: str, place: str) -> int:
        """The id of a label."""
        try:
            return self.labels.index(name)
        except ValueError:
            raise UserError(
                f"{place}: the label {shown(name)} is none of {listed(self.labels)}; correct it, or train on data that "
                "has it."
            ) from None


class Collected:
    """The evaluation of these tasks: their scores are those of all sequences together, not means over batches.

    Attributes:
        sequences: that are evaluated. logits: (n, C) of them or (T, C) of their tokens, in their order; UserError
            unless all are finite, for the greatest of NaN is an answer, too. loss: the mean.
    """

    def __init__(self, task: DownstreamTask, sequences: Sequences):
        self.task, self.sequences = task, sequences
        self._sums: Sums = {}
        self._logits = Unpacked(sequences, task.per_token)

    def add(self, batch: Batch, sums: Sums, outputs: tuple[np.ndarray, ...]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in sums.items()}
        self._logits.add(batch, outputs[0])

    @property
    def logits(self) -> np.ndarray:
        values = self._logits.values
        if not np.isfinite(values).all():
            raise UserError(
                "a prediction is not a finite number; train again, with a lower learning rate.", exit_code=1
            )
        return values

    @property
    def loss(self) -> float:
        return self.task.metrics(self._sums)["loss"]

    def metrics(self) -> Metrics:
        """loss, and the task's scores."""
        return {"loss": self.loss, **self.task.scores(self.sequences, self.logits)}


def of_owners(sequences: Sequences, values: np.ndarray) -> list[np.ndarray]:
    """Values of sequences, (n, ...), of each owner, whose sequences stand one after the other."""
    return np.split(values, np.flatnonzero(np.diff(sequences.owners)) + 1) if len(values) else []


def balanced(labels: np.ndarray) -> np.ndarray:
    """The weight of each of n labels, (n,) int, with which all labels weigh alike: n / (C * number of it), float32."""
    counts = np.bincount(labels)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)


def in_order_of_names(names: set[str]) -> tuple[str, ...]:
    """Names of labels as they are numbered where nothing else is known: numbers by their value, before words."""

    def key(name: str) -> tuple[bool, float, str]:
        try:
            number = float(name)
        except ValueError:
            number = math.nan
        return (False, number, name) if math.isfinite(number) else (True, 0.0, name)  # nan is a word too

    return tuple(sorted(names, key=key))


def of_lines(options: AskOptions) -> bool:
    """Whether what is asked about does not stand in a file with columns."""
    return options.input in (None, "-") or endings(Path(str(options.input)))[0] == ".txt"


def lines(options: AskOptions) -> list[str] | None:
    """The texts of the command line, or those of a pipe or a file of lines; None: --input names another kind of file.

    Raises:
        UserError: there are none, or they are not UTF-8.
    """
    if isinstance(options, PredictOptions) and options.choices:
        raise UserError("--choices is for multiple choice and answer selection; leave it out.")
    if options.input is None:
        if not options.texts:
            raise UserError("no text was given; write one after the model, or name a file with --input.")
        return list(options.texts)
    if not of_lines(options):
        return None
    path = Path(options.input)
    if options.columns:
        raise UserError("--columns is for a file with columns, such as a .csv; leave it out, or name one with --input.")
    if options.input == "-":
        content = sys.stdin.buffer.read()
    else:
        if not path.is_file():
            raise UserError(f"there is no file {shown(options.input)}; check the path.")
        with told_to_the_user(path), open_bytes(path) as file:
            content = file.read()
    try:
        # Not splitlines(): a text may hold a form feed or one of Unicode's own separators.
        found = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        if b"\0" in content:
            raise nul_byte(f"--input {options.input}", content[: content.index(b"\0")].count(b"\n") + 1)
        return found if found[-1] else found[:-1]
    except UnicodeDecodeError as error:
        raise not_utf8(f"--input {options.input}", error) from None
