"""The supervisor: what it makes of processes that end, fail, hang or are stopped, and of signals to itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ms_bert.run import supervisor
from ms_bert.run.supervisor import FAILED, Process, supervise

WAITS = "import time; time.sleep(60)"


def processes(*scripts: str, later: tuple[str, ...] = ()):
    """A function that starts Python scripts, or others at later attempts."""
    attempts: list[list[Process]] = []

    def start(attempt: int) -> list[Process]:
        chosen = later if attempt and later else scripts
        attempts.append(
            [Process(f"worker {n}", [sys.executable, "-c", script], {}, n == 0) for n, script in enumerate(chosen)]
        )
        return attempts[-1]

    return start, attempts


def gone(attempts: list[list[Process]]) -> bool:
    return all(process.ended() is not None for attempt in attempts for process in attempt)


def test_workers_that_end_well_end_it_well():
    start, attempts = processes("pass", "pass")
    assert supervise(start, 2, 3, print) == 0 and len(attempts) == 1


def test_what_is_no_worker_may_go_on_and_is_ended():
    start, attempts = processes("pass", WAITS)
    assert supervise(start, 1, 3, print) == 0 and gone(attempts)


@pytest.mark.parametrize(
    "script, why",
    [
        ("import os; os.kill(os.getpid(), 9)", "worker 1 was killed by SIGKILL"),
        (f"import sys; sys.stderr.write('it broke'); sys.exit({FAILED})", "worker 1 failed (it broke)"),
    ],
)
def test_a_worker_that_fails_ends_all_and_they_are_started_again(script, why):
    start, attempts = processes(WAITS, script, later=("pass", "pass"))
    told: list[str] = []
    began = time.monotonic()
    assert supervise(start, 2, 3, told.append) == 0
    assert time.monotonic() - began < 5.0
    assert told == [f"{why}; starting all workers again (1 of 3)"] and len(attempts) == 2 and gone(attempts)


def test_restarts_come_to_an_end():
    start, attempts = processes(WAITS, "import os; os.kill(os.getpid(), 9)")
    told: list[str] = []
    assert supervise(start, 2, 2, told.append) == 1
    assert len(attempts) == 3 and told[-1] == "worker 1 was killed by SIGKILL; that was the last of 2 restarts"
    assert gone(attempts)


def test_the_one_that_was_killed_is_named_not_those_that_lost_it():
    start, _ = processes(f"import time, sys; time.sleep(0.2); sys.exit({FAILED})", "import os; os.kill(os.getpid(), 9)")
    told: list[str] = []
    assert supervise(start, 2, 0, told.append) == 1
    assert told == ["worker 1 was killed by SIGKILL; that was the last of 0 restarts"]


def test_a_refusal_is_said_once_and_ends_it(capfd):
    refusal = "import sys; print('no such file.', file=sys.stderr); sys.exit(2)"
    for scripts in ((refusal, WAITS), (WAITS, refusal), (refusal, refusal)):
        start, attempts = processes(*scripts)
        assert supervise(start, 2, 3, print) == 2
        assert len(attempts) == 1 and gone(attempts)
        assert capfd.readouterr().err in ("no such file.\n", "")
    assert supervise(processes(WAITS, refusal)[0], 2, 3, print) == 2
    assert capfd.readouterr().err == "no such file.\n"


@pytest.mark.parametrize("code", [1, 2])
def test_a_refusal_of_which_the_others_fail_first_is_no_failure(code, capfd):
    """As gloo has it: when worker 0 ends, its connections are gone before its exit code is there."""
    refuses = f"import sys, time; sys.stderr.write('not so'); sys.stderr.flush(); time.sleep(0.7); sys.exit({code})"
    loses = f"import sys, time; time.sleep(0.2); sys.stderr.write('connection lost'); sys.exit({FAILED})"
    start, attempts = processes(refuses, loses)
    told: list[str] = []
    assert supervise(start, 2, 3, told.append) == code
    assert not told and len(attempts) == 1 and capfd.readouterr().err == "not so"


def test_a_worker_that_is_stopped_is_as_good_as_dead(monkeypatch):
    monkeypatch.setattr(supervisor, "PATIENCE", 0.3)
    stops = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    start, attempts = processes(WAITS, stops, later=("pass", "pass"))
    told: list[str] = []
    assert supervise(start, 2, 3, told.append) == 0
    assert told[0].startswith("worker 1 was stopped") and gone(attempts)


def test_workers_that_do_not_end_with_the_first_are_not_awaited_for_ever(monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE", 0.3)
    start, attempts = processes("pass", WAITS)
    told: list[str] = []
    assert supervise(start, 2, 0, told.append) == 1
    assert told == ["not all workers have ended within 0 seconds; that was the last of 0 restarts"] and gone(attempts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_and_its_exit_code_back(number):
    heeds = f"""
import signal, sys, time
count = 0
def stop(number, frame):
    global count
    count += 1
signal.signal({number}, stop)
end = time.time() + 20
while not count and time.time() < end: time.sleep(0.01)
time.sleep(0.3)
sys.exit(128 + {number} if count == 1 else 1)
"""
    start, attempts = processes(heeds, heeds)

    def later():
        time.sleep(0.7)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=later)
    sender.start()
    assert supervise(start, 2, 3, print) == 128 + number
    sender.join()
    assert len(attempts) == 1 and gone(attempts)


ENDS = "import signal, time; signal.signal(15, signal.SIG_DFL); time.sleep(60)"
DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(60)"


@pytest.mark.parametrize(
    "worker, times, begun, told",
    [
        # As a worker of MindSpore that waits for one that the signal has ended.
        (ENDS, 1, False, "interrupted by a signal; nothing new was saved"),
        (DEAF, 2, True, "not all workers have ended within 1 seconds after a signal; continue with --resume runs/x"),
    ],
)
def test_signals_end_a_worker_that_does_not_hear_them(worker, times, begun, told, monkeypatch):
    monkeypatch.setattr(supervisor, "SOON", 1.0)
    start, attempts = processes(DEAF, worker)

    def later():
        for _ in range(times):
            time.sleep(0.7)
            os.kill(os.getpid(), signal.SIGTERM)

    sender, said = threading.Thread(target=later), []
    sender.start()
    begin = time.monotonic()
    assert supervise(start, 2, 3, said.append, lambda: Path("runs/x") if begun else None) == 128 + signal.SIGTERM
    sender.join()
    assert said == [told] and len(attempts) == 1 and gone(attempts) and time.monotonic() - begin < 10


def test_none_outlives_the_supervisor(tmp_path):
    """Not even what a worker has started: here that waits for its parent's end of a pipe."""
    script = f"""
import sys
from ms_bert.run.supervisor import Process, supervise
worker = "from ms_bert.run import supervisor; supervisor.die_with_supervisor(); print(1, flush=True); " + {WAITS!r}
supervise(lambda attempt: [Process("worker", [sys.executable, "-c", worker], {{}}, True)], 1, 0, print)
"""
    started = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "1\n"
    started.kill()
    started.wait()
    assert started.stdout.read() == ""  # comes to an end only when nobody can write there any more


def test_a_worker_whose_supervisor_is_gone_ends():
    script = "from ms_bert.run.supervisor import die_with_supervisor; die_with_supervisor(); print('went on')"
    environment = {**os.environ, supervisor.SUPERVISOR: "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (FAILED, "")
