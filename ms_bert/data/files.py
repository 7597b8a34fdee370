"""Writing files so that a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, make_folder: bool = True) -> None:
    """Write beside, fsync, rename; the folder is made if needed, unless a missing one is to be an error."""
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
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
_UMASK = _tried_umask() if _told_umask() is None else None
