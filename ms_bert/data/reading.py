"""Files that may be compressed: opened by their ending, and what may go wrong while they are read, told to the user."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from ms_bert.errors import UserError

COMPRESSED: dict[str, Callable[..., IO]] = {".gz": gzip.open, ".xz": lzma.open}


class WrongRecord(ValueError):
    """A record is no object of JSON; the message says which one, and what it is."""


def endings(path: Path) -> tuple[str, str]:
    """What ends a file's name: `.jsonl` and `.gz` of a.jsonl.gz, in small letters; either may be missing."""
    name = Path(path.name.lower())
    compression = name.suffix if name.suffix in COMPRESSED else ""
    return Path(name.name.removesuffix(compression)).suffix, compression


def open_bytes(path: Path) -> IO[bytes]:
    """The content of a file, decompressed where its ending asks for it."""
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """The same as UTF-8 text, without a byte-order mark; `newline` as that of Python's `open`."""
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8-sig", newline=newline)


@contextlib.contextmanager
def told_to_the_user(path: Path) -> Iterator[None]:
    """What may go wrong while a file is read.

    Raises:
        UserError: the file cannot be read to its end, is not UTF-8 or not what its ending says.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start} of a block); "
            "convert it, for example with iconv."
        ) from None
    except RecursionError:
        raise UserError(f"{path} holds a record that is nested too deeply; replace or remove it.") from None
    except WrongRecord as error:
        raise UserError(f"{path}: {error}; make each record an object whose fields have names.") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read to its end ({reason[:200]}); replace or remove it.") from None
