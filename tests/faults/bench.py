"""Where hostile input meets a command: a fork of this process, under limits, watched, and judged by what it leaves.

The process must have no threads that a fork would miss, and must have imported what the commands need: then a mutant
costs milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import fnmatch
import gc
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ms_bert.data import tokenizing
from tests.faults.mutations import CANARY, NATURES, SECRET, mutate

OUTCOMES = {
    "same": "read, with the result of the sound file",
    "other": "read, with another result; no checksum guards what was changed",
    "recovered": "damage was found, and the result is that of the sound files all the same",
    "refused": "one message, of readable length, and an exit code",
}
FAILURES = {
    "traceback": "any exception but UserError and OSError reached the user",
    "crash": "a signal ended the process",
    "hang": "the limit of time",
    "memory": "the limit of memory, or MemoryError",
    "executed": "code in the mutant ran",
    "outside": "something outside the folder was read or written",
    "left behind": "a refusal that changed something, or a hidden file that stays",
    "message": "a refusal of no message or several, too long, with control characters, or with exit code 0",
    "sound": "the sound files themselves were not read",
    "believed": "accepted, though a checksum or a rule says that it is wrong",
}

MEMORY = 1 << 30  # bytes that a command may take for a mutant of some kilobytes
SECONDS = 15  # of the processor; twice that by the clock
FILE_SIZE = 1 << 30  # bytes
LONGEST_MESSAGE = 1000  # characters
MOST_LINES = 6
_OWN = ("conversion", "ms_bert", "pt_reference")


REMADE = "remade "  # begins the result of a command that found damage in a cache and made what it needs again


class Believed(Exception):
    """A command took for sound what is not."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Something that a user does with the files.

    Attributes:
        run: gives the exit code; messages go to the standard streams. result: what came of it, to be compared.
        changes: patterns of what it may write and replace where it succeeds. It may write in cache/ always.
        adds: patterns of what it may write where there was nothing.
        answer: an exit code other than 0 that is no refusal. begins: with exit code 1 it ends in the middle of work,
            and may have written some.
    """

    name: str
    run: Callable[[], int]
    result: Callable[[], str]
    changes: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    answer: int = 0
    begins: bool = False


@dataclasses.dataclass(frozen=True)
class Subject:
    """Files, how they are damaged, and the commands that read them.

    Attributes:
        make: writes the sound files into the current folder. files: patterns of those that are damaged, and the form of
            each, a key of FORMS. commands: of which each mutant meets one.
        reseal: makes the checksums fit the damage, where there are some; returns whether it did.
        guarded: checksums must see all that is not resealed: a result that is not the sound one's is a failure.
        natures: what else than a file a mutant may be. foreign: it is another's work, whose control characters must not
            reach the terminal; a user's own command line may.
        draws: curves are drawn to the last pixel, which takes longer than all the rest.
        needs: a module to import before anything is forked.
    """

    make: Callable[[], object]
    files: dict[str, str]
    commands: tuple[Command, ...]
    reseal: Callable[[random.Random, Path], bool] = lambda rng, folder: False
    guarded: bool = False
    natures: tuple = NATURES
    foreign: bool = True
    draws: bool = False
    needs: str = ""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """What became of one mutant.

    Attributes:
        number: None for the sound files. outcome: a key of OUTCOMES or of FAILURES. where: a failure's place.
    """

    kind: str
    number: int | None
    damage: str
    command: str
    outcome: str
    detail: str = ""
    where: str = ""


class Unsound(Exception):
    """The sound files of a kind do not come through, so that there is nothing to compare mutants with."""


class Bench:
    """The place where mutants of one kind are met.

    Args:
        root: an empty folder. seed: with the kind and the number of a mutant it decides everything.
    """

    def __init__(self, root: Path, kind: str, subject: Subject, seed: int):
        self.kind, self.seed, self.subject = kind, seed, subject
        _import([subject.needs] if subject.needs else [])
        self.sound, self.work, self.root = root / "sound", root / "work", root
        (root / SECRET).parent.mkdir()
        (root / SECRET).write_text("nobody may read this\n" * 100)
        for folder in (root / "tmp", root / "home", self.work):
            folder.mkdir()
        made = self._in_child(self.subject.make)
        if made["exception"] or made["signal"]:
            raise Unsound(f"they cannot be made: {self.said()[-300:]}")
        # The same folder for all, for a cache goes by paths, and by the inodes of what does not change.
        shutil.copytree(self.work, self.sound, symlinks=True)
        for path in self.sound.rglob("*"):
            if path.is_file():
                shutil.copystat(self.work / path.relative_to(self.sound), path)
        self.expected: dict[str, str] = {}

    def _expected(self, command) -> str:
        """The result of a command on the sound files."""
        if command.name not in self.expected:
            self._fresh()
            before = _tree(self.work)
            ended = self._in_child(command.run, command.result, command.answer)
            outcome, detail, _ = self._judge(ended, command, before)
            if outcome != "read":
                raise Unsound(f"{command.name}: {outcome}: {detail}")
            self.expected[command.name] = ended["result"]
        return self.expected[command.name]

    def meet(self, number: int) -> Mutant:
        """Make a mutant and let a command meet it."""
        rng = random.Random(f"{self.seed} {self.kind} {number}")
        self._fresh()
        command = rng.choice(self.subject.commands)
        pattern = rng.choice(list(self.subject.files))
        path = rng.choice(sorted(self.work.glob(pattern)))
        damage = mutate(rng, path, self.subject.files[pattern], self.subject.natures)
        changed = not (path.is_file() and not path.is_symlink() and _same(path, self._sound_of(path)))
        resealed = self.subject.reseal(rng, self.work)
        before = _tree(self.work)
        ended = self._in_child(command.run, command.result, command.answer)
        outcome, detail, where = self._judge(ended, command, before)
        if outcome == "read":
            outcome, detail = self._compared(command, ended, self.subject.guarded and changed and not resealed)
        damage += ", checksums redone" if resealed else ""
        return Mutant(self.kind, number, damage, command.name, outcome, detail, where)

    def _compared(self, command, ended: dict, guarded: bool) -> tuple[str, str]:
        """(outcome, detail) of what was accepted, by its result."""
        result, expected = ended["result"], self._expected(command)
        if result.startswith(REMADE):
            fits = result.removeprefix(REMADE) in ("", expected.removeprefix(REMADE))
            return ("recovered", "") if fits else ("believed", "made again, and otherwise than at first")
        if result == expected:
            return "recovered" if self._stream("err").strip() else "same", ""
        return ("believed", "another result, and no word of it") if guarded else ("other", "")

    def _sound_of(self, path: Path) -> Path:
        return self.sound / path.relative_to(self.work)

    def _fresh(self) -> None:
        """The sound files again. The corpus stays the very file that it is: a cache knows it by inode and times."""
        for path in self.work.iterdir():
            if path.name != "corpus.txt":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in self.sound.iterdir():
            if path.is_dir():
                shutil.copytree(path, self.work / path.name, symlinks=True)
            elif path.name != "corpus.txt":
                shutil.copy2(path, self.work / path.name)

    def said(self) -> str:
        return "".join((self.root / name).read_text(errors="replace") for name in ("out", "err"))

    # In the child

    def _in_child(self, run: Callable[[], int | None], result: Callable[[], str] = lambda: "", answer: int = 0) -> dict:
        """What became of a call in a process of its own, in the folder of the mutant and under limits."""
        known = set(sys.modules)
        # A file, for a pipe has an end: what fills it would wait, and so would we for all that hold it open.
        writer = os.open(self.root / "told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                self._confine(writer)
                _report(writer, held=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
                ended = run()
                sys.stdout.flush()
                _report(writer, code=ended, result=result() if ended in (0, answer) else "")
                code = 0
            except SystemExit as stop:
                if isinstance(stop.code, str):
                    print(stop.code, file=sys.stderr)
                _report(writer, code=stop.code if isinstance(stop.code, int) else 1)
                code = 0
            except BaseException as error:
                with contextlib.suppress(Exception):
                    traceback.print_exception(error, limit=-12)
                _report(writer, exception=type(error).__name__, detail=str(error)[:200], where=_where(error))
            finally:
                with contextlib.suppress(Exception):
                    _report(writer, imported=sorted(sys.modules.keys() - known))
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        os.close(writer)
        told = {
            "code": None,
            "result": None,
            "exception": None,
            "detail": "",
            "where": "",
            "violation": None,
            "imported": [],
        }
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        for line in (self.root / "told").read_bytes().splitlines():
            told |= json.loads(line)
        _import(told["imported"])
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return told | {"signal": number, "memory": usage.ru_maxrss * 1024 - told["held"]}

    def _confine(self, writer: int) -> None:
        """Limits, streams into files, and a look at every file that is opened or changed."""
        os.setsid()
        os.chdir(self.work)
        os.environ |= {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp")}
        tempfile.tempdir = None
        for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "out", 0), (2, "err", 0)):
            flags = flags or os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(self.root / name, flags), number)
        sys.stdin = open(0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + 3 * MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(sys.stderr)  # says where a signal struck
        for number in (signal.SIGALRM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
            faulthandler.register(number, sys.stderr, chain=True)
        signal.alarm(2 * SECONDS)
        _quicken(self.subject.draws)
        sys.addaudithook(_watch(self.root, writer))

    # After it

    def _judge(self, ended: dict, command, before: dict) -> tuple[str, str, str]:
        """(outcome, detail, where); the outcome is 'read' where it was accepted, to be compared."""
        out, err = self._stream("out"), self._stream("err")
        if (self.work / CANARY).exists():
            return "executed", err[-200:], ""
        if ended["violation"]:
            return "outside", ended["violation"], ended["where"]
        if ended["exception"] == "Believed":
            return "believed", ended["detail"], ""
        if ended["exception"] == "MemoryError":
            return "memory", ended["detail"], ended["where"]
        if ended["exception"]:
            return "traceback", f"{ended['exception']}: {ended['detail']}", ended["where"]
        if ended["signal"] in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL):
            return "hang", signal.Signals(ended["signal"]).name, _struck(err)
        if ended["signal"]:
            return "crash", f"{signal.Signals(ended['signal']).name}: {err[:300]}", _struck(err)
        if "Traceback (most recent call last)" in err:
            return "traceback", err.strip().splitlines()[-1][:200], "in another thread or process"
        if ended["memory"] > MEMORY:
            return "memory", f"{ended['memory'] >> 20} MiB more than at first", ""
        accepted = ended["code"] == 0 or (ended["code"] == command.answer and not err)
        if stray := self._stray(command, before, accepted or (command.begins and ended["code"] == 1)):
            return "left behind", stray, ""
        by_tyro = not self.subject.foreign and "╭" in err  # it shows the user's own words in a box
        if self.subject.foreign and (odd := _odd_character(out + err)):
            return "message", f"control character {odd}", ""
        messages = [line for line in err.splitlines() if line.strip()]
        longest = max(map(len, messages), default=0)
        if not by_tyro and (longest > LONGEST_MESSAGE or len(messages) > MOST_LINES):
            return "message", f"{len(messages)} lines, the longest of {longest} characters: {err[:150]!r}", ""
        if not accepted:
            said = [line for line in messages if line.startswith("python -m ") or by_tyro]
            if not ended["code"] or not (said or out.strip()):
                return "message", f"exit code {ended['code']} with {err[:200]!r}", ""
            return "refused", (said or out.strip().splitlines())[-1], ""
        return "read", "", ""

    def _stream(self, name: str) -> str:
        return (self.root / name).read_bytes()[: 4 << 20].decode(errors="backslashreplace")

    def _stray(self, command, before: dict, wrote: bool) -> str:
        """What is there, gone or changed and should not be."""
        after = _tree(self.work)

        def may(name: str, patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

        changes, adds = (command.changes, command.adds) if wrote else ((), ())
        for name in sorted(before.keys() | after.keys(), key=os.fsencode):
            new = name not in before
            hidden = any(part.startswith(".") and part != ".lock" for part in name.split("/"))
            if (new and hidden) or (
                before.get(name) != after.get(name)
                and not name.startswith("cache")
                and not name.endswith(".lock")
                and not may(name, (*changes, *adds) if new else changes)
            ):
                return f"{ascii(name)} was {'made' if new else 'removed' if name not in after else 'changed'}"
        if left := [path for path in (self.root / "tmp").rglob("*") if path.is_file()]:
            shutil.rmtree(self.root / "tmp")
            (self.root / "tmp").mkdir()
            return f"{left[0].name} among the temporary files"
        return ""


def _report(writer: int, **told) -> None:
    os.write(writer, json.dumps(told).encode() + b"\n")


def _quicken(draws: bool) -> None:
    """No new processes, no waiting for disks, and no picture but where one is wanted: nothing that is tested here."""
    os.fsync = lambda descriptor: None
    if not draws:
        Figure.savefig = lambda self, file, **options: file.write(b"picture")
    tokenizing._Process = _Here


class _Here(tokenizing.Tokenizing):
    """Tokenizes as a process of its own would, in this one."""

    def __init__(self, setup: tuple):
        super().__init__(*setup)

    def end(self) -> None:
        pass


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.chmod")
_STARTING = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def _watch(root: Path, writer: int) -> Callable:
    """An audit hook that reports what is written outside a folder, read from the secret beside it, or started.

    It sees what Python does; what C libraries do by themselves it does not.
    """
    allowed = (f"{root}/work", f"{root}/home", f"{root}/tmp", "/dev/null", "/dev/shm", "/proc/self")
    home = os.getcwd()

    def outside(path) -> bool:
        path = os.path.normpath(os.path.join(home, os.fsdecode(path)))
        return not path.startswith(allowed)

    def hook(event: str, arguments: tuple) -> None:
        paths = [path for path in arguments if isinstance(path, (str, bytes, os.PathLike))]
        if event == "open" and not isinstance(arguments[0], int):
            secret = str(root / Path(SECRET).parent) in os.path.normpath(os.path.join(home, os.fsdecode(arguments[0])))
            seen = secret or (arguments[2] & _WRITING and outside(arguments[0]))
        elif event in _CHANGING:  # the last argument is a folder's descriptor, or -1
            seen = arguments[-1] == -1 and any(map(outside, paths))
        else:
            seen = event in _STARTING
        if seen:
            _report(writer, violation=f"{event} {arguments}"[:300], where=_where_of(sys._getframe(1)))

    return hook


def _where(error: BaseException) -> str:
    """The last frame of ours that an exception went through."""
    frames = traceback.extract_tb(error.__traceback__)
    return _named([(frame.filename, frame.name) for frame in frames])


def _struck(err: str) -> str:
    """The frame of ours that a signal struck, by what faulthandler says of it."""
    return _named(re.findall(r'File "([^"]+)", line \d+ in (\S+)', err)[::-1])


def _where_of(frame) -> str:
    frames = []
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return _named(frames[::-1])


def _named(frames: list[tuple[str, str]]) -> str:
    top = Path(__file__).parents[2]
    own = [f for f in frames if any(Path(f[0]).is_relative_to(top / package) for package in _OWN)]
    return f"{Path(own[-1][0]).relative_to(top)} {own[-1][1]}" if own else str(frames[-1] if frames else "")


def _tree(folder: Path) -> dict[str, str]:
    """What a folder holds: of each path below it, what it is and what is in it."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def _same(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _odd_character(text: str) -> str:
    return next((ascii(char) for char in text if not char.isprintable() and char not in "\n\t"), "")


def _import(modules: list[str]) -> None:
    """Have what a child imported when it needed it, so that the next need not."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if modules:
        gc.collect()
        gc.freeze()
