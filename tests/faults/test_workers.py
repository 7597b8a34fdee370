"""Runs that several workers share: killed, stopped and gone on with by another number, they end with the same bytes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ms_bert.commands import agreeing, pretraining
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuneOptions, FinetuningRun
from ms_bert.framework import MindSpore
from ms_bert.options import Options
from ms_bert.process import own_threads
from ms_bert.run import supervisor
from pt_reference.collectives import check_launcher
from pt_reference.framework import PyTorch
from tests import runs
from tests.cases import some

SHARED = ("--leaves", "4", "--threads", "1")


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What a run of one worker leaves, by package, once it was asked for."""
    folder, found = tmp_path_factory.mktemp("alone"), {}

    def content(package: str) -> dict[str, bytes]:
        if package not in found:
            done = runs.run(*options, *SHARED, "--output", folder / package, package=package, env=dict(os.environ))
            assert done.returncode == 0, done.stderr
            found[package] = runs.content(folder / package)
        return found[package]

    return content


def begun(process: subprocess.Popen, folder: Path, step: int = 3) -> None:
    """Wait until it has written a checkpoint."""
    end = time.monotonic() + 120
    while not (folder / "checkpoints" / f"step-{step:08d}").is_dir():
        assert process.poll() is None and time.monotonic() < end, "\n".join(process.communicate())
        time.sleep(0.02)


def workers_of(process: subprocess.Popen) -> list[int]:
    """The processes that it has started, in their order."""
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def left_of(folder: Path) -> dict[int, str]:
    """Processes whose command names the folder, and their commands."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found[int(path.parent.name)] = command
    return found


# The first worker is the one that saves. In the twin a signal and torchrun restart them, below.
KILLED = [("ms_bert", 0), ("ms_bert", 1), ("pt_reference", 0), ("pt_reference", 1)]


@pytest.mark.parametrize("package, rank", some(KILLED, KILLED[0]))
def test_a_worker_that_is_killed_costs_no_byte(options, alone, tmp_path, package, rank):
    folder = tmp_path / "run"
    process = runs.start(*options, *SHARED, "--workers", 2, "--output", folder, package=package)
    begun(process, folder)
    os.kill(workers_of(process)[rank], signal.SIGKILL)
    said = process.communicate(timeout=200)
    assert process.returncode == 0, "\n".join(said)
    assert f"worker {rank} was killed by SIGKILL; starting all workers again (1 of 3)" in said[1]
    assert runs.content(folder) == alone(package)
    assert left_of(folder) == {}


@pytest.mark.full
def test_a_worker_that_is_stopped_costs_no_byte(options, alone, tmp_path):
    folder = tmp_path / "run"
    process = runs.start(*options, *SHARED, "--workers", 2, "--output", folder, package="pt_reference")
    begun(process, folder)
    os.kill(workers_of(process)[1], signal.SIGSTOP)
    said = process.communicate(timeout=200)
    assert process.returncode == 0, "\n".join(said)
    assert "worker 1 was stopped for 10 seconds; starting all workers again (1 of 3)" in said[1]
    assert runs.content(folder) == alone("pt_reference")
    assert left_of(folder) == {}


@pytest.mark.parametrize("count", some([1, 4], 1))
def test_a_signal_stops_all_after_the_same_step_and_other_numbers_of_workers_go_on(options, alone, tmp_path, count):
    folder = tmp_path / "run"
    process = runs.start(*options, *SHARED, "--workers", 2, "--output", folder, package="pt_reference")
    begun(process, folder)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, "\n".join(said)
    (step,) = re.findall(r"stopped by a signal after step (\d+) and saved", said[0])
    assert (folder / "checkpoints" / f"step-{int(step):08d}").is_dir() and left_of(folder) == {}
    done = runs.run("--resume", folder, "--workers", count, package="pt_reference", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert runs.content(folder) == alone("pt_reference")


PACKAGES = ("pt_reference", "ms_bert")


@pytest.mark.full
@pytest.mark.parametrize("package", PACKAGES)
def test_the_number_of_workers_may_change_on_the_way(options, alone, tmp_path, package):
    folder, by = tmp_path / "run", {"package": package, "env": dict(os.environ)}
    begin = (*options, *SHARED, "--workers", 2, "--steps", 4, "--decay-steps", 12, "--output", folder)
    again = [("--resume", folder, "--workers", count, "--steps", steps) for count, steps in ((1, 8), (4, 12))]
    for line in (begin, *again):
        done = runs.run(*line, **by)
        assert done.returncode == 0, done.stderr
    # A run that ends in between evaluates there, so the metrics have more lines.
    weights, others = (
        {name: content for name, content in found.items() if name.endswith(".safetensors")}
        for found in (runs.content(folder), alone(package))
    )
    assert len(weights) >= 2 and weights == others


@pytest.mark.parametrize("package", some(PACKAGES, "pt_reference"))
def test_two_workers_fine_tune_as_one(undisturbed, tmp_path, package):
    for name, count in (("train", 24), ("dev", 10)):
        rows = [f"{'it works' if n % 2 else 'an error'} {n}\t{n % 2}\n" for n in range(count)]
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(rows))
    given = ("--task", "classification", "--model", undisturbed, "--longest", 32, "--batch-size", 8, "--epochs", 2)
    given += ("--train", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv", "--leaves", 2, "--threads", 1)
    made = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        more = ("--workers", count, "--output", folder)
        done = runs.run(*given, *more, package=package, command="finetune", env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        made.append({**runs.content(folder), "predictions": (folder / "predictions.jsonl").read_bytes()})
    assert made[0] == made[1]


@pytest.mark.full
@pytest.mark.parametrize("package", PACKAGES)
def test_two_workers_evaluate_as_one(undisturbed, package):
    told = []
    for count in (1, 2):
        given = ("--evaluate", undisturbed, "--threads", 1, "--workers", count)
        done = runs.run(*given, package=package, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines()[-1])
    assert told[0] == told[1] and "MLM loss" in told[0]


def test_workers_end_with_their_supervisor(options, tmp_path):
    folder = tmp_path / "run"
    process = runs.start(*options, *SHARED, "--workers", 2, "--output", folder, package="pt_reference")
    begun(process, folder)
    process.kill()
    process.wait()
    end = time.monotonic() + 5.0
    while left_of(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert left_of(folder) == {}


def launched(*command, **environment) -> subprocess.Popen:
    """A launcher, in the background."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun starts what is called python there
    return subprocess.Popen(
        [*map(str, command)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment},
    )


def torchrun(options, folder: Path, *more) -> subprocess.Popen:
    """Two workers of the twin, started by torch's own launcher."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *more)
    command = ("-m", "pt_reference.pretrain", *options, *SHARED, "--output", folder, "--auto-resume")
    return launched(*launcher, *command, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def workers_in(folder: Path, package: str) -> list[int]:
    """The workers that a launcher has started for a run in the folder."""
    return sorted(
        number
        for number, command in left_of(folder).items()
        if f"{package}.pretrain" in (first := command.split("\0")[:4]) and "torch.distributed.run" not in first
    )


def test_torchrun_starts_workers_again_that_go_on_with_the_run(options, alone, tmp_path):
    folder = tmp_path / "run"
    process = torchrun(options, folder, "--max-restarts", 1)
    begun(process, folder)
    os.kill(workers_in(folder, "pt_reference")[1], signal.SIGKILL)
    said = process.communicate(timeout=200)
    assert process.returncode == 0, "\n".join(said)
    assert runs.content(folder) == alone("pt_reference")
    assert left_of(folder) == {}


@pytest.mark.full
def test_under_torchrun_a_signal_stops_all_after_the_same_step(options, alone, tmp_path):
    folder = tmp_path / "run"
    process = torchrun(options, folder)
    begun(process, folder)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)
    assert process.returncode != 0, "\n".join(said)
    (step,) = re.findall(r"stopped by a signal after step (\d+) and saved", said[0])
    assert (folder / "checkpoints" / f"step-{int(step):08d}").is_dir() and left_of(folder) == {}
    done = runs.run("--resume", folder, package="pt_reference", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert runs.content(folder) == alone("pt_reference")


def test_torchrun_is_not_let_give_new_workers_the_store_of_the_old():
    check_launcher({})
    shared = {"TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    check_launcher(shared)
    check_launcher({"TORCHELASTIC_MAX_RESTARTS": "2", "TORCHELASTIC_USE_AGENT_STORE": "False"})
    with pytest.raises(UserError, match="--max-restarts 2, .*; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        check_launcher({**shared, "TORCHELASTIC_MAX_RESTARTS": "2"})


@pytest.mark.full
def test_a_worker_of_msrun_that_is_killed_ends_all_and_the_same_command_goes_on(options, alone, tmp_path):
    folder = tmp_path / "run"

    def msrun() -> subprocess.Popen:
        launcher = ("msrun", "--worker_num", 2, "--local_worker_num", 2, "--master_port", supervisor.free_port())
        logs = ("--join", "True", "--log_dir", tmp_path / "logs")
        command = ("python", "-m", "ms_bert.pretrain", *options, *SHARED, "--output", folder, "--auto-resume")
        return launched(*launcher, *logs, *command)

    process = msrun()
    begun(process, folder)
    os.kill(max(workers_in(folder, "ms_bert")), signal.SIGKILL)
    said = process.communicate(timeout=200)  # MindSpore notices after some 30 seconds
    assert process.returncode == 1, "\n".join(said)
    assert left_of(folder) == {}
    again = msrun()
    said = again.communicate(timeout=200)
    assert again.returncode == 0, "\n".join(said)
    assert runs.content(folder) == alone("ms_bert")


@pytest.mark.parametrize(
    "given, words",
    [
        (("--workers", 2), "2 workers cannot share a batch of 1 leaf; give --leaves 2 to this run"),
        (("--workers", 8, "--leaves", 4), "8 workers cannot share a batch of 4 leaves; give --leaves 8"),
        (("--workers", 3), "--workers is 3; choose 1, 2, 4 or another power of two."),
        (("--workers", 2, "--leaves", 2, "--corpus", "no/such/file"), "no/such/file"),
        (("--workers", 2, "--leaves", 2, "--threads", 10**5), "--threads is 100000"),
    ],
)
def test_what_workers_cannot_do_is_said_once(options, tmp_path, given, words):
    result = runs.run(*options, *given, "--output", tmp_path / "run", package="pt_reference", env=dict(os.environ))
    runs.assert_refused(result, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "framework, given, said, shared",
    [
        (MindSpore(), [], None, "4"),
        (MindSpore(), ["--kernels", "stock"], "4", "4"),
        (MindSpore(), ["--threads", "3"], "3", "4"),
        (PyTorch(), [], "4", "4"),
    ],
)
def test_threads_that_are_shared_out_are_an_option_only_where_bytes_depend_on_them(
    framework, given, said, shared, tmp_path, monkeypatch
):
    """Else a run would go on with as few as it once had, or with more than another machine has."""
    lines: list[tuple] = []

    def played(start, count, *others):
        monkeypatch.setattr(supervisor, "started", lambda line, environments, count: lines.append((line, environments)))
        start(0)
        return 0

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(supervisor, "supervise", played)
    arguments = ["--workers", "2", "--leaves", "2", "--output", str(tmp_path / "run"), *given]
    assert pretraining.main(framework, "pretrain", "", arguments) == 0
    ((line, environments),) = lines
    found = line[line.index("--threads") + 1] if "--threads" in line else None
    assert found == said and {environment["MS_BERT_THREADS"] for environment in environments} == {shared}


def test_a_worker_takes_the_threads_that_it_is_given_unless_it_is_told_others(monkeypatch):
    assert own_threads(None) is None and own_threads(3) == 3
    monkeypatch.setenv("MS_BERT_THREADS", "4")
    assert own_threads(None) == 4 and own_threads(3) == 3


class Others:
    """Workers of which all but this one are played."""

    def __init__(self, rank: int, changed=lambda gathered: gathered):
        self.rank, self.count, self.changed = rank, 3, changed

    def gather(self, array):
        if array.dtype == np.float32:
            return self.changed(np.stack([agreeing._numbers(rank) for rank in range(self.count)]))
        return self.changed(np.stack([array] * self.count))


def test_workers_that_are_alike_go_on():
    agreeing.check(Others(1), PyTorch(), Options(), {"store": "abc"})


@pytest.mark.parametrize("number, name", enumerate(agreeing.REMEDIES))
def test_a_worker_that_is_not_like_the_others_is_named(number, name):
    def changed(gathered):
        if gathered.dtype == np.uint8:
            gathered[2, number, 0] ^= 1
        return gathered

    with pytest.raises(UserError, match=f"worker 2 has other {name} than worker 0; {agreeing.REMEDIES[name]}."):
        agreeing.check(Others(0, changed), PyTorch(), Options(), {"store": "abc"})


def test_numbers_that_change_on_their_way_are_seen():
    def changed(gathered):
        if gathered.dtype == np.float32:
            gathered[1, 500] += 1e-6
        return gathered

    with pytest.raises(UserError, match="worker 0 received other numbers than worker 1 sent"):
        agreeing.check(Others(0, changed), PyTorch(), Options(), {})


def test_the_options_of_the_run_alone_may_differ_between_workers():
    one, other = Options(), Options.from_dict({"run": {"threads": 1}, "text": {"cache": "elsewhere"}}, "run.json")
    assert agreeing._shared(one.to_dict()) == agreeing._shared(other.to_dict())
    for others in ({"training": {"seed": 2}}, {"run": {"eval_every": 7}}, {"run": {"checkpoint_every": 3}}):
        third = Options.from_dict(others, "run.json")  # seed of the data, or when something is sent
        assert agreeing._shared(one.to_dict()) != agreeing._shared(third.to_dict())
    patient = FinetuneOptions(run=FinetuningRun(patience=3)).to_dict()
    assert agreeing._shared(patient) != agreeing._shared(FinetuneOptions().to_dict())
