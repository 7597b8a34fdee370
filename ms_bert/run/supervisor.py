"""Workers on this machine: started, watched, stopped together, and started again from the newest checkpoint.

A worker that fails leaves the others waiting for it, so all are killed with it. None outlives the supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ms_bert.errors import UserError
from ms_bert.process import handle_signals

FAILED = 70  # exit code of a worker that something unforeseen has ended, such as an exchange that failed
SUPERVISOR = "MS_BERT_SUPERVISOR"  # its process, in the environment of what it starts
POLL = 0.05  # seconds
PATIENCE = 10.0  # seconds that a worker may be stopped (SIGSTOP) while the supervisor runs
SECOND_THOUGHTS = 2.0  # seconds in which a worker may refuse what another has refused, or of which it has failed
GRACE = 60.0  # seconds that workers have to end after the first of them has ended well
SOON = 5.0  # the same after a second signal, or after one when nothing had begun that could be lost


class Process:
    """A worker, or what lets workers find each other.

    Args:
        name: in words. environment: besides that of this process. shown: whether it writes to the terminal; what
        another one says on its standard error is kept, for the case that it fails.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], shown: bool):
        self.name = name
        self._said: IO[bytes] | None = None if shown else tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment, SUPERVISOR: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=None if shown else subprocess.DEVNULL,
            stderr=self._said,
            # Ctrl-C reaches the supervisor only, which hands it on; and all that it starts itself is killed with it.
            start_new_session=True,
        )
        self._stopped_since: float | None = None

    def ended(self) -> int | None:
        """Its exit code, that of subprocess: negative for a signal; None while it runs."""
        return self._process.poll()

    def ended_within(self, seconds: float) -> int | None:
        """The same, after so many seconds at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.ended()

    def stopped(self) -> bool:
        """Whether it has been stopped (SIGSTOP) for longer than it may be."""
        with contextlib.suppress(ChildProcessError):
            found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_code != os.CLD_STOPPED:
                self._stopped_since = None
            elif self._stopped_since is None:
                self._stopped_since = time.monotonic()
        return self._stopped_since is not None and time.monotonic() - self._stopped_since > PATIENCE

    def send(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        """What it wrote to its standard error, where that is not shown."""
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")


def started(module: Sequence[str], environments: Sequence[Mapping[str, str]], workers: int) -> list[Process]:
    """Processes of a Python module, of which the first alone is shown.

    Args:
        module: its name and its arguments. environments: of each process. workers: so many of them, from the first.
    """
    names = [f"worker {rank}" for rank in range(workers)] + ["the scheduler"] * (len(environments) - workers)
    line = [sys.executable, "-m", *module]
    return [Process(name, line, own, shown=n == 0) for n, (name, own) in enumerate(zip(names, environments))]


class _Signals:
    """Hands signals on to the processes that run."""

    def __init__(self):
        self._processes: list[Process] = []
        self.received: list[int] = []

    def watch(self, processes: list[Process]) -> None:
        """Hand on to these; those that were received while they were started, too."""
        self._processes = processes
        for number in self.received:
            for process in processes:
                process.send(number)

    def __enter__(self):
        self._before = handle_signals(
            {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGTSTP: self._pause}
        )
        return self

    def __exit__(self, *error):
        handle_signals(self._before)

    def _stop(self, number, frame):
        self.received.append(number)
        for process in self._processes:
            process.send(number)

    def _pause(self, number, frame):
        for process in self._processes:
            process.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for process in self._processes:  # somebody has continued this one
            process.send(signal.SIGCONT)


Start = Callable[[int], list[Process]]
"""Starts the processes of an attempt, from 0 on: workers in the order of their ranks, then others."""


def supervise(
    start: Start,
    workers: int,
    most_restarts: int,
    say: Callable[[str], None],
    begun: Callable[[], Path | None] = lambda: None,
) -> int:
    """Let workers do their work; returns the exit code.

    Args:
        most_restarts: how often they are started again when one has failed. say: tells the user something. begun: the
            folder of the run, as soon as there is one to go on with.

    Raises:
        UserError: they cannot be started again.
    """
    attempt = 0
    with _Signals() as signals:
        while True:
            processes = start(attempt)
            signals.watch(processes)
            try:
                return _watched(processes, workers, signals, begun)
            except _Failure as failure:
                why = failure
            finally:
                signals.watch([])
                for process in processes:
                    process.kill()
            if signals.received:
                path = begun()
                say(
                    f"{why} after a signal; continue with --resume {path}"
                    if path
                    else "interrupted by a signal; nothing new was saved"
                )
                return 128 + signals.received[0]
            if attempt == most_restarts:
                say(f"{why}; that was the last of {most_restarts} restarts")
                return 1
            attempt += 1
            say(f"{why}; starting all workers again ({attempt} of {most_restarts})")


class _Failure(Exception):
    """Why workers must be started again, in words."""


def _watched(processes: Sequence[Process], workers: int, signals: _Signals, begun: Callable[[], Path | None]) -> int:
    """The exit code once all workers have ended.

    Raises:
        _Failure: one of them, or what they need, has failed.
    """
    ending: float | None = None
    while True:
        codes = [process.ended() for process in processes]
        if failed := [(process, code) for process, code in zip(processes, codes) if code and _is_failure(code)]:
            # First one that a signal has ended: that the others have lost it is what they failed of.
            process, code = min(failed, key=lambda pair: pair[1] > 0)
            # Or they have lost one that refuses the work, and are faster to end.
            if code < 0 or not _refusal(processes[:workers], within=SECOND_THOUGHTS):
                raise _Failure(_told(process, code))
        for process in processes:
            if process.stopped():
                raise _Failure(f"{process.name} was stopped for {PATIENCE:.0f} seconds")
        codes = codes[:workers]
        if refusal := _refusal(processes[:workers]):
            process, code = refusal
            # What all refuse the first worker says itself, which may be slower.
            if process is not processes[0] and processes[0].ended_within(SECOND_THOUGHTS) != code:
                print(process.said(), file=sys.stderr, end="")
            return code
        if all(code is not None for code in codes):
            return max(code for code in codes if code is not None)
        if any(code is not None for code in codes) or len(signals.received) > 1:
            ending = ending or time.monotonic()
            hurried = len(signals.received) > 1 or (signals.received and begun() is None)
            grace = SOON if hurried else GRACE
            if time.monotonic() - ending > grace:
                raise _Failure(f"not all workers have ended within {grace:.0f} seconds")
        time.sleep(POLL)


def _refusal(workers: Sequence[Process], within: float = 0.0) -> tuple[Process, int] | None:
    """The first of the workers that has ended because it refuses the work, and its exit code.

    Args:
        within: seconds to wait for one.
    """
    end = time.monotonic() + within
    while True:
        codes = [worker.ended() for worker in workers]
        for worker, code in zip(workers, codes):
            if code and not _is_failure(code) and code < 128:
                return worker, code
        if time.monotonic() >= end or None not in codes:
            return None
        time.sleep(POLL)


def _is_failure(code: int) -> bool:
    return code < 0 or code == FAILED


def _told(process: Process, code: int) -> str:
    if code < 0:
        return f"{process.name} was killed by {signal.Signals(-code).name}"
    lines = process.said().strip().splitlines()
    return f"{process.name} failed" + (f" ({lines[-1][:300]})" if lines else "")


def die_with_supervisor() -> None:
    """Let the kernel end this process with the supervisor that has started it, if one has."""
    parent = os.environ.get(SUPERVISOR)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        os._exit(FAILED)


@contextlib.contextmanager
def failures_told_apart() -> Iterator[None]:
    """Within it, what is neither foreseen nor asked for ends the process with the exit code of a failure."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(FAILED)  # MindSpore and torch would wait for the other workers


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
