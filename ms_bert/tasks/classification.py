"""Tasks on a text or a pair of texts: one label of several, a number, or any of several labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ms_bert.data.sequences import Sequences, encoded
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError, listed, one_line, shown
from ms_bert.tasks import Metrics, Sums, asked, glue, pictures
from ms_bert.tasks.downstream import DownstreamTask, Read, balanced, in_order_of_names, lines, of_lines
from ms_bert.tasks.examples import Example, label_columns, named_columns, read, whether
from ms_bert.tasks.metrics import METRICS, by_class, calibration, confusion, interval
from ms_bert.tasks.pictures import Drawing

if TYPE_CHECKING:
    from ms_bert.finetuning_options import DataOptions
    from ms_bert.prediction_options import PredictOptions


MOST_CONFUSED = 200  # labels; the confusion matrix grows with their square


@dataclasses.dataclass(frozen=True)
class SentenceTask(DownstreamTask):
    """What the three have in common.

    Attributes:
        pooling: what is classified: with "cls" the pooler's output, with "mean" the mean of all tokens of a text. As
            logits are linear, those of the mean are the mean of the tokens' logits: so with "mean" the model is one of
            tokens, as transformers and all formats know it.
        pairs: whether its examples are pairs of texts; None: it is not known, as of a model from elsewhere.
    """

    pooling: str = "cls"
    pairs: bool | None = None

    augmented: ClassVar[bool] = True
    problem_type: ClassVar[str]
    general_measures: ClassVar[tuple[str, ...]]  # where no dataset of GLUE says which

    @classmethod
    def examples(cls, data: DataOptions, source: str, split: str) -> Read:
        dataset = glue.DATASETS.get(data.task)
        if dataset is not None:
            if data.columns:
                raise UserError(
                    f"--columns is for data of one's own, but --task {data.task} knows the columns of its files; leave "
                    f"it out, or choose --task {cls.name}."
                )
            return Read(*glue.examples(dataset, source, split=split, skip_bad=data.skip_bad))
        found, used, skipped = read(
            source,
            cls.name,  # type: ignore[arg-type]
            named_columns(data.columns),
            separator=data.separator,
            quoted=data.quotes,
            split=split,
            skip_bad=data.skip_bad,
        )
        texts = " and ".join(name for name in (used.text, used.text2) if name is not None)
        return Read(found, skipped, f"text from {texts}, labels from {used.label}")

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Example]):
        """That of a dataset of GLUE; or the labels of the examples, in the order of their names."""
        longest = data.longest or cls.usual_longest
        dataset = glue.DATASETS.get(data.task)
        if dataset is not None:
            ordered = (dataset.main, *(name for name in dataset.metrics if name != dataset.main))
            return cls(dataset.labels, ordered, longest, dataset.name, data.pooling, pairs=dataset.pairs)
        label = named_columns(data.columns).get("label", "")
        return cls(
            in_order_of_names(cls.names(examples) | cls.named(label)),
            cls.general_measures,
            longest,
            pooling=data.pooling,
            pairs=len(examples[0].texts) > 1,
            columns=cls.input_columns(data),
        )

    @classmethod
    def names(cls, examples: Sequence[Example]) -> set[str]:
        """The names of the labels.

        Raises:
            UserError: they are too few to learn from.
        """
        raise NotImplementedError

    @classmethod
    def named(cls, label: str) -> set[str]:
        """Names of labels that the columns of the label name, whether an example has them or not."""
        return set()

    @property
    def architecture(self) -> str:  # type: ignore[override]
        return "BertForTokenClassification" if self.pooling == "mean" else "BertForSequenceClassification"

    @property
    def per_token(self) -> bool:  # type: ignore[override]
        return self.pooling == "mean"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "problem_type": self.problem_type}

    def passage(self, example: Example) -> Any:
        return example.texts  # some data have a text twice

    def sequences(self, examples: Sequence[Example], vocabulary: Vocabulary, labelled: bool = True) -> Sequences:
        made = encoded([example.texts for example in examples], vocabulary, self.longest)
        if labelled:
            made.of_sequences["labels"] = self.targets(examples)
        return dataclasses.replace(made, examples=examples)

    def check_scored(self, examples: Sequence[Example]) -> None:
        for example in examples if self.pairs is not None else ():
            if len(example.texts) != (2 if self.pairs else 1):
                found, expected = ("a single text", "pairs") if self.pairs else ("a pair of texts", "single texts")
                raise UserError(
                    f"{example.place} has {found}, but the model is trained on {expected}; name the columns of all "
                    "files alike with --columns, or name other data."
                )

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """The labels as the loss takes them, (n,) or (n, C).

        Raises:
            UserError: one is not among the task's.
        """
        raise NotImplementedError

    def scores(self, sequences: Sequences, logits: np.ndarray) -> Metrics:
        labels, guesses = sequences.of_sequences["labels"], self.guesses(self.pooled(sequences, logits))
        return {name: METRICS[name](*self.compared(name, labels, guesses)) for name in self.measures}

    def intervals(self, sequences: Sequences, logits: np.ndarray) -> dict[str, tuple[float, float]]:
        labels, guesses = sequences.of_sequences["labels"], self.guesses(self.pooled(sequences, logits))
        return {name: interval(name, *self.compared(name, labels, guesses), seed=0) for name in self.measures}

    def compared(self, measure: str, labels: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The labels and the guesses as a measure takes them."""
        return labels, guesses

    def answers(self, sequences: Sequences, logits: np.ndarray) -> list[dict[str, Any]]:
        return self.of_logits(self.pooled(sequences, logits))

    def pooled(self, sequences: Sequences, logits: np.ndarray) -> np.ndarray:
        """The logits of the sequences, (n, C) float32: as they are, or of their tokens (T, C) the means."""
        if not self.per_token or not len(sequences):
            return logits
        # Of each sequence by itself, so that it does not matter which others there are.
        spans = zip(sequences.starts[:-1], sequences.starts[1:])
        return np.stack([logits[first:last].astype(np.float64).mean(0) for first, last in spans]).astype(np.float32)

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """What the metrics compare with the labels, of logits (n, C)."""
        raise NotImplementedError

    def of_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """The answers, of logits (n, C)."""
        raise NotImplementedError

    def gold(self, example: Example) -> Any:
        return example.label

    def inputs(self, example: Example) -> dict[str, Any]:
        return {"texts": list(example.texts)}

    def plain(self, example: Example, answer: dict[str, Any]) -> str:
        return f"{self.short(answer)}\t{one_line(' | '.join(example.texts))}"

    def short(self, answer: dict[str, Any]) -> str:
        """An answer in a few words."""
        raise NotImplementedError

    def table(self, examples: Sequence[Example], answers: Sequence[dict[str, Any]]) -> list[list[Any]]:
        pairs = any(len(example.texts) > 1 for example in examples)
        rows = [[*example.texts, *self.cells(answer)] for example, answer in zip(examples, answers)]
        return [["text", *(["text2"] if pairs else []), *self.header()], *rows]

    def header(self) -> list[str]:
        """The columns of `cells`."""
        raise NotImplementedError

    def cells(self, answer: dict[str, Any]) -> list[Any]:
        """An answer as fields of a csv file."""
        raise NotImplementedError

    def asked(self, options: PredictOptions) -> list[Example]:
        """Texts or pairs as the command line, a pipe or a file of lines gives them; or those of a file of rows.

        Raises:
            UserError: they cannot be read, or it is not clear whether they are pairs.
        """
        if options.pairs and self.pairs is False:
            raise UserError("--pairs was given, but the model was fine-tuned on single texts; leave it out.")
        dataset = glue.DATASETS.get(self.dataset or "")
        if dataset is not None and not options.columns and glue.is_of(dataset, options.input):
            return glue.examples(dataset, str(options.input), labels=False)[0]
        if not of_lines(options):
            options = self.by_columns(options)
        if self.pairs or options.pairs:
            return [self.example(pair) for pair in asked.pairs(options)]
        if self.pairs is not None:
            return [self.example(text) for text in asked.texts(options)]
        texts = lines(options)
        if texts is not None:
            if options.input is not None and (pair := next((text for text in texts if "\t" in text), None)):
                raise UserError(
                    f"{shown(pair)} has a tab, and the model does not say whether it takes pairs; add --pairs if these "
                    "are two texts, or write a space for the tab."
                )
            return [self.example(text) for text in texts]
        assert options.input is not None
        columns = named_columns(options.columns)
        return read(options.input, "classification", columns, labels=False, quoted=options.quotes)[0]

    def example(self, given: str | Sequence[str]) -> Example:
        """Of a text, or of two."""
        texts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
        numbers = (1, 2) if self.pairs is None else (2,) if self.pairs else (1,)
        if len(texts) not in numbers or not all(isinstance(text, str) for text in texts):
            expected = (
                "a text or a pair of texts" if len(numbers) > 1 else "a pair of texts" if self.pairs else "a text"
            )
            raise UserError(f"{shown(given)} was given; expected {expected}.")
        return Example(texts, None, "")


@dataclasses.dataclass(frozen=True)
class Classification(SentenceTask):
    """One of several labels."""

    name: ClassVar[str] = "classification"
    problem_type: ClassVar[str] = "single_label_classification"
    general_measures: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")

    @classmethod
    def names(cls, examples: Sequence[Example]) -> set[str]:
        return enough({str(example.label) for example in examples}, 2)

    def names_of(self, example: Example) -> set[str]:
        return {str(example.label)}

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(n,) int32."""
        numbers = {name: number for number, name in enumerate(self.labels)}
        found = [
            numbers[e.label] if e.label in numbers else self._number(e.label, e.place)  # type: ignore[arg-type]
            for e in examples
        ]
        return np.array(found, np.int32)

    def weights_of(self, sequences: Sequences) -> np.ndarray:
        return balanced(sequences.of_sequences["labels"])

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """(n,) int64."""
        return logits.argmax(1)

    def compared(self, measure: str, labels: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F1 is that of the second label of the dataset, by whatever number the model knows it."""
        if measure != "f1":
            return labels, guesses
        positive = self.labels.index(glue.DATASETS[self.dataset].labels[1])
        return (labels == positive).astype(np.int32), (guesses == positive).astype(np.int32)

    def of_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """label, and the probabilities by label."""
        return [
            {"label": self.labels[int(best)], "probabilities": dict(zip(self.labels, map(float, row)))}
            for row, best in zip(softmax(logits), self.guesses(logits))
        ]

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """Scores of each label, the confusion matrix, unless it would be huge, and the calibration."""
        labels, logits = sequences.of_sequences["labels"], self.pooled(sequences, logits)
        guesses, classes = self.guesses(logits), len(self.labels)
        return {
            "labels": by_class(labels, guesses, self.labels),
            **({"confusion": confusion(labels, guesses, classes).tolist()} if classes <= MOST_CONFUSED else {}),
            "calibration": calibration(softmax(logits).max(1), labels == guesses),
        }

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        told = self.details(sequences, logits)
        right = sequences.of_sequences["labels"] == self.guesses(self.pooled(sequences, logits))
        few = len(self.labels) <= pictures.MOST_NAMES
        return [
            pictures.confusion(np.array(told["confusion"]), self.labels) if few else _f1(told["labels"]),
            pictures.calibration(told["calibration"]["bins"], told["calibration"]["expected_calibration_error"]),
            pictures.by_length(sequences.lengths, right, "accuracy"),
        ]

    def short(self, answer: dict[str, Any]) -> str:
        return f"{answer['label']} {answer['probabilities'][answer['label']]:.1%}"

    def header(self) -> list[str]:
        return ["label", *map(_column, self.labels)]

    def cells(self, answer: dict[str, Any]) -> list[Any]:
        return [answer["label"], *answer["probabilities"].values()]


@dataclasses.dataclass(frozen=True)
class Regression(SentenceTask):
    """A number."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[str] = "regression"
    general_measures: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

    @classmethod
    def names(cls, examples: Sequence[Example]) -> set[str]:
        return set()

    def config(self) -> dict[str, Any]:
        """One output, which Hugging Face calls a label."""
        return {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": self.problem_type}

    def metrics(self, sums: Sums) -> Metrics:
        """loss: the mean squared error."""
        return {"loss": sums["loss"] / sums["count"]}

    def shown(self, metrics: Metrics) -> str:
        return f"loss {metrics['loss']:.3f}"

    def check_scored(self, examples: Sequence[Example]) -> None:
        super().check_scored(examples)
        if len({example.label for example in examples}) == 1:
            raise UserError(
                f"the data from {examples[0].place} on have no other number than {examples[0].label}, but a "
                "correlation needs at least two; name other data, or, where there is no --dev, give a larger "
                "--dev-share."
            )

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """(n,) float32."""
        return np.array([example.label for example in examples], np.float32)

    def guesses(self, logits: np.ndarray) -> np.ndarray:
        """(n,) float64."""
        return logits[:, 0].astype(np.float64)

    def of_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """value."""
        return [{"value": float(value)} for value in logits[:, 0]]

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        labels, guesses = sequences.of_sequences["labels"], self.guesses(self.pooled(sequences, logits))
        errors = np.abs(labels - guesses)
        return [pictures.scatter(labels, guesses), pictures.by_length(sequences.lengths, errors, "absolute error")]

    def short(self, answer: dict[str, Any]) -> str:
        return f"{answer['value']:.4f}"

    def header(self) -> list[str]:
        return ["value"]

    def cells(self, answer: dict[str, Any]) -> list[Any]:
        return [answer["value"]]


@dataclasses.dataclass(frozen=True)
class MultiLabel(SentenceTask):
    """Any of several labels, each by itself."""

    name: ClassVar[str] = "multi-label"
    problem_type: ClassVar[str] = "multi_label_classification"
    general_measures: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "subset_accuracy")

    @classmethod
    def names(cls, examples: Sequence[Example]) -> set[str]:
        return enough({name for example in examples for name in example.label}, 1)  # type: ignore[union-attr]

    @classmethod
    def of(cls, data: DataOptions, examples: Sequence[Example]):
        made = super().of(data, examples)
        named = label_columns(named_columns(data.columns).get("label", ""))
        if not named and all(whether(name) is not None for name in made.labels):
            raise UserError(
                f"the training data has no other labels than {listed(made.labels)}, which say whether a label holds, "
                "not which; give each label its column with --columns label=A,B, or choose --task classification for "
                "a single one."
            )
        return made

    @classmethod
    def named(cls, label: str) -> set[str]:
        return set(label_columns(label))

    def names_of(self, example: Example) -> set[str]:
        return set(example.label)  # type: ignore[arg-type]

    def check_scored(self, examples: Sequence[Example]) -> None:
        super().check_scored(examples)
        if not any(example.label for example in examples):
            raise UserError(
                f"the data from {examples[0].place} on have no label in any example, so there is no F1; name other "
                "data, or, where there is no --dev, give a larger --dev-share."
            )

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

    def of_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """labels, those of a probability over a half, and the probabilities by label."""
        rows = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return [
            {
                "labels": [name for name, holds in zip(self.labels, held) if holds],
                "probabilities": dict(zip(self.labels, map(float, row))),
            }
            for row, held in zip(rows, self.guesses(logits))
        ]

    def details(self, sequences: Sequences, logits: np.ndarray) -> dict[str, Any]:
        """Scores of each label."""
        guesses = self.guesses(self.pooled(sequences, logits)).astype(np.float32)
        return {"labels": by_class(sequences.of_sequences["labels"], guesses, self.labels)}

    def drawings(self, sequences: Sequences, logits: np.ndarray) -> list[Drawing]:
        right = (sequences.of_sequences["labels"] == self.guesses(self.pooled(sequences, logits))).all(1)
        return [
            _f1(self.details(sequences, logits)["labels"]),
            pictures.by_length(sequences.lengths, right, "all labels right"),
        ]

    def short(self, answer: dict[str, Any]) -> str:
        return ", ".join(f"{name} {answer['probabilities'][name]:.1%}" for name in answer["labels"]) or "none"

    def header(self) -> list[str]:
        return ["labels", *map(_column, self.labels)]

    def cells(self, answer: dict[str, Any]) -> list[Any]:
        # As JSON, which --train reads whatever the labels' names are.
        return [json.dumps(answer["labels"], ensure_ascii=False), *answer["probabilities"].values()]

    def gold(self, example: Example) -> list[str]:
        return list(example.label)  # type: ignore[arg-type]


def _column(label: str) -> str:
    """The name of the column of a label's probability, which who reads the file takes for no text and no label."""
    return f"probability of {label}"


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits (n, C), float64."""
    rows = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return rows / rows.sum(1, keepdims=True)


def _f1(labels: dict[str, dict[str, float]]) -> Drawing:
    """The F1 of each label, of its scores by name."""
    scores = {name: of["f1"] for name, of in labels.items()}
    return pictures.bars("Labels", "F1", scores, {name: int(of["support"]) for name, of in labels.items()})


def enough(names: set[str], least: int) -> set[str]:
    """The names of the labels of training data.

    Raises:
        UserError: there are fewer than a classification needs.
    """
    if len(names) < least:
        raise UserError(
            f"the training data has the labels {listed(sorted(names)) or 'none'}; the task needs at least {least}, so "
            "name another column or more data."
        )
    return names
