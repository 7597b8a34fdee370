"""A corpus: files, the built-in text or a Hugging Face dataset, as a stream of documents (lists of lines)."""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import logging
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

from ms_bert.data import builtin
from ms_bert.data.files import file_hash, write_atomically
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

_OPEN = {".gz": gzip.open, ".xz": lzma.open}
_TEXT, _RECORDS = {".txt", ""}, {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_DATASET_NAME = re.compile(r"[\w-]+(\.[\w-]+)*(/[\w.-]+)?(:[\w.-]+)?")

# A text file without blank lines would be one document of any size; it is cut here, so that memory stays bounded.
LONGEST_DOCUMENT = 1_000_000  # characters


class Corpus:
    """The documents that `--corpus` names, in a fixed order.

    Raises:
        UserError: nothing matches a name, or a file is of an unknown kind.
    """

    def __init__(self, options: TextOptions):
        self.options = options
        self.sources = [source for name in options.corpus for source in _sources(name)]

    def documents(self) -> Iterator[list[str]]:
        """Each document as its non-empty lines, without line ends."""
        for source in self.sources:
            for document in source.documents(self.options):
                lines = [line for line in document if line]
                if lines:
                    yield lines

    def fingerprint(self) -> list:
        """JSON values that differ when the text differs."""
        return [source.fingerprint(self.options) for source in self.sources]

    def megabytes(self) -> float:
        """About how much text there is."""
        return sum(source.megabytes() for source in self.sources)


class _Builtin:
    def documents(self, options):
        return builtin.documents()

    def fingerprint(self, options):
        return {"builtin": 1, **builtin.versions()}

    def megabytes(self):
        return 13.0


class _File:
    """One file, its kind told by its ending."""

    def __init__(self, path: Path):
        self.path = path
        self.compression = path.suffix if path.suffix in _OPEN else ""
        self.kind = Path(path.name.removesuffix(self.compression)).suffix
        if self.kind not in _TEXT and self.kind not in _RECORDS:
            raise UserError(f"{path} is of an unknown kind; expected .txt, .jsonl, .json or .parquet, also .gz or .xz.")

    def documents(self, options):
        if self.kind in _RECORDS:
            rows = _load(
                _RECORDS[self.kind],
                f"{self.path} cannot be read to its end",
                data_files=str(self.path),
                cache_dir=str(options.cache / "datasets"),
            )
            yield from _records(rows, options.text_field, self.path)
            return
        document, size = [], 0
        for line in self._lines():
            if line:
                document.append(line)
                size += len(line)
            ends = options.documents == "line" or (options.documents == "blank-line" and not line)
            if document and (ends or size > LONGEST_DOCUMENT):
                yield document
                document, size = [], 0
        yield document

    def _lines(self):
        try:
            with _OPEN.get(self.compression, open)(self.path, "rt", encoding="utf-8-sig") as file:
                for line in file:
                    yield line.strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not UTF-8 text ({error.reason} at byte {error.start} of a block); "
                "convert it, for example with iconv."
            ) from None
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise UserError(f"{self.path} cannot be read to its end ({error}); replace or remove it.") from None

    def fingerprint(self, options):
        return [self.kind, _content_hash(self.path, options.cache)]

    def megabytes(self):
        # Text shrinks to about a third under gzip and xz, and in Parquet.
        return self.path.stat().st_size / 1e6 * (3 if self.compression or self.kind == ".parquet" else 1)


class _Dataset:
    """A dataset of the Hugging Face hub, as `datasets` loads it: its train split, or its only one."""

    def __init__(self, name: str):
        self.name = name
        path, _, config = name.partition(":")
        self.rows = _load(
            path,
            f"there is no file {name!r}, and no Hugging Face dataset of this name can be loaded",
            name=config or None,
        )

    def documents(self, options):
        return _records(self.rows, options.text_field, self.name)

    def fingerprint(self, options):
        return [self.name, self.rows._fingerprint]

    def megabytes(self):
        return (self.rows.data.nbytes or 0) / 1e6


def _sources(name: str) -> list:
    if name == "builtin":
        return [_Builtin()]
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    elif path.exists():
        files = [path]
    else:
        files = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if files:
        return [_File(file) for file in files]
    if _DATASET_NAME.fullmatch(name) and not path.is_dir() and path.suffix not in {*_OPEN, *_RECORDS, ".txt"}:
        return [_Dataset(name)]
    raise UserError(f"no file matches --corpus {name!r}; check the path, or quote the glob.")


def _load(kind: str, failed: str, **arguments):
    """A split of `datasets.load_dataset`, memory-mapped; `failed` says what to tell when there is none."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it would log is in the exception
    try:
        splits = datasets.load_dataset(kind, **arguments)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(f"{failed} ({lines[0]}).") from error
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _records(rows, field: str, name) -> Iterator[list[str]]:
    if field not in rows.column_names:
        raise UserError(
            f"{name} has no field {field!r}, only {', '.join(rows.column_names)}; name one with --text-field."
        )
    try:
        for row in rows.select_columns(field):
            yield [line.strip() for line in (row[field] or "").splitlines()]
    except UnicodeDecodeError as error:  # pyarrow looks at the bytes of a text no earlier
        raise UserError(
            f"{name} has a {field!r} that is not UTF-8 text ({error.reason} at its byte {error.start}); "
            "convert it, for example with iconv."
        ) from None


def _content_hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file, remembered for as long as its path, size and times stay the same."""
    stat = path.stat()
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    remembered = cache / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if remembered.exists():
        return remembered.read_text()
    digest = file_hash(path)
    write_atomically(remembered, digest.encode())
    return digest
