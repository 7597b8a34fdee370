"""Examples to learn from and to be asked about: a text or a pair of texts, and its label, from any file of rows."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from ms_bert.data import labelled
from ms_bert.data.records import kind as kind_of
from ms_bert.errors import UserError, listed, shown

Label = Union[str, float, tuple[str, ...], None]
Made = TypeVar("Made")
Kind = Literal["classification", "regression", "multi-label"]

SKIP_BAD = ", or leave such rows out with --skip-bad"  # which there is for training
LARGEST_NUMBER = 1e18  # of a regression's labels: the square of a difference must stay far within float32

# By which names columns are known, without regard to case; the first that is there is taken.
_ROLES = {"text": "text", "text2": "text2", "text_pair": "text2", "label": "label"}
_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text2"),
    ("text", "text_pair"),
)
_TEXTS = ("sentence", "text", "review", "content", "comment", "question", "document", "tweet")
_LABELS = ("label", "labels", "gold_label", "target", "class", "category", "sentiment", "stars", "rating", "score")

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,(?!\d{3}$)\d+")  # a comma before three digits may be one of thousands
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """Attributes:
    texts: one, or two for a pair; one may be empty.
    label: a name of a class; a number (regression); names (several labels at once, or none); None: it has no label.
    place: where it stands, for messages.
    """

    texts: tuple[str, ...]
    label: Label
    place: str


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a file that are read. text2: None, if examples have one text; label: None, if none is wanted."""

    text: str
    text2: str | None = None
    label: str | None = None


class Unfit(Exception):
    """A row of which no example can be made.

    Attributes:
        reason: by which such rows are counted. found, mend: what a message says.
    """

    def __init__(self, reason: str, found: str, mend: str):
        super().__init__(f"{found}; {mend}")
        self.reason, self.found, self.mend = reason, found, mend


def read(
    source: str,
    kind: Kind,
    named: Mapping[str, str] | None = None,
    *,
    labels: bool = True,
    separator: str = ",",
    quoted: bool = True,
    header: Sequence[str] | None = None,
    split: str = "train",
    skip_bad: bool = False,
) -> tuple[list[Example], Columns, Counter[str]]:
    """The examples of a file or dataset, the columns they were taken from, and how many rows were left out, by reason.

    A text may be empty: nothing is left out for it, as GLUE's readers leave out nothing. But it must be there.

    Args:
        source, quoted, header, split: see `labelled.read`.
        named: columns by role: text, text2 (or text_pair), label; without them usual names are looked for, such as
            sentence1 and sentence2, text, review, label, stars. The label of a multi-label example may be several
            columns, A,B,C, of 0 and 1 each, whose names are those of the labels.
        labels: whether they are wanted; if not, no label is read, and all are None.
        separator: between the labels of a multi-label example that is given as a string.
        skip_bad: leave out rows that have too few or too many fields, no text or no label of this kind, instead of an
            error.

    Raises:
        UserError: the file cannot be read, lacks a column, or has a row that is bad or (skip_bad) none that is good.
    """
    skipped: Counter[str] = Counter()
    rows = labelled.read(source, quoted, header, split, skipped if skip_bad else None)
    if kind == "multi-label" and labels:
        rows = _with_a_column_of_each_label(source, rows, (named or {}).get("label", ""))
    several = label_columns((named or {}).get("label", ""))
    names = [name for name in labelled.columns(rows) if name not in several]
    columns = find_columns(source, names, named or {}, labels)
    made = examples(source, rows, columns, _LABEL_READERS[kind](separator), skipped if skip_bad else None)
    return made, columns, skipped


def usual_labels(names: Collection[str], taken: Collection[str | None]) -> list[str]:
    """The columns that are not taken and have a usual name of a label, in the order in which they are looked for."""
    by_name = {name.lower(): name for name in reversed(list(names)) if name not in taken}
    return [by_name[name] for name in _LABELS if name in by_name]


def named_columns(columns: Sequence[str]) -> Mapping[str, str]:
    """--columns ROLE=NAME ... by role."""
    pairs = [column.partition("=") for column in columns]
    if wrong := [column for column, (role, mark, name) in zip(columns, pairs) if not (role and mark and name)]:
        raise UserError(f"--columns {wrong[0][:100]!r} is not ROLE=NAME; write for example text=review label=stars.")
    return {role: name for role, _, name in pairs}


def find_columns(source: str, names: Collection[str], named: Mapping[str, str], labels: bool | None = True) -> Columns:
    """Which columns hold what: those that are named by role, and else those with usual names. If the text is named,
    there is a second one only if that is named too.

    Args:
        labels: whether a column of labels is wanted; None: if there is one.

    Raises:
        UserError: a column is missing, or a role is unknown.
    """
    roles: dict[str, str] = {}
    for role, name in named.items():
        if role not in _ROLES:
            raise UserError(f"--columns names {shown(role)}, which is no role; expected {listed(_ROLES)}.")
        if name not in names:
            raise labelled.no_column(source, names, shown(name), role)
        roles[_ROLES[role]] = name
    if "text2" in roles and "text" not in roles:
        raise UserError(f"--columns names the second text ({shown(roles['text2'])}) only; name the first, text=NAME.")
    by_name = {name.lower(): name for name in reversed(list(names)) if name not in roles.values()}
    if "text" not in roles:
        pair = next((pair for pair in _PAIRS if all(name in by_name for name in pair)), ())
        found = pair or [name for name in _TEXTS if name in by_name][:1]
        if not found:
            raise labelled.no_column(source, names, f"that is known as text ({', '.join(_TEXTS)})", "text")
        roles |= {role: by_name[name] for role, name in zip(("text", "text2"), found)}
    if labels is not False and "label" not in roles:
        label = next((by_name[name] for name in _LABELS if name in by_name), None)
        if label is None and labels:
            raise labelled.no_column(source, names, f"that is known as label ({', '.join(_LABELS)})", "label")
        roles |= {} if label is None else {"label": label}
    return Columns(roles["text"], roles.get("text2"), roles.get("label") if labels is not False else None)


def examples(
    source: str,
    rows: Iterable[labelled.Row],
    columns: Columns,
    label: Callable[[Any], Label],
    skipped: Counter[str] | None = None,
) -> list[Example]:
    """An example of each row, in the order of the rows.

    Args:
        label: from what the column holds, or raises Unfit.
        skipped: takes the number of rows that are unfit, by reason; without it such a row is an error.

    Raises:
        UserError: a row is unfit, or (skipped) all are.
    """

    def example(row: labelled.Row) -> Example:
        texts = tuple(_text(row, name) for name in (columns.text, columns.text2) if name is not None)
        return Example(texts, None if columns.label is None else label(row.values.get(columns.label)), row.place)

    return fitting(source, rows, example, skipped, SKIP_BAD if columns.label is not None else "")


def fitting(
    source: str,
    rows: Iterable[labelled.Row],
    make: Callable[[labelled.Row], Made],
    skipped: Counter[str] | None = None,
    instead: str = SKIP_BAD,
) -> list[Made]:
    """What is made of each row, in the order of the rows.

    Args:
        make: raises Unfit if nothing can be made of a row.
        skipped: takes the number of such rows, by reason; without it such a row is an error. instead: what else can
            be done about it, for the message.

    Raises:
        UserError: a row is unfit, or (skipped) all are.
    """
    made = []
    for row in rows:
        try:
            made.append(make(row))
        except Unfit as error:
            if skipped is None:
                raise UserError(f"{row.place} {error}{instead}.") from None
            skipped[error.reason] += 1
    if not made:
        raise labelled.none_of(f"no row of {source} can be used", skipped, "name other columns or another file")
    return made


def by_role(
    source: str, names: Collection[str], named: Mapping[str, str], usual: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Which column has which role: one that is named, else the first of the usual names that is there, without regard
    to case. A role for which there is none is left out.

    Args:
        named: columns by role. usual: names by role.

    Raises:
        UserError: a named column is missing, or a role is unknown.
    """
    roles: dict[str, str] = {}
    for role, name in named.items():
        if role not in usual:
            raise UserError(f"--columns names {shown(role)}, which is no role; expected {listed(usual)}.")
        if name not in names:
            raise labelled.no_column(source, names, shown(name), role)
        roles[role] = name
    by_name = {name.lower(): name for name in reversed(list(names)) if name not in roles.values()}
    for role, choice in usual.items():
        found = next((by_name[name] for name in choice if name in by_name), None)
        if role not in roles and found is not None:
            roles[role] = found
    return roles


def class_name(value: Any) -> str:
    """The name of a class: a string without white space around it; of a whole number its digits, also where it is
    written as 1.0, as tables with gaps are exported; True and False.

    Raises:
        Unfit: there is none, or it is no name.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int):
        return str(value)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise Unfit("no label", "has no label", "give it one")
    if not isinstance(value, str):
        raise Unfit(
            "no label of a class",
            f"has as its label {shown(value)}, which names no class but is {kind_of(value)}",
            "expected a string or a whole number; choose --task regression for numbers, multi-label for lists",
        )
    name = value.strip()
    whole = _WHOLE_NUMBER.fullmatch(name)
    return whole[1] if whole else name


def number(value: Any) -> float:
    """A label that is a number, or a string that spells one.

    Raises:
        Unfit: there is none, or it is no number, not finite or beyond LARGEST_NUMBER.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unfit("no label", "has no label", "give it one")
    try:
        # "1_000" is a number to Python alone.
        spelled = isinstance(value, str) and "_" not in value
        is_one = spelled or (isinstance(value, int | float) and not isinstance(value, bool))
        result = float(value) if is_one else math.nan
    except (ValueError, OverflowError):
        result = math.nan
    if not abs(result) <= LARGEST_NUMBER:
        comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())
        another = "or another column with --columns label=NAME"
        raise Unfit(
            "no number as its label",
            f"has as its label {shown(value)}",
            "write it with a point" if comma else f"expected a number of at most {LARGEST_NUMBER:g}, {another}",
        )
    return result


def class_names(value: Any, separator: str = ",") -> tuple[str, ...]:
    """Several labels at once: of a list, also one written as JSON, or of a string with separators, each once; or those
    that hold of an object that has 0 or 1 for each. What is empty has none of the labels; a number is the only label.

    Raises:
        Unfit: it is null, or no list of names.
    """
    if isinstance(value, dict):
        return tuple(name for name, whether in value.items() if _holds(name, whether))
    if isinstance(value, str):
        value = _list_of(value, separator)
    elif value is not None and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list):
        raise Unfit(
            "no list of labels", f"has {kind_of(value)} as its labels", "expected a list or a string with separators"
        )
    if len(value) > len(set(map(str, value))) and all(whether(one) is not None for one in value):
        raise Unfit(
            "zeros and ones as labels",
            f"has as its labels {shown(value)}, which look like places, not like names",
            "write the names of the labels that hold, or give each label a column with --columns label=A,B,C",
        )
    return tuple(dict.fromkeys(class_name(element) for element in value))


def _holds(name: str, value: Any) -> bool:
    """Whether a label holds, of a 0 or 1, which may also be false or true."""
    found = whether(value)
    if found is None:
        raise Unfit("neither 0 nor 1", f"has in {shown(name)} {shown(value)}", "expected 0 or 1 for each label")
    return found


def whether(value: Any) -> bool | None:
    """What 0 or 1, false or true say, however they are spelled; None: it is something else."""
    spelled = str(value).strip().lower().removesuffix(".0")
    return {"0": False, "1": True, "false": False, "true": True}.get(spelled)


def label_columns(label: str) -> tuple[str, ...]:
    """The columns of A,B,C, each of one label; none if it names a single column."""
    several = tuple(label.split(","))
    return several if len(several) > 1 else ()


def _with_a_column_of_each_label(source: str, rows: list[labelled.Row], label: str) -> list[labelled.Row]:
    """The rows; if the label is several columns, A,B,C, with an object of them in a column of that name."""
    names, several = labelled.columns(rows), label_columns(label)
    if not several or label in names:
        return rows
    for name in several:
        if name not in names:
            raise labelled.no_column(source, names, shown(name), "label")
    return [
        labelled.Row({**row.values, label: {name: row.values.get(name) for name in several}}, row.place) for row in rows
    ]


def _list_of(text: str, separator: str) -> list:
    if text.strip()[:1] + text.strip()[-1:] != "[]":
        return [part for part in text.split(separator) if part.strip()]
    return list_of_json(text, "labels", f"write them as a, b with {separator!r} between them")


def list_of_json(text: str, what: str, remedy: str) -> Any:
    """A list that a cell holds as JSON, of labels or choices.

    Raises:
        Unfit: it is no JSON; remedy: what to do then.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        found = f"has as its {what} {shown(text)}, which is no list of JSON"
        raise Unfit(f"no list of {what}", found, remedy) from None


def _text(row: labelled.Row, name: str) -> str:
    value = row.values.get(name)
    if value is None or value != value:  # a NaN is what pandas writes where nothing is
        raise Unfit("no text", f"has no {shown(name)}", "give it a text, which may be empty")
    if not isinstance(value, str):
        raise Unfit(
            "no text",
            f"has in {shown(name)} no text but {kind_of(value)}",
            "name a column of text with --columns text=NAME",
        )
    return value


_LABEL_READERS: dict[Kind, Callable[[str], Callable[[Any], Label]]] = {
    "classification": lambda separator: class_name,
    "regression": lambda separator: number,
    "multi-label": lambda separator: lambda value: class_names(value, separator),
}
