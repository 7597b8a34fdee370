"""A command from its first argument to its exit code: signals, errors, and nothing that a framework must know."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from ms_bert.errors import UserError
from ms_bert.process import handle_signals, open_streams

Options = TypeVar("Options")


def main(
    run: Callable[[Sequence[str]], int],
    program: str,
    arguments: Sequence[str] | None = None,
    interrupted: str = "interrupted outside of training, or a second time; nothing new was saved.",
) -> int:
    """Run a command with its arguments, by default those of the process; returns the exit code."""
    open_streams()
    before = handle_signals({signal.SIGTERM: _terminate})
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # who read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes there
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Outside the loop, which says what it has saved: the cache or the run folder cannot be written or read.
        print(
            f"{program}: {error}; check that the path is right and writable and that the disk is not full.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as stop:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
    finally:
        handle_signals(before)


def main_with(
    kind: type[Options],
    run: Callable[[Options], int],
    program: str,
    description: str,
    arguments: Sequence[str] | None,
    interrupted: str,
) -> int:
    """`main` of a command whose line holds the options of one class and nothing else."""
    return main(lambda line: run(parsed(kind, program, description, line)), program, arguments, interrupted)


def parsed(kind: type[Options], program: str, description: str, arguments: Sequence[str]) -> Options:
    """The options of a class, a dataclass, from a command line."""
    plain = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, prog=program, description=description, args=arguments, config=plain)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the command as Ctrl-C does."""


def _terminate(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough, and nothing half made is to be left behind
    raise _Terminated
