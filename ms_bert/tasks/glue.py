"""The nine tasks of GLUE (Wang et al., 2019) by name: how their files are read, what their labels mean, their metrics.

Files are those that GLUE publishes, or the same data as the dataset `glue` of the Hugging Face hub has it; which of
them, is told by the columns. Labels are given by name, never by number: checkpoints number them differently.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_bert.data import labelled
from ms_bert.data.reading import endings
from ms_bert.errors import UserError, listed, shown
from ms_bert.tasks.examples import Columns, Example, Label, Unfit, class_name, find_columns, number
from ms_bert.tasks.examples import examples as examples_of

_NO_GOLD_LABEL = "-"  # MNLI and SNLI: the annotators did not agree
_UNLABELLED = -1  # the hub's test files
_SCORES = (0.0, 5.0)  # of STS-B


@dataclasses.dataclass(frozen=True)
class Shape:
    """The columns of one form of a dataset. numbers: labels may be numbers, positions in the dataset's labels."""

    texts: tuple[str, ...]
    label: str = "label"
    numbers: bool = True


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Attributes:
    labels: names of the classes, in the order of the numbers that GLUE's and the hub's files have; none: a regression.
    metrics: names in `ms_bert.tasks.metrics`, in GLUE's order; main: the one of Devlin et al. (2019), table 1.
    header: of files that have none.
    broken_lines: some lines of the published files lack fields (a text has a line break in it) and are left out, as by
        all readers.
    """

    name: str
    shapes: tuple[Shape, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    main: str = "accuracy"
    header: tuple[str, ...] | None = None
    broken_lines: bool = False

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def pairs(self) -> bool:
        return len(self.shapes[0].texts) > 1


_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "cola",
            (Shape(("sentence",)),),
            ("unacceptable", "acceptable"),
            ("matthews_correlation",),
            "matthews_correlation",
            header=("source", "label", "mark", "sentence"),
        ),
        Dataset("sst2", (Shape(("sentence",)),), ("negative", "positive")),
        Dataset(
            "mrpc",
            (Shape(("#1 String", "#2 String"), "Quality"), Shape(_SENTENCES)),
            ("not_equivalent", "equivalent"),
            ("f1", "accuracy"),
            "f1",
        ),
        Dataset("stsb", (Shape(_SENTENCES, "score"), Shape(_SENTENCES)), (), ("pearson", "spearman"), "spearman"),
        Dataset(
            "qqp",
            (Shape(("question1", "question2"), "is_duplicate"), Shape(("question1", "question2"))),
            ("not_duplicate", "duplicate"),
            ("f1", "accuracy"),
            "f1",
            broken_lines=True,
        ),
        Dataset(
            "mnli",
            # A number here would be of a checkpoint's own order.
            (Shape(_SENTENCES, "gold_label", numbers=False), Shape(("premise", "hypothesis"))),
            ("entailment", "neutral", "contradiction"),
        ),
        Dataset("qnli", (Shape(("question", "sentence")),), _ENTAILMENT),
        Dataset("rte", (Shape(_SENTENCES),), _ENTAILMENT),
        Dataset("wnli", (Shape(_SENTENCES),), _ENTAILMENT[::-1]),
    )
}


def examples(
    dataset: Dataset, source: str, *, labels: bool = True, split: str = "train", skip_bad: bool = False
) -> tuple[list[Example], Counter[str]]:
    """The examples of a file or of a dataset of the hub, and how many rows were left out, by reason.

    Quotes in .tsv and .txt are characters like others; in .csv they stand around a field. Rows whose annotators did not
    agree are left out if labels are wanted. Empty texts stay.

    Args:
        labels: whether they are wanted; without them no label is read, and test files are examples too.
        split: of a dataset of the hub. skip_bad: leave out bad rows instead of an error; see `examples.read`.

    Raises:
        UserError: the file cannot be read, has other columns, or a bad row, or a label of another task.
    """
    skipped: Counter[str] = Counter()
    quoted = _quoted(source)
    first = labelled.first_fields(source, quoted)
    header = dataset.header if first and not _is_header(dataset, first) else None
    rows = labelled.read(source, quoted, header, split, skipped if skip_bad or dataset.broken_lines else None)
    shape = _shape(dataset, source, labelled.columns(rows), labels)
    if labels:
        agreed = [row for row in rows if row.values.get(shape.label) != _NO_GOLD_LABEL]
        skipped += Counter({"no gold label": len(rows) - len(agreed)})
        rows = agreed
    text, *text2 = shape.texts
    columns = Columns(text, text2[0] if text2 else None, shape.label if labels else None)
    return examples_of(source, rows, columns, _label_reader(dataset, shape), skipped if skip_bad else None), skipped


def is_of(dataset: Dataset, source: str | None) -> bool:
    """Whether this is a file of the dataset, which is read as in training: a table of its columns with tabs between
    them, or one whose columns have no usual names, as those of MRPC."""
    if source is None or source == "-" or not Path(source).is_file():
        return False
    first = labelled.first_fields(source, _quoted(source))
    if dataset.header is not None and len(first) == len(dataset.header):
        return dict(zip(dataset.header, first))["label"] in map(str, range(len(dataset.labels)))
    if len(first) > 1 and not _quoted(source) and _is_header(dataset, first):
        return True
    try:
        find_columns(source, first, {}, labels=False)
    except UserError:
        return _is_header(dataset, first)
    return False


def _quoted(source: str) -> bool:
    return endings(Path(source))[0] not in (".tsv", ".txt")


def _is_header(dataset: Dataset, fields: list[str]) -> bool:
    return any(set(shape.texts) <= {field.strip() for field in fields} for shape in dataset.shapes)


def _shape(dataset: Dataset, source: str, names: list[str], labels: bool) -> Shape:
    with_texts = [shape for shape in dataset.shapes if set(shape.texts) <= set(names)]
    fitting = [shape for shape in with_texts if not labels or shape.label in names]
    if fitting:
        return fitting[0]
    if with_texts:
        wanted = " or ".join(shape.label for shape in with_texts)
        raise UserError(f"{source} has no column {wanted}, only {listed(names)}; name a file with labels.")
    wanted = ", or ".join(listed((*shape.texts, shape.label)) for shape in dataset.shapes)
    raise UserError(f"{source} has the columns {listed(names)}, but those of {dataset.name} are {wanted}.")


def _label_reader(dataset: Dataset, shape: Shape) -> Callable[[Any], Label]:
    return _score if dataset.regression else lambda value: _name(dataset, shape, class_name(value))


def _score(value: Any) -> float:
    score = number(value)
    if score == _UNLABELLED:
        raise Unfit("no label", "has no label (-1)", "name a file with labels")
    low, high = _SCORES
    if not low <= score <= high:
        raise Unfit("no score from 0 to 5", f"has the score {shown(value)}", "expected a number from 0 to 5")
    return score


def _name(dataset: Dataset, shape: Shape, name: str) -> str:
    if name in dataset.labels:
        return name
    if name == str(_UNLABELLED):
        raise Unfit("no label", "has no label (-1)", "name a file with labels")
    numbered = {str(position): label for position, label in enumerate(dataset.labels)} if shape.numbers else {}
    if name not in numbered:
        raise Unfit(
            "another label",
            f"has the label {shown(name)}",
            f"the labels of {dataset.name} are {listed([*dataset.labels, *numbered])}",
        )
    return numbered[name]
