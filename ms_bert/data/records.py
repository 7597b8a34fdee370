"""The records of JSON and Parquet files, read piece by piece, whatever the size of the file."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from ms_bert.data.reading import WrongRecord
from ms_bert.errors import shown

LONGEST_RECORD = 50_000_000  # characters of a JSON value that is held in memory
_BLOCK = 1_000_000  # characters that are read at a time
_ROWS = 128  # of a Parquet file that are decoded at a time: each may hold a whole book
_LOOKED_THROUGH = 1000  # records, one of which must have the field
_SPACE = re.compile(r"[ \t\r\n]*")


class NoSuchField(Exception):
    """The records have no such field; `names` are those they have."""

    def __init__(self, names: list[str]):
        super().__init__(", ".join(names))
        self.names = names


class NoText(Exception):
    """A field holds something else, which the message names."""


def json_texts(file: IO[str], field: str) -> Iterator[str | None]:
    """The field of each record of a file of JSON, None where a record has none.

    Records are objects, one after the other (JSON lines, or in any other spacing) or the elements of one array; a
    string is taken as a record that has only the field `text`.

    Raises:
        ValueError: the file is not JSON, or a record is too long to be held; RecursionError: it is nested too deeply.
        NoSuchField, NoText.
    """
    names: dict[str, None] = {}
    found, number = False, 0
    for number, record in enumerate(_Json(file).values(), 1):
        record = an_object({"text": record} if isinstance(record, str) else record, number)
        if not found:
            names |= dict.fromkeys(record)
            found = field in record
            if not found and number == _LOOKED_THROUGH:
                break
        value = record.get(field)
        if not isinstance(value, str | None):
            raise NoText(f"{kind(value)} (record {number})")
        yield _without_half_characters(value)
    if number and not found:
        raise NoSuchField(list(names))


def json_records(file: IO[str], within: bool = False) -> Iterator[Any]:
    """Each record of a file of JSON, whatever it is, spaced as for `json_texts`.

    Args:
        within: if the file holds an object and nothing else, one of whose fields is a list of objects, these are the
            records.

    Raises:
        ValueError: the file is not JSON, or a record is too long to be held; RecursionError: it is nested too deeply.
    """
    read = _Json(file)
    values = read.values()
    first = list(itertools.islice(values, 2))
    if within and len(first) == 1 and not read.is_array and isinstance(first[0], dict):
        lists = [value for value in first[0].values() if _holds_objects(value)]
        first = lists[0] if len(lists) == 1 else first
    for record in itertools.chain(first, values):
        yield _without_half_characters(record)


def parquet_rows(file: str | IO[bytes]) -> Iterator[dict[str, Any]]:
    """Each row of a Parquet file.

    Raises:
        pyarrow.ArrowException, OSError: the file is damaged. UnicodeDecodeError: a text is not UTF-8.
        ValueError: two columns have one name.
    """
    with parquet.ParquetFile(file, page_checksum_verification=True) as table:
        twice = next((name for name, times in Counter(table.schema_arrow.names).items() if times > 1), None)
        if twice is not None:
            raise ValueError(f"several columns are called {shown(twice)}")
        for batch in table.iter_batches(_ROWS):
            yield from batch.to_pylist()


def parquet_class_names(file: str | IO[bytes]) -> dict[str, list[str]]:
    """The names of the class labels of each column that has them, which stand as numbers in its rows or their lists: as
    `datasets` writes them into the metadata of a file.

    Raises:
        pyarrow.ArrowException, OSError: the file is damaged.
    """
    with parquet.ParquetFile(file) as table:
        metadata = table.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _class_names(feature))}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        return {}  # none are told, or not in a form that is known


def _class_names(feature: Any) -> list[str] | None:
    if isinstance(feature, list):  # how older versions write lists
        feature = feature[0]
    inner = feature.get("feature")
    if inner is not None:
        return _class_names(inner)
    names = feature.get("names")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if feature.get("_type") == "ClassLabel" and is_list else None


def parquet_texts(file: str | IO[bytes], field: str) -> Iterator[str | None]:
    """The field of each row of a Parquet file.

    Raises:
        pyarrow.ArrowException, OSError: the file is damaged. UnicodeDecodeError: a text is not UTF-8.
        NoSuchField, NoText.
    """
    with parquet.ParquetFile(file, page_checksum_verification=True) as table:
        schema = table.schema_arrow
        if field not in schema.names:
            raise NoSuchField(schema.names)
        if schema.names.count(field) > 1:
            raise NoText("several columns")
        type_ = schema.field(field).type
        content = type_.value_type if pa.types.is_dictionary(type_) else type_
        tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(test(content) for test in tests):
            raise NoText(f"a column of type {str(type_)[:100]!r}")
        for batch in table.iter_batches(_ROWS, columns=[field]):
            yield from batch.column(0).to_pylist()


class _Json:
    """A file of JSON values, of which only the one that is parsed is held.

    Attributes:
        is_array: whether they are the elements of an array, as far as the file is read.
    """

    def __init__(self, file: IO[str]):
        self._file, self._buffer, self._place, self._line = file, "", 0, 1
        self.is_array = False
        self._decode = json.JSONDecoder().raw_decode

    def values(self) -> Iterator:
        if self._peek() != "[":
            while self._peek():
                yield self._value()
            return
        self.is_array = True
        self._place += 1
        if self._peek() == "]":
            self._place += 1
        else:
            mark = ","
            while mark == ",":
                yield self._value()
                mark = self._peek()
                self._place += 1
            if mark != "]":
                raise ValueError(
                    f"line {self._line_at(self._place)}: an element is followed by {mark!r}, not by , or ]"
                )
        if self._peek():
            raise ValueError(f"line {self._line_at(self._place)}: there is more text after the array")

    def _peek(self) -> str:
        """The next character that is not white space; none at the end."""
        while True:
            if space := _SPACE.match(self._buffer, self._place):  # always, if only nothing
                self._place = space.end()
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._more():
                return ""

    def _value(self):
        self._peek()
        while True:
            try:
                value, self._place = self._decode(self._buffer, self._place)
                return value
            except ValueError as error:
                held, place = len(self._buffer) - self._place, getattr(error, "pos", self._place) - self._place
                if held < LONGEST_RECORD and self._more():
                    continue  # perhaps its end had not been read
                reason = getattr(error, "msg", error)
                if held >= LONGEST_RECORD:
                    reason = f"a record of more than {LONGEST_RECORD:,} characters"
                raise ValueError(f"line {self._line_at(self._place + place)}: {reason}") from None

    def _more(self) -> bool:
        """Read on; as much again as is held, so that a long value is not parsed too often."""
        self._line += self._buffer.count("\n", 0, self._place)
        self._buffer, self._place = self._buffer[self._place :], 0
        block = self._file.read(max(_BLOCK, len(self._buffer)))
        self._buffer += block
        return bool(block)

    def _line_at(self, place: int) -> int:
        return self._line + self._buffer.count("\n", 0, place)


def kind(value) -> str:
    """What a value of a record is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    words = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return words.get(type(value), f"a value of type {type(value).__name__}")


def an_object(record: Any, number: int) -> dict[str, Any]:
    """The record, if it is an object of JSON; raises WrongRecord if not."""
    if not isinstance(record, dict):
        raise WrongRecord(f"record {number} is {kind(record)}, not an object")
    return record


def _holds_objects(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _without_half_characters(value):
    """U+FFFD for half a surrogate pair, which JSON can spell and no text can hold: what cuts strings leaves them.

    Of a string, and of all strings that a list or an object holds; any other value stays as it is.
    """
    if isinstance(value, list):
        return [_without_half_characters(element) for element in value]
    if isinstance(value, dict):
        return {name: _without_half_characters(element) for name, element in value.items()}
    return _whole(value) if isinstance(value, str) else value


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
