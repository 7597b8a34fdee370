"""A few hostile inputs of every kind, and that the bench sees what it looks for."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults import bench
from tests.faults.bench import Bench, Command, Subject

ROOT = Path(__file__).parents[2]


def test_hostile_input_of_every_kind_is_refused_or_harmless():
    # In a process of its own: pytest's has threads, and no fork of it could be trusted with torch.
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.mutants", "--quick", "--mutants", "62"],
        text=True,
        capture_output=True,
        timeout=280,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert result.returncode == 0, result.stdout + result.stderr


def refuse(message: str, code: int = 2) -> int:
    print(f"python -m tests: {message}", file=sys.stderr)
    return code


def damage(rng, path: Path, form: str, natures) -> str:
    path.write_bytes(b"damaged")
    return "damaged"


def divide_in_a_thread() -> int:
    threading.excepthook = threading.__excepthook__  # pytest has another, which keeps what it is told
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    return 0


# What a command does with any mutant, and what the bench must call it.
PLANTED = {
    "read": (lambda: 0, "same"),
    "refused": (lambda: refuse("it is damaged; fetch it again."), "refused"),
    "exception": (lambda: {}["a"], "traceback"),
    "exception in a thread": (divide_in_a_thread, "traceback"),
    "abort": (os.abort, "crash"),
    "segfault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
    "sleep": (lambda: time.sleep(60), "hang"),
    "large": (lambda: len(b"x" * (100 << 20)) and 0, "memory"),
    "larger": (lambda: len(bytearray(1 << 30)), "memory"),
    "canary": (lambda: Path("canary").write_text("x") and 0, "executed"),
    "secret": (lambda: len(Path("../outside/secret.txt").read_text()) and 0, "outside"),
    "elsewhere": (lambda: Path("../elsewhere").write_text("x") and 0, "outside"),
    "process": (lambda: os.system("true"), "outside"),
    "half": (lambda: Path("made").write_text("half") and refuse("it is damaged."), "left behind"),
    "hidden": (lambda: Path(".made.writing").write_text("half") and 0, "left behind"),
    "lost": (lambda: os.remove("sound") or 0, "left behind"),
    "temporary": (lambda: Path(os.environ["TMPDIR"], "x").write_text("x") and 0, "left behind"),
    "silent": (lambda: 2, "message"),
    "escape": (lambda: refuse("it has \x1b[2J."), "message"),
    "long": (lambda: refuse("x" * 1100), "message"),
    "list": (lambda: refuse("faults:" + "\n  another" * 20), "message"),
    "no code": (lambda: refuse("it is damaged.", code=None), "message"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_bench_sees_a_planted_fault(tmp_path, monkeypatch, name):
    monkeypatch.setattr(bench, "SECONDS", 1)
    monkeypatch.setattr(bench, "MEMORY", 64 << 20)
    monkeypatch.setattr(bench, "mutate", damage)
    planted, expected = PLANTED[name]

    def make() -> None:
        Path("file.json").write_bytes(b"sound")
        Path("sound").write_text("is not touched")

    def run() -> int:
        sound = Path("file.json").is_file() and Path("file.json").read_bytes() == b"sound"
        return 0 if sound else planted()

    subject = Subject(make, {"file.json": "bytes"}, (Command(name, run, lambda: ""),))
    met = Bench(tmp_path, name, subject, seed=1).meet(0)
    assert met.outcome == expected, met


def test_the_bench_sees_what_is_believed_against_a_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "mutate", damage)

    def make() -> None:
        Path("file.json").write_bytes(b"sound")

    command = Command("read", lambda: 0, lambda: str(Path("file.json").read_bytes()))
    subject = Subject(make, {"file.json": "bytes"}, (command,), guarded=True)
    assert Bench(tmp_path, "guarded", subject, seed=1).meet(0).outcome == "believed"


SOME_MUTANTS = """
import hashlib, random
from tests.faults.mutations import BYTES, FORMS
data = b'{"a": [1, "b"], "c": {"d": 0.5}}'
made = [mutation(random.Random(f"1 {n}"), data) for n in range(20) for mutation in (*BYTES, *FORMS["json"])]
digest = hashlib.sha256(b"".join(made)).hexdigest()
"""


def test_a_mutant_is_the_same_in_every_process():
    """A failure that cannot be met again is of no use."""
    here: dict = {}
    exec(SOME_MUTANTS, here)
    command = [sys.executable, "-c", SOME_MUTANTS + "print(digest)"]
    there = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert there.stdout.strip() == here["digest"]
