"""How what was written comes to its place, so that a kill at any moment loses neither the old checkpoint nor the new.

The work is done in a folder beside the target, which is gone in the end:

.NAME.writing/
  lock           held by the conversion that is under way; where nobody holds it, that one was killed
  new/           what is written, read back and compared
  placing.json   the files that are being moved to their places, where they are several
  old/           what the target was until then

A single file is replaced by a rename, and a folder by the exchange of two names, where the system has that: there is
the old or the new at any moment. Of several files, the one that makes them a checkpoint is taken away first and put
in place last: there is the old checkpoint, none, or the new one, and never a mixture that could be read. Killed
before the last is in place, the next conversion to the same target puts the old one back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

from ms_bert.data.files import remove, sync_folder, write_atomically
from ms_bert.errors import UserError

# Of the C library, <fcntl.h> and <stdio.h> of Linux.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What file systems answer that cannot do what is asked, or hold no locks.
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class Workplace:
    """The folder beside a target in which one conversion at a time works.

    Attributes:
        folder: itself. new: where the target is to be written, an empty folder.
    """

    def __init__(self, target: Path):
        self._target = target
        self.folder = folder_of(target)
        self.new = self.folder / "new"
        self._old, self._lock, self._journal = (self.folder / name for name in ("old", "lock", "placing.json"))

    def place(self, entries: dict[str, Path], old: Collection[str]) -> None:
        """Move files or folders to their places beside each other.

        Args:
            entries: by the names that they get; the last is the one that makes them a checkpoint.
            old: names of what they replace; nothing else is ever replaced.

        Raises:
            UserError: at another of the places there is something. OSError: they cannot be moved.
        """
        home, old, main = self._target.parent, set(old), list(entries)[-1]
        if len(entries) == 1 and old <= {main} and _in_one_step(entries[main], home / main, bool(old)):
            sync_folder(home)
            return
        marks = {name: _mark(path) for name, path in entries.items()}
        write_atomically(self._journal, json.dumps({"main": main, "new": marks}).encode())
        # One file alone can be replaced where it is.
        taken = old if old - {main} or entries[main].is_dir() else set()
        self._old.mkdir()
        for name in sorted(taken, key=lambda name: (name != main, name)):
            os.rename(home / name, self._old / name)
        for name, path in entries.items():
            if name in old - taken:
                os.replace(path, home / name)
            else:
                _move_to_free(path, home / name)
        sync_folder(home)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock; in the end, undo what was not finished and remove it."""
        lock = self._acquire()
        try:
            try:
                yield
            finally:
                self.settle()
                with contextlib.suppress(OSError):  # what stays is removed by the next conversion
                    self.clear()
                    self._lock.unlink()
                    self.folder.rmdir()
        finally:
            os.close(lock)

    def _acquire(self) -> int:
        while True:
            self.folder.mkdir(exist_ok=True)
            if not self._lock.exists() and (others := sorted(path.name for path in self.folder.iterdir())):
                raise UserError(f"{self.folder} holds {others[0]}, which no conversion has put there; move it away.")
            try:
                lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # another one has just ended
                continue
            try:
                self._hold(lock)
                if _same_file(lock, self._lock):  # and not one that its holder has removed since
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _hold(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another conversion to {self._target} is under way; wait for it, or name another target."
            ) from None
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            if self.new.exists():
                raise UserError(
                    f"{self.folder} belongs to another conversion, and this file system cannot tell whether that is "
                    "still under way; delete the folder if it is not."
                ) from None

    def settle(self) -> str:
        """Undo what was not finished; returns what became of the target, '' where nothing is to be said."""
        if not self._journal.exists():
            return ""
        home, (main, marks) = self._target.parent, self._read_journal()
        placed = [name for name in marks if _mark(home / name) == marks[name]]
        if main in placed:  # it was put there last: the new checkpoint is whole
            return ""
        for name in placed:
            remove(home / name)
        old = sorted(os.listdir(self._old), key=lambda name: (name == main, name)) if self._old.exists() else []
        for name in old:
            if os.path.lexists(home / name):
                raise UserError(
                    f"{home / name} appeared after a killed conversion had moved the old one to {self._old / name}; "
                    "move one of the two away."
                )
            os.rename(self._old / name, home / name)
        sync_folder(home)
        return (
            "the old checkpoint was restored" if old else "the files that it had written were removed" if placed else ""
        )

    def _read_journal(self) -> tuple[str, dict]:
        """Which of the files is put in place last, and the marks of all by name."""
        try:
            journal = json.loads(self._journal.read_text(encoding="utf-8"))
            main, marks = journal["main"], journal["new"]
            if main in marks and all(Path(name).name == name for name in marks):
                return main, marks
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise UserError(
            f"{self._journal}, which is needed to undo a killed conversion, is damaged; move the files in {self._old} "
            f"back, if there are any, and delete {self.folder}."
        )

    def clear(self) -> None:
        """Remove everything, the lock last: where the journal is gone, nothing of the rest is needed."""
        self._journal.unlink(missing_ok=True)
        for path in sorted(self.folder.iterdir()):
            if path != self._lock:
                remove(path)


def folder_of(target: Path) -> Path:
    """The folder in which conversions to a target work."""
    return target.with_name(f".{target.name}.writing")


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Workplace]:
    """The workplace of a target, cleared of what a killed conversion left; nothing of it is there in the end.

    Raises:
        UserError: another conversion to the target is under way. OSError: nothing can be written there.
    """
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    place = Workplace(target)
    try:
        with place.held():
            if told := place.settle():
                warnings.warn(f"an earlier conversion to {target} was killed: {told}.", stacklevel=4)
            place.clear()
            place.new.mkdir()
            yield place
    finally:
        for above in made:
            if above.exists() and not any(above.iterdir()):
                above.rmdir()


def _mark(path: Path) -> list[int] | None:
    """By what a file or folder is known again after a rename; None where there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_mtime_ns]


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _in_one_step(path: Path, target: Path, replaces: bool) -> bool:
    """Put one file or folder in its place; False, with nothing done, where that takes several steps."""
    if not replaces:
        _move_to_free(path, target)
    elif path.is_dir():
        return _exchange(path, target)
    else:
        os.replace(path, target)
    return True


def _exchange(a: Path, b: Path) -> bool:
    """Let two names change places in one step; False, with nothing done, where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def _move_to_free(path: Path, target: Path) -> None:
    """Rename a file or folder, but never over anything else than an empty folder."""
    if path.is_dir():
        os.rename(path, target)  # the system's own rule for folders
        return
    try:
        os.link(path, target)
    except FileExistsError:
        raise UserError(f"{target} appeared during the conversion; name another target.") from None
    except OSError:  # no hard links on this file system
        if os.path.lexists(target):
            raise UserError(f"{target} appeared during the conversion; name another target.") from None
        os.replace(path, target)
    else:
        path.unlink()
