"""What a command arranges in its process: standard streams that are closed, signals that a thread cannot have."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ms_bert.commands import command, delivery
from ms_bert.errors import UserError
from ms_bert.process import open_streams

SCRIPT = """
import os, sys
from ms_bert.process import open_streams, output_is_closed
open_streams()
assert output_is_closed() == (sys.argv[1] == "1"), sys.stdout
file = open(sys.argv[2], "w")
assert file.fileno() > 2, file.fileno()
assert sys.stdin.read() == ""
print("told"); print("said", file=sys.stderr); os.write(1, b"by a library")
assert os.stat(sys.argv[2]).st_size == 0
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_closed_stream_is_no_file_and_stops_nothing(closed, tmp_path):
    closing = " ".join(f"{number}>&-" for number in closed.split())
    line = f'"{sys.executable}" -c "$SCRIPT" {closed[-1] if closed == "1" else int(len(closed) > 1)} "$PLACE" {closing}'
    environment = {**os.environ, "SCRIPT": SCRIPT, "PLACE": str(tmp_path / "file")}
    root, nothing = Path(__file__).parents[2], subprocess.DEVNULL
    done = subprocess.run(["bash", "-c", line], cwd=root, env=environment, capture_output=True, stdin=nothing)
    assert done.returncode == 0, done.stderr


def test_answers_to_a_closed_output_are_a_mistake_that_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))  # who sends it there wants no answers
    assert delivery.form(None, None, {}) == "text"
    monkeypatch.setattr(sys, "stdout", None)
    open_streams()
    with pytest.raises(UserError, match="standard output, which is closed; name a file with --output"):
        delivery.form(None, None, {})


def test_a_command_may_be_called_in_a_thread():
    handler, codes = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: codes.append(command.main(lambda arguments: len(arguments), "x", ["a"])))
    thread.start()
    thread.join()
    assert codes == [1] and signal.getsignal(signal.SIGTERM) is handler
