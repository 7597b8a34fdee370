"""Commands in processes that import nothing: forks of one that has imported a framework and what else is slow.

`python -m tests.forks PACKAGE` imports for a package, then forks for each command that `Forks.run` sends it. A fork is
a process of its own, which the interpreter ends as any other; only what a fresh one would import is there already.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ms_bert.commands import huge_pages
from ms_bert.device import quiet_logs
from tests import pictures

IMPORTED = {
    "ms_bert": ("mindspore", "ms_bert.training.trainer", "ms_bert.pretrained"),
    "pt_reference": ("torch", "torch._dynamo", "pt_reference.training.trainer", "pt_reference.pretrained"),
}
FOR_BOTH = ("matplotlib.backends.backend_agg", "matplotlib.figure", "scipy.stats", "sklearn.metrics")


class Forks:
    """The process that forks for the commands of a package; it ends with this one."""

    def __init__(self, package: str):
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, package], stdin=theirs, env=dict(os.environ), start_new_session=True
        )
        theirs.close()
        self._answers = self._socket.makefile("r")

    def run(self, module: str, arguments: list[str], timeout: float) -> subprocess.CompletedProcess:
        """`python -m module arguments...`, to its end."""
        command = ["python", "-m", module, *arguments]
        asked = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        asked["drawn"] = pictures.are_drawn()
        with contextlib.ExitStack() as stack:
            files = question, out, err = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            json.dump(asked, question)
            question.seek(0)
            socket.send_fds(self._socket, [b"?"], [file.fileno() for file in files])
            child = int(self._answers.readline())
            in_time, _, _ = select.select([self._socket], [], [], timeout)
            if not in_time:
                os.kill(child, signal.SIGKILL)
            code = int(self._answers.readline())
            if not in_time:
                raise subprocess.TimeoutExpired(command, timeout)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())


def serve(package: str) -> dict | None:
    """Fork for each command that is asked for. In a fork: what it was asked; in the first process, at the end, None."""
    quiet_logs()  # MindSpore reads it as it is imported
    for name in (*IMPORTED[package], *FOR_BOTH):
        importlib.import_module(name)
    gc.freeze()  # nothing of it is garbage, and no fork need look through it
    connection = socket.socket(fileno=os.dup(0))
    while True:
        word, files, _, _ = socket.recv_fds(connection, 1, 3)
        if not word:
            return None
        child = os.fork()
        if child == 0:
            connection.close()
            with open(files[0]) as question:
                asked = json.load(question)
            for file, number in zip((os.open(os.devnull, os.O_RDONLY), *files[1:]), range(3)):
                os.dup2(file, number)
                os.close(file)
            return asked
        for file in files:
            os.close(file)
        connection.sendall(f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):  # nobody waits for it any more
            connection.sendall(f"{code}\n".encode())


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    if asked is not None:
        os.chdir(asked["folder"])
        pictures.draw(asked["drawn"])
        os.environ.clear()
        os.environ.update({huge_pages.TUNABLES: "", **asked["environment"]})  # a restart would import all anew
        sys.path[0] = str(Path.cwd())  # as of `python -m`
        sys.argv[1:] = asked["arguments"]
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
