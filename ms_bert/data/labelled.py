"""A labelled file, or a dataset of the Hugging Face hub, as rows: values by column, and a place for messages."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import functools
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ms_bert.data import hub
from ms_bert.data.reading import COMPRESSED, WrongRecord, endings, open_bytes, open_text, told_to_the_user
from ms_bert.data.records import an_object, json_records, parquet_class_names, parquet_rows
from ms_bert.errors import UserError, listed, shown

LONGEST_FIELD = 10_000_000  # characters; a quote that is never closed makes a field of all that follows
LONGEST_LINE = 50_000_000  # characters
_SEPARATORS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
_SETTING = re.compile(r"sep=([,;|\t])\n?")  # the first line of a file for Excel may be one
_KINDS = (*_SEPARATORS, ".jsonl", ".json", ".parquet")
_LOOKED_THROUGH = 1000  # rows whose columns are known as those of the file: records of JSON may leave some out
_BLOCK = 1 << 20  # bytes
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Attributes:
    values: by column, as the file has them: strings, and from JSON, Parquet and the hub also numbers, lists or None.
    place: where it stands, such as `train.tsv, line 7`.
    """

    values: dict[str, Any]
    place: str


Unfold = Callable[[Any, str], list[Row]]
"""From a record of a JSON file and its place to its rows; none if it is a row itself."""


def read(
    source: str,
    quoted: bool = True,
    header: Sequence[str] | None = None,
    split: str = "train",
    skipped: Counter[str] | None = None,
    unfold: Unfold | None = None,
) -> list[Row]:
    """All rows, in the order of the file.

    Lines of tsv and csv that hold nothing are passed over. Class labels of a dataset, and of a Parquet file that
    `datasets` wrote, are given by their names, and as None where there is no label (-1).

    Args:
        source: a .tsv, .txt (the same), .csv, .jsonl, .json (an array of objects, or an object with one such array) or
            .parquet file, each also .gz or .xz, in UTF-8; the name of a dataset of the hub, NAME or NAME:CONFIG, or a
            folder of save_to_disk, both also with @SPLIT.
        quoted: double quotes around a field of tsv or csv are no part of it; else a quote is a character like others.
        header: names of the columns of a tsv or csv file whose first line does not give them.
        split: of a dataset of the hub whose name says none.
        skipped: takes the number of lines of tsv and csv that have too few or too many fields, by reason; without it
            such a line is an error.
        unfold: makes the rows of records that are no objects; without it such a record is an error.

    Raises:
        UserError: there is no such file or dataset, it cannot be read to its end, or holds no row.
    """
    path = path_of(source)
    if path is None:
        rows = list(_dataset_rows(source, split))
        _require(rows, source, "holds no rows", f"name another split than {split}")
        return rows
    kind, _ = endings(path)
    kinds = "expected .tsv, .txt, .csv, .jsonl, .json or .parquet, also .gz or .xz"
    _require(kind in _KINDS, source, "is of an unknown kind", kinds)
    with _told(source, path, kind):
        _require(path.stat().st_size, source, "is empty", "name a file with rows")
        if kind in _SEPARATORS:
            rows = list(_separated(source, path, _separator(path, kind), quoted, header, skipped))
        else:
            rows = list(_records(source, path, kind, unfold))
    below = "below its header line " if kind in _SEPARATORS and header is None else ""
    _require(rows, source, f"holds no rows {below}that can be read", "name one that has some")
    return rows


def of_pipe(file: IO[bytes], unfold: Unfold | None = None) -> list[Row]:
    """All rows of a pipe that gives what stands in a .jsonl file; see `read`.

    Raises:
        UserError: it cannot be read to its end, or holds no row.
    """
    source = "the pipe"
    with told_to_the_user(Path(source)):
        try:
            rows = list(_json_rows(source, io.TextIOWrapper(file, encoding="utf-8-sig"), False, unfold))
        except (UnicodeDecodeError, WrongRecord):
            raise
        except ValueError as error:
            raise UserError(
                f"{source} cannot be read as JSON ({error}); write an object of JSON a line to it."
            ) from None
    _require(rows, source, "holds no rows", "write an object of JSON a line to it")
    return rows


def of_file_or_pipe(source: str, quoted: bool = True, unfold: Unfold | None = None) -> list[Row]:
    """What is asked about: the rows of a file or dataset, see `read`; or with - those of a pipe, see `of_pipe`."""
    return of_pipe(sys.stdin.buffer, unfold) if source == "-" else read(source, quoted, unfold=unfold)


def nul_byte(source: str, number: int) -> UserError:
    """What is told where a line of a source holds a NUL byte."""
    return UserError(
        f"{source}, line {number} holds a NUL byte, which no text has; if the file is UTF-16, convert it with "
        "iconv -f UTF-16 -t UTF-8, else replace it."
    )


def none_of(what: str, skipped: Mapping[str, int] | None, remedy: str) -> UserError:
    """That nothing is left of a source.

    Args:
        what: the beginning of the sentence. skipped: how many were left out, by reason. remedy: what to do.
    """
    reasons = ", ".join(f"{reason}: {number}" for reason, number in (skipped or {}).items())
    return UserError(f"{what}{f' ({reasons})' if reasons else ''}; {remedy}.")


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of the columns, in the order of the file."""
    return list(dict.fromkeys(name for row in rows[:_LOOKED_THROUGH] for name in row.values))


def no_column(source: str, found: Collection[str], wanted: str, role: str) -> UserError:
    """What is told where a file lacks a column; role: what the column is for, as `--columns` names it."""
    return UserError(f"{source} has no column {wanted}, only {listed(found)}; name one with --columns {role}=NAME.")


def first_fields(source: str, quoted: bool = True) -> list[str]:
    """What stands in the first line of a tsv or csv file, which may be its header; nothing of any other source.

    Raises:
        UserError: as for `read`.
    """
    path = path_of(source)
    kind = "" if path is None else endings(path)[0]
    if path is None or kind not in _SEPARATORS:
        return []
    with _told(source, path, kind):
        with contextlib.closing(_lines_of_fields(source, path, _separator(path, kind), quoted)) as lines:
            return _first(lines)[1]


def text_lines(source: str, path: Path) -> Generator[str]:
    """The lines of a text file, each with its end.

    Raises:
        UserError: it cannot be read to its end, or is not UTF-8.
    """
    with _told(source, path, ""), open_text(path) as file:
        yield from _lines(source, file.readline)


@contextlib.contextmanager
def _told(source: str, path: Path, kind: str) -> Iterator[None]:
    with told_to_the_user(path):
        try:
            yield
        except UnicodeDecodeError:
            if kind == ".parquet":
                raise
            raise _not_utf8(source, path) from None


def path_of(source: str) -> Path | None:
    """The file that is meant; None: a dataset of the hub is.

    Raises:
        UserError: there is no such file, and no dataset can have this name.
    """
    path = os.path.expanduser(source)
    _require(source.strip(), "a labelled file", "has an empty name", "name a file or a dataset")
    if hub.is_saved(path):
        return None
    _require(not os.path.isdir(path), source, "is a folder", "name a file in it, such as train.tsv")
    if os.path.isfile(path):
        return Path(path)
    _require(not os.path.lexists(path), source, "is a device, a pipe or a link to nothing", "name a file")
    if hub.is_name(source) and Path(path).suffix not in {*COMPRESSED, *_KINDS}:
        return None
    raise UserError(f"there is no file {shown(source)}; check the path.")


def _require(fulfilled: Any, source: str, found: str, expected: str) -> None:
    if not fulfilled:
        raise UserError(f"{source} {found}; {expected}.")


def _separator(path: Path, kind: str) -> str:
    """What stands between fields: of .csv what its first line sets, such as `sep=;`, or else a semicolon or a tab if
    that line has one and no comma, but in quotes. Excel writes the first two, where the comma is the decimal sign."""
    if kind != ".csv":
        return _SEPARATORS[kind]
    with open_text(path) as file:
        lines = (line for line in iter(functools.partial(file.readline, LONGEST_LINE), "") if line.strip())
        first = re.sub('"[^"]*"', "", next(lines, ""))
    if setting := _SETTING.fullmatch(first):
        return setting[1]
    return next((separator for separator in ",;\t" if separator in first), ",")


def _separated(
    source: str,
    path: Path,
    separator: str,
    quoted: bool,
    header: Sequence[str] | None,
    skipped: Counter[str] | None,
) -> Iterator[Row]:
    lines = _lines_of_fields(source, path, separator, quoted)
    names = _header(source, *_first(lines)) if header is None else list(header)
    for line, fields in lines:
        if _is_blank(fields) and len(names) > 1:
            continue
        place = f"{source}, line {line}"
        if quoted and separator == "\t" and _swallows(fields, len(names)):
            raise UserError(
                f"{source}, line {line}: a field in double quotes holds whole rows; if quotes are part of the text, "
                "as in GLUE's files, use --no-quotes, else write the file as .csv or .jsonl."
            )
        if len(fields) == len(names):
            # Columns without a name hold no field of a row: spreadsheets leave empty ones at the right.
            yield Row({name: field for name, field in zip(names, fields) if name}, place)
        elif skipped is not None:
            skipped["too few fields" if len(fields) < len(names) else "too many fields"] += 1
        else:
            raise UserError(
                f"{place} has {_counted(len(fields), 'field')}, but there are {_counted(len(names), 'column')} "
                f"({listed(names)}); mend the line or, to train, leave such lines out with --skip-bad."
            )


def _swallows(fields: list[str], columns: int) -> bool:
    """Whether what quotes make one row looks like several: quotes that have nothing to do with each other do so."""
    lines = "\t".join(fields).split("\n")
    return columns > 1 and len(lines) > 1 and all(line.count("\t") + 1 == columns for line in lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _header(source: str, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = [name for name, times in Counter(names).items() if times > 1 and name]
    if twice:
        raise UserError(
            f"{source}, line {line} names the column {shown(twice[0])} twice; give each column a name of its own, in a "
            "first line of names."
        )
    return names


def _lines_of_fields(source: str, path: Path, separator: str, quoted: bool) -> Generator[tuple[int, list[str]]]:
    """Fields of each line that holds something, and its number; a quoted field may go over several lines."""
    with _fields_of_at_most(LONGEST_FIELD), open_text(path, newline="") as file:
        # Strictly: else what follows a closing quote is silently put together with what it closes.
        reader = csv.reader(
            _lines(source, file.readline),
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _unreadable(source, line, quoted, str(error)) from None
            if line == 1 and fields == ["sep=", ""]:
                continue  # it says what separates fields
            # Where quotes are read a line that holds nothing has no field, and one of "" is an empty text.
            if len(fields) > 1 or (fields and (quoted or fields[0].strip())):
                yield line, fields


def _first(lines: Iterator[tuple[int, list[str]]]) -> tuple[int, list[str]]:
    return next(((line, fields) for line, fields in lines if not _is_blank(fields)), (1, []))


def _is_blank(fields: list[str]) -> bool:
    return len(fields) == 1 and not fields[0].strip()


def _lines(source: str, readline: Callable[[int], str]) -> Iterator[str]:
    number = 0
    while line := readline(LONGEST_LINE):
        number += 1
        if "\0" in line:
            raise nul_byte(source, number)
        if len(line) == LONGEST_LINE:
            raise UserError(f"{source}, line {number} has more than {LONGEST_LINE:,} characters; break it up.")
        yield line


def _unreadable(source: str, line: int, quoted: bool, reason: str) -> UserError:
    if quoted:
        return UserError(
            f"{source}, line {line}: a double quote opens a field that is not closed as it should be ({reason}); if "
            "quotes are part of the text, as in GLUE's files, use --no-quotes."
        )
    return UserError(f"{source}, line {line} cannot be read ({reason}); mend the line.")


@contextlib.contextmanager
def _fields_of_at_most(characters: int) -> Iterator[None]:
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(source: str, path: Path, kind: str, unfold: Unfold | None) -> Iterator[Row]:
    if kind == ".parquet":
        with open_bytes(path) as file:
            spelled = parquet_class_names(file)
            file.seek(0)
            for number, values in enumerate(parquet_rows(file), 1):
                _spell(values, spelled)
                yield Row(values, f"{source}, row {number}")
    else:
        with open_text(path) as text:
            yield from _json_rows(source, text, kind == ".json", unfold)


def _json_rows(source: str, text: IO[str], within: bool, unfold: Unfold | None) -> Iterator[Row]:
    for number, record in enumerate(json_records(text, within), 1):
        place = f"{source}, record {number}"
        rows = [] if unfold is None else unfold(record, place)
        yield from rows or [Row(an_object(record, number), place)]


def _dataset_rows(name: str, split: str) -> Iterator[Row]:
    split, rows = hub.split(name, split)
    name, _ = hub.without_split(name)
    spelled = {column: names for column, feature in rows.features.items() if (names := _class_names(feature))}
    for number, values in enumerate(rows, 1):
        _spell(values, spelled)
        yield Row(values, f"{name}, {split} row {number}")


def _spell(values: dict[str, Any], names: dict[str, list[str]]) -> None:
    """Put the names of class labels in place of their numbers, by column."""
    for column in names.keys() & values.keys():
        values[column] = _by_name(values[column], names[column])


def _class_names(feature) -> list[str] | None:
    """Of a class label, or of the class labels of a list."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _by_name(value, names: list[str]):
    if isinstance(value, list):
        return [_by_name(element, names) for element in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _not_utf8(source: str, path: Path) -> UserError:
    """What is told of a text that is in another encoding: which, if it can be known, or where that shows."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, more = 1, True
    with open_bytes(path) as file:
        start = file.read(2)
        if start in _UTF16:
            return UserError(f"{source} is UTF-16 text; convert it to UTF-8, with iconv -f UTF-16 -t UTF-8.")
        block = start
        while more:
            more = bool(block)
            try:
                decoder.decode(block, final=not more)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                byte = error.object[error.start]
                return UserError(
                    f"{source}, line {line} is not UTF-8 text (byte 0x{byte:02x}: {error.reason}); convert the file "
                    "with iconv -t UTF-8 -f and the encoding that it has, such as LATIN1 or GB18030."
                )
            line += block.count(b"\n")
            block = file.read(_BLOCK)
    return UserError(f"{source} is not UTF-8 text; convert it, for example with iconv.")
