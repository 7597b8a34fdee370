"""Writing files so that a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, make_folder: bool = True) -> None:
    """Write beside, fsync, rename; the folder is made if needed, unless a missing one is to be an error."""
    with opened_atomically(path, make_folder) as file:
        file.write(content)


@contextlib.contextmanager
def opened_atomically(path: Path, make_folder: bool = True) -> Iterator[BinaryIO]:
    """As `write_atomically`, of what is written to a file bit by bit; if an exception ends that, none of it is kept."""
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~umask())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: it cannot be read, or is no regular file: a pipe might never end, or never begin.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a regular file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or whatever else is in its place; nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a regular file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def umask() -> int:
    """The process's file mode mask, read without setting it, for other threads make files meanwhile."""
    mask = _told_umask()
    return _UMASK if mask is None else mask


def _told_umask() -> int | None:
    """What the kernel (Linux 4.7 and later) tells of it; None where it does not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), None)


def _tried_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Where it is told nowhere it can only be had by setting it: once, while there is one thread.
_UMASK = _tried_umask() if (_told := _told_umask()) is None else _told
