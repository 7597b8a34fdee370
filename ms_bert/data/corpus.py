"""A corpus: files, the built-in text or a Hugging Face dataset, as a stream of documents (lists of lines)."""

from __future__ import annotations

import bisect
import contextlib
import copy
import glob
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ms_bert.data import builtin, hub
from ms_bert.data.cache import Damaged, read_sealed, say, write_sealed
from ms_bert.data.files import file_hash
from ms_bert.data.reading import COMPRESSED, endings, open_bytes, open_text, told_to_the_user
from ms_bert.data.records import NoSuchField, NoText, json_texts, parquet_texts
from ms_bert.errors import UserError, listed
from ms_bert.options import TextOptions

_TEXT, _JSON, _PARQUET = {".txt", ""}, {".jsonl", ".json"}, {".parquet"}
_STREAM = re.compile(r"-|/dev/(stdin|fd/.*)|/proc/.*")
_HASH_AGAIN = 1 << 20  # bytes up to which a file is hashed sooner than its hash is looked up

# A text without an end, of a line or of a document, would take any memory; it is cut here.
LONGEST_DOCUMENT = LONGEST_LINE = 1_000_000  # characters


class Corpus:
    """The documents that `--corpus` names, in a fixed order.

    Raises:
        UserError: nothing matches a name, or a file is of an unknown kind.
    """

    def __init__(self, options: TextOptions):
        self.options = options
        self.sources = [source for name in options.corpus for source in _sources(name)]

    def documents(self) -> Iterator[list[str]]:
        """Each document as its non-empty lines, without line ends; a very long line or document comes in parts.

        Raises:
            UserError: a file cannot be read to its end, or a record holds no text.
        """
        for source in self.sources:
            document, size = [], 0
            for line in itertools.chain(source.lines(self.options), [None]):
                if line:
                    document.append(line)
                    size += len(line)
                if document and (line is None or size > LONGEST_DOCUMENT):
                    yield document
                    document, size = [], 0

    def shards(self, count: int) -> list[Corpus]:
        """So many corpora that together are this one: some files in a row each, of about equal size.

        Raises:
            UserError: there are fewer files.
        """
        if len(self.sources) < count:
            files = f"{len(self.sources)} file{'s' if len(self.sources) > 1 else ''}"
            raise UserError(
                f"the corpus has {files}, fewer than {count} shards; choose as many shards at most, or split large "
                "files at the ends of documents."
            )
        found = []
        for dealt in _dealt([source.megabytes() for source in self.sources], count):
            found.append(copy.copy(self))
            found[-1].sources = [self.sources[at] for at in dealt]
        return found

    def fingerprint(self) -> list:
        """JSON values that differ when the text differs."""
        return [source.fingerprint(self.options) for source in self.sources]

    def megabytes(self) -> float:
        """About how much text there is."""
        return sum(source.megabytes() for source in self.sources)


# A source gives its lines, without line ends and white space around them; None ends a document.


class _Builtin:
    def lines(self, options):
        for document in builtin.documents():
            yield from document
            yield None

    def fingerprint(self, options):
        return {"builtin": 1, **builtin.versions()}

    def megabytes(self):
        return 13.0


class _File:
    """One file, its kind told by its ending."""

    def __init__(self, path: Path):
        self.path = path
        self.kind, self.compression = endings(path)
        if self.kind not in _TEXT | _JSON | _PARQUET:
            raise UserError(
                f"{path} has an unknown ending; expected .txt, .jsonl, .json or .parquet, also with .gz or .xz."
            )

    def lines(self, options):
        with self._read(options):
            if self.kind in _PARQUET:
                with open_bytes(self.path) as file:
                    yield from _record_lines(parquet_texts(file, options.text_field))
                return
            with open_text(self.path) as file:
                if self.kind in _JSON:
                    yield from _record_lines(json_texts(file, options.text_field))
                else:
                    yield from _text_lines(file, options.documents)

    @contextlib.contextmanager
    def _read(self, options):
        with told_to_the_user(self.path):
            try:
                yield
            except (NoSuchField, NoText) as error:
                raise _unfit(self.path, options.text_field, error) from None

    def fingerprint(self, options):
        with self._read(options):
            if self.compression:
                with open_bytes(self.path) as file:
                    file.read(1)  # the same bytes under a name without .gz are another text, or none
            return [self.kind, _content_hash(self.path, options.cache)]

    def megabytes(self):
        # Text shrinks to about a third under gzip and xz, and in Parquet.
        return self.path.stat().st_size / 1e6 * (3 if self.compression or self.kind in _PARQUET else 1)


class _Dataset:
    """A dataset of the Hugging Face hub or a saved one, as `datasets` loads it: its train split, or its only one."""

    def __init__(self, name: str):
        self.name = name
        _, self.rows = hub.split(name, "")

    def lines(self, options):
        field = options.text_field
        if field not in self.rows.column_names:
            raise _unfit(self.name, field, NoSuchField(self.rows.column_names))
        for row in self.rows.select_columns(field):
            if not isinstance(row[field], str | None):
                raise _unfit(self.name, field, NoText(f"a value of type {type(row[field]).__name__}"))
            yield from _record_lines([row[field]])

    def fingerprint(self, options):
        return [self.name, self.rows._fingerprint]

    def megabytes(self):
        return (self.rows.data.nbytes or 0) / 1e6


def _sources(name: str) -> list:
    if name == "builtin":
        return [_Builtin()]
    if not name.strip():
        raise UserError("--corpus names an empty path; name a file, a folder (. for this one), a dataset or `builtin`.")
    path = os.path.expanduser(name)
    if _STREAM.fullmatch(path):
        raise UserError(f"--corpus {name!r} can be read only once, but text is read several times; write it to a file.")
    if hub.is_saved(path):
        return [_Dataset(name)]
    if os.path.isdir(path):
        files = sorted(p for p in Path(path).rglob("*") if p.is_file() and not p.name.startswith("."))
        if not files:
            raise UserError(f"the folder --corpus {name!r} holds no files that can be read; name another folder.")
    elif os.path.isfile(path):
        files = [Path(path)]
    elif os.path.lexists(path):
        raise UserError(f"--corpus {name!r} is a device, a pipe or a broken link; name a file or a folder.")
    else:
        files = sorted(Path(match) for match in _matches(path) if os.path.isfile(match))
    if files:
        return [_File(file) for file in files]
    if hub.is_name(name) and Path(path).suffix not in {*COMPRESSED, *_TEXT, *_JSON, *_PARQUET} - {""}:
        return [_Dataset(name)]
    raise UserError(f"no file matches --corpus {name!r}; check the path, or quote the glob.")


def _dealt(sizes: Sequence[float], count: int) -> list[range]:
    """Indices of `sizes` in `count` ranges, none empty: each ends where the sum comes nearest to its share."""
    sums = [0.0, *itertools.accumulate(sizes)]
    ends = [0]
    for number in range(1, count):
        aim = sums[-1] * number / count
        end = bisect.bisect_left(sums, aim)
        if end > 0 and aim - sums[end - 1] < sums[end] - aim:
            end -= 1
        ends.append(min(max(end, ends[-1] + 1), len(sizes) - (count - number)))
    return [range(*pair) for pair in itertools.pairwise([*ends, len(sizes)])]


def _matches(pattern: str) -> list[str]:
    try:
        return glob.glob(pattern, recursive=True)
    except (ValueError, re.error):  # such as a NUL byte
        return []


def _text_lines(file, documents: str) -> Iterator[str | None]:
    """The lines of a text file; `documents` says what ends a document."""
    rest = ""
    while piece := file.readline(LONGEST_LINE):
        *parts, rest = _parts(rest + piece)
        yield from parts
        if piece.endswith("\n"):
            line, rest = rest.strip(), ""
            yield line
            if documents == "line" or (documents == "blank-line" and not line):
                yield None
    yield rest.strip()


def _record_lines(texts: Iterable[str | None]) -> Iterator[str | None]:
    """The lines of records, each of which is a document."""
    for text in texts:
        for line in (text or "").splitlines():
            for part in _parts(line):
                yield part.strip()
        yield None


def _parts(line: str) -> Iterator[str]:
    """A line, or its parts if it is too long: cut at the last white space before the bound, if there is any."""
    while len(line) > LONGEST_LINE:
        head = line[:LONGEST_LINE]
        words = head.rsplit(None, 1)
        end = len(words[0]) if len(words) > 1 else LONGEST_LINE  # of a single word, or of none, all
        yield line[:end].strip()
        line = line[end:]
    yield line


def _unfit(name: str | Path, field: str, error: NoSuchField | NoText) -> UserError:
    if isinstance(error, NoText):
        return UserError(f"{name}: field {field!r} is {error}, not text; name a field of text with --text-field.")
    names = listed(error.names) or "none"
    return UserError(f"{name} has no field {field!r} (its fields: {names}); name one of them with --text-field.")


def _content_hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file; that of a large one is remembered for as long as its path, size and times stay the same.

    Raises:
        UserError: there is no remembering, for the cache cannot be used.
    """
    stat = path.stat()
    if stat.st_size <= _HASH_AGAIN:
        return file_hash(path)
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    remembered = cache / "hashes" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    with _usable(cache):
        try:
            return read_sealed(remembered)["content"]
        except FileNotFoundError:
            pass
        except Damaged as error:
            say(f"{error}; hashing {path} again.")
    digest = file_hash(path)
    with _usable(cache):
        write_sealed(remembered, {"content": digest})
    return digest


@contextlib.contextmanager
def _usable(cache: Path) -> Iterator[None]:
    """Raise a UserError that names the cache, not the text, where the cache cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache {cache} cannot be used ({error.strerror or error}); name another folder with --cache."
        ) from None
