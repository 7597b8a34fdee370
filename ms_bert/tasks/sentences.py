"""Tagged sentences from any source: files of CoNLL, or records with a list of words and a list of tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ms_bert.data import conll, labelled
from ms_bert.data.conll import Sentence
from ms_bert.data.reading import endings
from ms_bert.data.records import kind as kind_of
from ms_bert.errors import UserError, shown
from ms_bert.tasks.examples import SKIP_BAD, Unfit, class_name

CONLL, RECORDS, TABLE = "CoNLL", "records", "table"  # forms of files
NO_TAG = "-100"  # with which transformers' losses leave tokens out
_RECORDS = (".jsonl", ".json", ".parquet")
_TEXTS = ("text", "sentence")  # usual names of columns; the first is taken
_WORDS = ("tokens", "words", "token", "word", *_TEXTS)
_TAGS = ("ner_tags", "tags", "labels", "label", "ner", "entities", "pos_tags", "upos", "pos", "chunk_tags")


def read(
    source: str,
    named: Mapping[str, str] | None = None,
    *,
    labels: bool = True,
    split: str = "train",
    skip_bad: bool = False,
) -> tuple[list[Sentence], Counter[str], str]:
    """The sentences, how many were left out, by reason, and how the source was understood, in a few words.

    Args:
        source: a .jsonl, .json or .parquet file whose records have a list of words and a list of as many tags; a
            dataset of the hub with such columns; or a file of any other name, see `conll.read`.
        named: columns by role, text and label; without them usual names are looked for, such as tokens and ner_tags.
        labels: whether tags are wanted. split: of a dataset of the hub.
        skip_bad: leave out sentences that cannot be used, instead of an error.

    Raises:
        UserError: the source cannot be read, lacks a column, or has a sentence that cannot be used.
    """
    _check_roles(named or {})
    skipped: Counter[str] = Counter()
    found_as, path = form(source), labelled.path_of(source)
    if found_as == TABLE:
        raise UserError(f"{source} is a .csv file; expected a word and its tag a line (CoNLL), or .jsonl or .parquet.")
    if path is not None and found_as == CONLL:
        found, told = conll.read(source, path, named, labels=labels, skipped=skipped if skip_bad else None)
        return found, skipped, told
    rows = labelled.read(source, split=split)
    names = labelled.columns(rows)
    text = _column(source, names, named or {}, "text", _WORDS)
    label = _column(source, names, named or {}, "label", _TAGS) if labels else None
    found = []
    for row in rows:
        try:
            found.append(_sentence(row, text, label))
        except Unfit as error:
            if not skip_bad:
                raise UserError(f"{row.place} {error.found}; {error.mend}{SKIP_BAD if labels else ''}.") from None
            skipped[error.reason] += 1
    if not any(sentence.words for sentence in found):
        raise labelled.none_of(f"no row of {source} has words with tags", skipped, "name other columns or another file")
    return found, skipped, f"words from {text}" + (f", tags from {label}" if label is not None else "")


def form(source: str) -> str:
    """CONLL, RECORDS (those of a dataset of the hub too) or TABLE, a .csv file."""
    path = labelled.path_of(source)
    if path is None or endings(path)[0] in _RECORDS:
        return RECORDS
    return TABLE if endings(path)[0] == ".csv" else CONLL


def asked(source: str, named: Mapping[str, str], quoted: bool = True) -> list[Sentence]:
    """The sentences of a source whose tags are not wanted: as for `read`, and a record may have a text instead of a
    list of words. A row of a .csv file has a text: a column of words there has one a row, without its sentence.

    Raises:
        UserError: it cannot be read, or lacks a column.
    """
    _check_roles(named)
    found_as, path = form(source), labelled.path_of(source)
    if path is not None and found_as == CONLL:
        return conll.read(source, path, named, labels=False)[0]
    rows = labelled.read(source, quoted)
    usual = _TEXTS if found_as == TABLE else _WORDS
    column = _column(source, labelled.columns(rows), named, "text", usual)
    return [_asked(row, column) for row in rows]


def _check_roles(named: Mapping[str, str]) -> None:
    if unknown := [role for role in named if role not in ("text", "label")]:
        raise UserError(f"--columns names {shown(unknown[0])}, which is no role; expected text, label.")


def _asked(row: labelled.Row, column: str) -> Sentence:
    value = row.values.get(column)
    if isinstance(value, str | None):
        return Sentence((), None, row.place, value or "")
    try:
        return _sentence(row, column, None)
    except Unfit as error:
        raise UserError(f"{row.place} {error.found}; {error.mend}.") from None


def _column(source: str, names: Collection[str], named: Mapping[str, str], role: str, usual: Sequence[str]) -> str:
    if role in named:
        if named[role] not in names:
            raise labelled.no_column(source, names, shown(named[role]), role)
        return named[role]
    by_name = {name.lower(): name for name in reversed(list(names))}
    found = next((by_name[name] for name in usual if name in by_name), None)
    if found is None:
        raise labelled.no_column(source, names, f"that is known as {role} ({', '.join(usual)})", role)
    return found


def _sentence(row: labelled.Row, text: str, label: str | None) -> Sentence:
    words = _list(row, text, "words")
    for word in words:
        if not isinstance(word, str):
            raise Unfit("a word that is no text", f"has in {shown(text)} {kind_of(word)} as a word", "expected strings")
    if label is None:
        return Sentence(tuple(words), None, row.place)
    tags = tuple(class_name(tag) for tag in _list(row, label, "tags"))
    if NO_TAG in tags:
        raise Unfit(
            f"the tag {NO_TAG}",
            f"has the tag {NO_TAG}, by which transformers leaves tokens out",
            "give words and their tags, not tokens",
        )
    if len(tags) != len(words):
        raise Unfit(
            "another number of tags than of words",
            f"has {len(words)} words and {len(tags)} tags",
            "give each word its tag",
        )
    return Sentence(tuple(words), tags, row.place)


def _list(row: labelled.Row, column: str, what: str) -> list:
    value = row.values.get(column)
    if not isinstance(value, list):
        raise Unfit(
            f"no list of {what}",
            f"has in {shown(column)} no list of {what} but {kind_of(value)}",
            "name another column with --columns",
        )
    return value
