"""The launch files of docs/launch start the right workers, end them when one fails, and hand signals on.

What they start is played: a Python that writes its environment down, a Slurm and an ssh that start processes here.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "docs" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))

# Writes down what it is, and then does what the file `then` says.
PYTHON = """#!/bin/bash
{ echo "$*"; env; } > "$PLAYED/unfinished-$$" && mv "$PLAYED/unfinished-$$" "$PLAYED/${MS_ROLE:-}-$RANK-$$"
source "$PLAYED/then"
"""
SSH = """#!/bin/bash
shift
echo "$1" >> "$PLAYED/hosts"
exec setsid --wait bash -c "$2"
"""
SRUN = """#!/bin/bash
shift  # --kill-on-bad-exit=1
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
    SLURM_PROCID=$rank SLURM_LOCALID=$((rank % 2)) "$@" &
done
worst=0
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
    wait -n; code=$?
    ((code > worst)) && worst=$code
done
exit $worst
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$PLAYED/scontrol"
[[ $1 == show ]] && printf 'localhost\\nother\\n'
exit 0
"""


class Played:
    """Programs in place of real ones, and what was done with them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        self.environment = {
            **os.environ,
            "PLAYED": str(folder),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        for name in ("PYTHON", "RANK", "WORLD_SIZE", "MS_ROLE"):
            self.environment.pop(name, None)
        (folder / "bin").mkdir()
        for name, content in {"python": PYTHON, "ssh": SSH, "srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / "bin" / name).write_text(content)
            (folder / "bin" / name).chmod(0o755)
        self.then("exit 0")

    def then(self, code: str, scheduler: str = "exec sleep 300") -> None:
        """What each worker does, and the scheduler, which else waits until it is ended."""
        script = f"if [[ ${{MS_ROLE:-}} == MS_SCHED ]]; then {scheduler}; fi\n{code}\n"
        (self.folder / "then").write_text(script)

    def start(self, *command, **environment) -> subprocess.Popen:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env={**self.environment, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def run(self, *command, **environment) -> int:
        process = self.start(*command, **environment)
        said = process.communicate(timeout=60)
        assert "unbound" not in said[1], said
        return process.returncode

    def began(self) -> list[tuple[str, dict[str, str]]]:
        """The arguments and the environment of all that was started, by role and rank."""
        found = []
        for path in sorted(self.folder.glob("*-*-*")):
            arguments, *lines = path.read_text().splitlines()
            found.append((arguments, dict(line.split("=", 1) for line in lines if "=" in line)))
        return found

    def wait_for(self, count: int) -> None:
        end = time.monotonic() + 30
        while len(self.began()) < count:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.2)  # it has written, and does the rest now

    def running(self) -> list[str]:
        """What still runs of all that was started; who was killed a moment ago is given a few seconds to be gone."""
        end = time.monotonic() + 5
        while (found := self._processes()) and time.monotonic() < end:
            time.sleep(0.02)
        return [*found.values()]

    def _processes(self) -> dict[int, str]:
        mark, found = f"PLAYED={self.folder}\0".encode(), {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes():
                    found[int(path.parent.name)] = (path.parent / "cmdline").read_text()
            except OSError:
                continue
        return found

    def end(self) -> None:
        """After a test that has failed, too, nothing is left: a script that is asked to end removes its folder."""
        for process in self.started:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
        for number in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@pytest.fixture
def played(tmp_path):
    one = Played(tmp_path)
    yield one
    one.end()


def numbers(began) -> list[tuple[str, ...]]:
    return [tuple(own[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")) for _, own in began]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_that_may_be_run(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.parametrize(
    "command, words",
    [
        (["worker.sh", "-m", "x"], "RANK is not set"),
        (["modelarts.sh", "-m", "x"], "MA_NUM_HOSTS is not set"),
        (["ssh.sh", " ", "-m", "x"], "name machines and a command"),
        (["ssh.sh", "localhost"], "name machines and a command"),
        (["ssh.sh"], "name machines and a command"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(played, command, words):
    process = played.start(LAUNCH / command[0], *command[1:])
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2 and words in said and said.count("\n") == 1
    assert played.began() == []


def test_a_worker_is_told_what_both_frameworks_read(played):
    of_torch = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert played.run(LAUNCH / "worker.sh", "-m", "pt_reference.pretrain", "--output", "a b", **of_torch) == 0
    ((arguments, own),) = played.began()
    assert arguments == "-m pt_reference.pretrain --output a b" and of_torch.items() <= own.items()


@pytest.mark.parametrize("rank", ["0", "3"])
def test_mindspore_has_a_scheduler_beside_the_first_worker(played, rank):
    given = {"RANK": rank, "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert played.run(LAUNCH / "worker.sh", "-m", "ms_bert.pretrain", **given) == 0
    if rank == "0":
        played.wait_for(2)
    began = played.began()
    assert [own["MS_ROLE"] for _, own in began] == (["MS_SCHED", "MS_WORKER"] if rank == "0" else ["MS_WORKER"])
    for _, own in began:
        assert (own["MS_WORKER_NUM"], own["MS_SCHED_HOST"], own["MS_SCHED_PORT"]) == ("4", "127.0.0.1", "29500")
        assert (own["MS_NODE_ID"], own["DEVICE_ID"]) == (rank, "1")


@pytest.mark.parametrize(
    "scheduler, code",
    [("kill -KILL $$", -signal.SIGKILL), ("exit 1", -signal.SIGKILL), ("exit 0", 3), ("exit 2", 3)],
)
def test_the_first_worker_ends_with_a_scheduler_that_fails(played, scheduler, code):
    """Else all would wait for ever at the end; but what is a mistake in the command the worker says itself."""
    played.then("sleep 2; exit 3", scheduler)
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert played.run(LAUNCH / "worker.sh", "-m", "ms_bert.pretrain", **given) == code


# ModelArts

MODELARTS = {"MA_NUM_HOSTS": "2", "MA_NUM_GPUS": "2", "VC_TASK_INDEX": "1", "VC_WORKER_HOSTS": "localhost,other"}
COMMAND = ("-m", "pt_reference.pretrain", "--output", "runs/x")


def test_modelarts_has_a_worker_for_each_device_of_the_node(played):
    assert played.run(LAUNCH / "modelarts.sh", *COMMAND, **MODELARTS) == 0
    assert numbers(played.began()) == [("2", "0", "4", "localhost"), ("3", "1", "4", "localhost")]


def test_on_modelarts_all_workers_of_the_node_end_with_one(played):
    played.then("[[ $RANK == 3 ]] && exit 70; sleep 300")
    assert played.run(LAUNCH / "modelarts.sh", *COMMAND, **MODELARTS) == 70
    assert played.running() == []


STOPS = "trap 'sleep 0.3; exit 143' TERM; while true; do sleep 0.05; done"


@pytest.mark.parametrize("package, begin", [("pt_reference", 2), ("ms_bert", 3)])
def test_on_modelarts_a_signal_reaches_all_workers(played, package, begin):
    played.then(STOPS)
    process = played.start(LAUNCH / "modelarts.sh", "-m", f"{package}.pretrain", **{**MODELARTS, "VC_TASK_INDEX": "0"})
    played.wait_for(begin)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143 and played.running() == []


# ssh


def test_by_ssh_a_machine_has_as_many_workers_as_it_is_named(played):
    assert played.run(LAUNCH / "ssh.sh", "localhost localhost other", *COMMAND) == 0
    assert numbers(played.began()) == [(str(rank), str(rank % 2), "3", "localhost") for rank in range(3)]
    assert sorted((played.folder / "hosts").read_text().split())[-1] == "other"
    assert {arguments for arguments, _ in played.began()} == {" ".join(COMMAND)}
    assert not list(ROOT.glob(".launch-*"))


def test_by_ssh_workers_are_started_again_when_one_has_failed(played):
    played.then(
        '[[ -e $PLAYED/failed ]] && exit 0; [[ $RANK == 1 ]] && { touch "$PLAYED/failed"; exit 70; }; sleep 300'
    )
    assert played.run(LAUNCH / "ssh.sh", "localhost other", *COMMAND) == 0
    assert len(played.began()) == 4 and played.running() == []


def test_by_ssh_a_mistake_is_not_tried_again(played):
    played.then("exit 2")
    assert played.run(LAUNCH / "ssh.sh", "localhost other", *COMMAND) == 2
    assert len(played.began()) == 2


def test_by_ssh_they_are_started_again_only_so_often(played):
    played.then("exit 70")
    assert played.run(LAUNCH / "ssh.sh", "localhost", *COMMAND, RESTARTS="1") == 70
    assert len(played.began()) == 2


@pytest.mark.parametrize("package, begin", [("pt_reference", 2), ("ms_bert", 3)])
def test_by_ssh_a_signal_reaches_all_workers(played, package, begin):
    played.then(STOPS)
    process = played.start(LAUNCH / "ssh.sh", "localhost other", "-m", f"{package}.pretrain")
    played.wait_for(begin)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 143 and len(played.began()) == begin and played.running() == []
    assert not list(ROOT.glob(".launch-*"))


# Slurm

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node[0-1]"}


@pytest.mark.parametrize(
    "then, restarts, code, again",
    [
        ("exit 0", "0", 0, False),
        ("exit 2", "0", 2, False),  # a mistake in the command
        ("exit 143", "3", 143, True),  # the time is over
        ("exit 70", "", 70, True),  # a worker was lost
        ("exit 70", "100", 70, False),
    ],
)
def test_slurm_starts_a_worker_for_each_task_and_a_lost_run_again(played, then, restarts, code, again):
    played.then(then)
    more = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    assert played.run(LAUNCH / "slurm.sh", *COMMAND, **SLURM, **more) == code
    assert numbers(played.began()) == [(str(rank), str(rank % 2), "4", "localhost") for rank in range(4)]
    assert ("requeue 7" in (played.folder / "scontrol").read_text()) == again


def test_slurm_lets_workers_save_before_the_time_is_over():
    given = [line for line in (LAUNCH / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    options = {line.split()[1] for line in given}
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= options


# Volcano


def test_volcanos_pods_are_workers(played):
    job = yaml.safe_load((LAUNCH / "volcano.yaml").read_text())["spec"]
    (task,) = job["tasks"]
    assert {"env", "svc"} <= job["plugins"].keys() and job["minAvailable"] == task["replicas"]
    assert {"events": ["PodFailed", "PodEvicted"], "action": "RestartJob"} in job["policies"]
    pod = task["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["shareProcessNamespace"]  # nothing kills process 1 from within
    assert pod["restartPolicy"] == "Never" and {"data", "shared-memory"} == {v["name"] for v in pod["volumes"]}
    (text,) = container["args"]
    given = {"VC_TASK_INDEX": "5", "VC_WORKER_NUM": "8", "VC_WORKER_HOSTS": "localhost,bert-worker-1.bert"}
    assert played.run(*container["command"], text, **given) == 0
    ((arguments, own),) = played.began()
    assert numbers(played.began()) == [("5", "0", "8", "localhost")] and own["MS_WORKER_NUM"] == "8"
    assert "--auto-resume" in arguments and "--output /data/runs/x" in arguments
