"""What is kept for the next run: checked whenever it is read, and made by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import google_crc32c

from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError, printable

Kept = TypeVar("Kept")


class Damaged(UserError):
    """Something in the cache is not what was written there."""


def kept_or_made(
    lock_file: Path, what: str, read: Callable[[], Kept], make: Callable[[bool], None]
) -> tuple[Kept, bool]:
    """What `read` gives, made before if need be; and whether it was made.

    `read` raises FileNotFoundError or Damaged. Of several processes that want the same one makes it and the others
    wait, in whatever containers they run on one file system. `make` is told whether it is alone: not where the file
    system has no locks; there it must put what it made into its place by a rename.
    """
    with contextlib.suppress(FileNotFoundError, Damaged):
        return read(), False
    with locked(lock_file, f"another process is making {what}; waiting for it.") as alone:
        try:
            return read(), False
        except FileNotFoundError:
            pass
        except Damaged as error:
            say(f"{error}; making it again.")
        make(alone)
        return read(), True


@contextlib.contextmanager
def locked(path: Path, waiting: str | None) -> Iterator[bool]:
    """Hold a lock, which ends with the process at the latest; gives whether it is held.

    It is not where the file system has no locks, nor, with no sentence to say while waiting, where another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        yield _lock(file, waiting)


def _lock(file, waiting: str | None) -> bool:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                return False
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def write_sealed(path: Path, value: dict) -> None:
    """Write a JSON object together with its hash."""
    write_atomically(path, json.dumps({"sha256": _seal(value), **value}).encode())


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote.

    Raises:
        FileNotFoundError. Damaged: it is not what was written, or another version wrote it.
    """
    try:
        value = json.loads(path.read_bytes())
        if value.pop("sha256") == _seal(value):
            return value
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Damaged(f"{path} is damaged, or another version wrote it")


def checksum(path: Path) -> list[int]:
    """A file's length and its CRC-32C, which finds damage by accident at the speed of the disk."""
    length, crc = 0, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            length, crc = length + len(block), google_crc32c.extend(crc, block)
    return [length, crc]


def say(sentence: str) -> None:
    """Tell something on the way."""
    print(printable(sentence), file=sys.stderr, flush=True)


def _seal(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
