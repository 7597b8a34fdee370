"""What a command arranges in its process: the handling of signals, and standard streams that are there."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any


def handle_signals(handlers: Mapping[int, Any]) -> dict[int, Any]:
    """Have signals, by their number, handled by these handlers.

    Python lets only its main thread say so. A command that a program calls in another thread leaves signals to the
    program.

    Returns:
        The handlers before, to be given back to this function.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


class _StandIn(io.TextIOWrapper):
    """The null device in the place of a standard stream that is closed."""


def open_streams() -> None:
    """Let a standard stream that is closed be the null device.

    Some daemons start programs so. Then sys.stdout is None, and the next file that is opened would have the number of
    standard output: what a library prints would be written into it.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            stream = _StandIn(open(os.devnull, f"{mode}b"))
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


THREADS = "MS_BERT_THREADS"


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def share_of_threads(count: int) -> int:
    """The threads of each of so many processes that divide the processors of this one among them."""
    return max(1, processors() // count)


def own_threads(asked: int | None) -> int | None:
    """The threads to compute with: so many as are asked for, else as many as the environment gives a process that
    shares its machine with others; None: as many as there are."""
    given = os.environ.get(THREADS, "")
    return int(given) if asked is None and given.isdecimal() else asked


def output_is_closed() -> bool:
    """Whether standard output was closed when the command began."""
    return isinstance(sys.stdout, _StandIn)
