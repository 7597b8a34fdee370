"""What a user asks about: texts or pairs of texts, from the command line, a file or a pipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_bert.data import labelled
from ms_bert.errors import UserError, shown
from ms_bert.tasks import examples
from ms_bert.tasks.downstream import lines
from ms_bert.tasks.examples import Example

if TYPE_CHECKING:
    from ms_bert.prediction_options import AskOptions

Pair = tuple[str, str]


def several(given: Iterable[Any]) -> list[Any]:
    """What is given to a call in Python: a list or another iterable, of texts, or of what an example is made of.

    Raises:
        UserError: it is a single text, or a table, which would be taken for its column names, or holds a text that is
            no Unicode.
    """
    if isinstance(given, str):
        raise UserError(f"a list is expected, not the text {shown(given)}; write [text].")
    if not isinstance(given, Iterable):
        raise UserError(f"a list is expected, not {type(given).__name__}; give a list of texts.")
    if isinstance(given, Mapping) or hasattr(given, "columns"):
        raise UserError(f"a list is expected, not a {type(given).__name__}; give the texts alone, such as one column.")
    found = [one.tolist() if isinstance(one, np.ndarray) else one for one in given]
    for one in found:
        _check_unicode(one)
    return found


def several_texts(given: Iterable[Any]) -> list[str]:
    """The same of what must be texts.

    Raises:
        UserError: see `several`; or one is something else.
    """
    found = several(given)
    if wrong := [one for one in found if not isinstance(one, str)]:
        raise UserError(f"{shown(wrong[0])} was given; expected a text.")
    return found


def is_pair(given: Any) -> bool:
    """Whether it is a list or a tuple of two texts."""
    return isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(one, str) for one in given)


def _check_unicode(given: Any) -> None:
    if isinstance(given, str):
        try:
            given.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text {shown(given)} has half a character, a lone surrogate, at {error.start}; replace it."
            ) from None
    elif isinstance(given, list | tuple):
        for one in given:
            _check_unicode(one)
    elif isinstance(given, Mapping):
        for one in given.values():
            _check_unicode(one)


def texts(options: AskOptions) -> list[str]:
    """Single texts.

    Raises:
        UserError: there are none, they cannot be read, or they are pairs.
    """
    found = lines(options)
    if found is None:
        rows, _ = _rows(options)
        if any(len(row.texts) > 1 for row in rows):
            raise UserError(
                f"single texts are asked for, but {options.input} has pairs; name one column with --columns text=NAME."
            )
        found = [row.texts[0] for row in rows]
    if not found:
        raise UserError(f"--input {options.input} holds no text; give at least one.")
    return found


def pairs(options: AskOptions) -> list[Pair]:
    """Pairs of texts; see `scored_pairs`."""
    return scored_pairs(options, scores=False)[0]


def scored_pairs(options: AskOptions, scores: bool = True) -> tuple[list[Pair], list[float] | None]:
    """Pairs, and the number that a file gives each of them, if it does.

    On the command line each two texts are a pair; in a pipe or a .txt file the two sides of a tab in each line.

    Raises:
        UserError: there are none, they cannot be read, a text stands alone, or the column that --columns names as label
            has other things than numbers.
    """
    found, numbers = lines(options), None
    if found is None:
        rows, names = _rows(options, labels=scores)
        if any(len(row.texts) < 2 for row in rows):
            raise UserError(
                f"pairs of texts are asked for, but of {options.input} one column is read; name two with --columns "
                "text=NAME text2=NAME."
            )
        made = [row.texts for row in rows]
        read = [_number(row) for row in rows]
        if None not in read:
            numbers = read
        elif scores and "label" in names:
            place = rows[read.index(None)].place
            raise UserError(f"{place} has no number in {shown(names['label'])}; name another column, or no label.")
    elif options.input is None:
        if len(found) % 2:
            raise UserError(f"pairs of texts are asked for, but {shown(found[-1])} stands alone; write the other one.")
        made = list(zip(found[::2], found[1::2]))
    else:
        made = [tuple(line.split("\t")) for line in found]
        if wrong := [number for number, pair in enumerate(made, 1) if len(pair) != 2]:
            raise UserError(
                f"--input {options.input}, line {wrong[0]} has {len(made[wrong[0] - 1])} texts with tabs between them; "
                "write two."
            )
        if not made:
            raise UserError(f"--input {options.input} holds no text; give at least two.")
    return [(first, second) for first, second in made], numbers  # type: ignore[return-value]


def _rows(options: AskOptions, labels: bool = False) -> tuple[list[Example], Any]:
    """The rows of the file that --input names, and its columns by role, as far as they are named.

    Args:
        labels: read what is in the column of labels, if there is one, whatever it is; of several with usual names one
            of numbers, if there is one.
    """
    assert options.input is not None
    named = examples.named_columns(options.columns)
    rows = labelled.read(options.input, options.quotes)
    found = examples.find_columns(options.input, labelled.columns(rows), named, None if labels else False)
    if labels and "label" not in named:
        usual = examples.usual_labels(labelled.columns(rows), (found.text, found.text2))
        of_numbers = (name for name in usual if all(_is_number(row.values.get(name)) for row in rows))
        found = dataclasses.replace(found, label=next(of_numbers, found.label))
    return examples.examples(options.input, rows, found, lambda value: value), named


def _number(row: Example) -> float | None:
    return examples.number(row.label) if _is_number(row.label) else None


def _is_number(value: Any) -> bool:
    try:
        examples.number(value)
    except examples.Unfit:
        return False
    return True
