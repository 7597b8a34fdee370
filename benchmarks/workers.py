"""What do several workers cost and give? Throughput, memory of each, the exchange by its size, start and restart.

On this machine, MindSpore, float32, the built-in corpus: two workers with half of the processors each against one with
all of them, by turns; what a leaf and the update take one worker with half of the processors, by which `scale_plan`
foretells the step of two; BERT-base by one, two and four workers, for the memory of each. Then a worker is killed, and
the time is taken until all train again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import THREADS
from ms_bert.framework import MindSpore
from ms_bert.run import checkpoints, supervisor
from ms_bert.run.folder import RUN, THROUGHPUT, read_log

QUIET = ("--eval-every", 0, "--log-every", 1, "--checkpoint-every", 10**6, "--no-graph-cache", "--eval-sequences", 32)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        throughput: presets, with the rows of a batch, its leaves, the steps of a turn and the turns. memory: a preset,
        the rows of a batch and the numbers of workers. exchange: values that are exchanged, and how often. text:
        options of the corpus.
    """

    throughput: tuple[tuple[str, int, int, int, int], ...]
    memory: tuple[str, int, tuple[int, ...]]
    exchange: tuple[tuple[int, ...], int]
    text: tuple = ()


FULL = Size(
    throughput=(("mini", 256, 8, 4, 4), ("base", 32, 2, 4, 3), ("base", 128, 8, 2, 2)),
    memory=("base", 32, (1, 2, 4)),
    exchange=((2**18, 2**20, 2**22, 2**24, 2**26), 9),
)


@dataclasses.dataclass
class Watched:
    """A command that trains, with several workers or one.

    Attributes:
        path: of its run. process: the command's.
    """

    path: Path
    process: subprocess.Popen
    began: float

    def lines(self) -> list[dict]:
        """Of the steps that it has logged."""
        return [line for line in read_log(self.path, THROUGHPUT) if "seconds" in line]

    def workers(self) -> list[int]:
        """Its processes that train, in their order: those it has started but the scheduler, or itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))[:-1] or [self.process.pid]

    def wait_for(self, step: int) -> float:
        """Seconds since its beginning until a step was logged."""
        while not any(line["step"] >= step for line in self.lines()):
            if self.process.poll() is not None:
                raise SystemExit(f"training ended with exit code {self.process.returncode}")
            time.sleep(0.02)
        return time.monotonic() - self.began

    def peaks(self) -> dict[int, float]:
        """The peak memory of each worker until now, in GB."""
        found = {}
        for worker in self.workers():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{worker}/status").read_text().splitlines()
                kilobytes = int(next(line.split()[1] for line in status if line.startswith("VmHWM")))
                found[worker] = kilobytes * 1024 / 1e9
        return found


@contextlib.contextmanager
def training(*options) -> Iterator[Watched]:
    """A pre-training in a folder of its own; it is killed at the end, if it is not done."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        line = [sys.executable, "-m", "ms_bert.pretrain", *map(str, (*QUIET, *options)), "--output", str(path)]
        began = time.monotonic()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            yield Watched(path, process, began)
        finally:
            process.kill()
            process.wait()


def measure(output: Path, size: Size = FULL) -> Iterator[dict]:
    for preset, rows, leaves, steps, turns in size.throughput:
        about = {"preset": preset, "rows": rows, "leaves": leaves}
        yield {"kind": "throughput", **about, **_throughput(preset, rows, leaves, steps, turns, size)}
        yield {"kind": "parts", "preset": preset, **_parts(preset, rows // leaves, steps, size)}
    preset, rows, counts = size.memory
    for count in counts:
        yield {"kind": "memory", "preset": preset, "rows": rows, "workers": count, **_memory(preset, rows, count, size)}
    values, times = size.exchange
    yield {"kind": "exchange", "workers": 2, "sizes": _exchanges(values, times)}
    yield {"kind": "restart", **_restart(size)}


def _shared(preset: str, rows: int, leaves: int, count: int, threads: int, size: Size) -> tuple:
    workers = ("--workers", count) if count > 1 else ()
    return ("--preset", preset, "--batch-size", rows, "--leaves", leaves, "--threads", threads, *workers, *size.text)


def _timed(steps: int, *options) -> tuple[float, int]:
    """The seconds of a step, of so many, and the model's parameters."""
    with training(*options, "--steps", steps + 2) as run:
        run.wait_for(steps + 1)
        # The first one waits for memory and for batches.
        seconds = [line["seconds"] for line in run.lines()[1:]]
        return statistics.median(seconds), json.loads((run.path / RUN).read_text())["parameters"]


def _parts(preset: str, leaf: int, steps: int, size: Size) -> dict:
    """What a leaf of so many rows and the update take one worker with half of the processors, from batches of two and
    of four leaves."""
    half, seconds = max(1, THREADS // 2), {}
    for count in (2, 4):
        seconds[count], parameters = _timed(steps, *_shared(preset, leaf * count, count, 1, half, size))
    of_leaf = (seconds[4] - seconds[2]) / 2
    return {
        "step_seconds": {f"{count} leaves": round(found, 4) for count, found in seconds.items()},
        "leaf_seconds": round(of_leaf, 4),
        "update_seconds": round(max(0.0, seconds[2] - 2 * of_leaf), 4),
        "parameters": parameters,
    }


def _throughput(preset: str, rows: int, leaves: int, steps: int, turns: int, size: Size) -> dict:
    """Sequences a second of one worker with all processors and of two with half of them each, the ratio by turns."""
    half = max(1, THREADS // 2)
    ways = {"1 worker": (1, 2 * half), "2 workers": (2, half)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            seconds, _ = _timed(steps, *_shared(preset, rows, leaves, *ways[name], size))
            found[name].append(rows / seconds)
    one, two = found.values()
    return {
        "threads_of_a_worker": {name: threads for name, (_, threads) in ways.items()},
        "sequences_per_second": {name: round(statistics.median(rates), 2) for name, rates in found.items()},
        "two_to_one": round(statistics.median(b / a for a, b in zip(one, two)), 3),
        "turns": {name: [round(rate, 2) for rate in rates] for name, rates in found.items()},
    }


def _memory(preset: str, rows: int, count: int, size: Size) -> dict:
    """The peak of each worker after two steps, and the seconds until the first."""
    with training(*_shared(preset, rows, 8, count, 1, size), "--steps", 4) as run:
        first = run.wait_for(1)
        run.wait_for(2)
        peaks = list(run.peaks().values())
    return {"peak_memory_gb": [round(peak, 2) for peak in peaks], "to_first_step_seconds": round(first, 1)}


def _restart(size: Size) -> dict:
    """Seconds from the death of a worker until a step after the newest checkpoint is done."""
    often = ("--checkpoint-every", 2, "--steps", 100_000, "--decay-steps", 100)
    with training(*_shared("tiny", 32, 8, 2, 1, size), *often) as run:
        first = run.wait_for(3)
        while not checkpoints.steps(run.path):
            time.sleep(0.02)
        os.kill(run.workers()[1], signal.SIGKILL)
        killed = time.monotonic()
        while not _trains_again(run):
            if time.monotonic() - killed > 300:
                raise SystemExit("the workers did not train again within 300 seconds")
            time.sleep(0.02)
        seconds = time.monotonic() - killed
    return {"preset": "tiny", "workers": 2, "to_first_step_seconds": round(first, 1), "seconds": round(seconds, 1)}


def _trains_again(run: Watched) -> bool:
    """Whether a step is logged after a graph was compiled that is not the first."""
    lines = read_log(run.path, THROUGHPUT)
    compiled = [number for number, line in enumerate(lines) if "compile_seconds" in line and line["step"]]
    return bool(compiled) and any("seconds" in line for line in lines[compiled[-1] :])


def _exchanges(values: Sequence[int], times: int) -> list[dict]:
    """Milliseconds of the sum of so many gradients, divided between two workers, and of what was updated to both."""
    framework = MindSpore()

    def start(attempt: int) -> list[supervisor.Process]:
        more = {"GLOG_v": "3", "MS_BERT_SAID": path}
        environments = [{**environment, **more} for environment in framework.environments(2)]
        module = ["benchmarks.contenders.exchange", str(times), *map(str, values)]
        return supervisor.started(module, environments, 2)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "said")
        if supervisor.supervise(start, 2, 0, print):
            raise SystemExit("the exchange failed")
        lines = Path(path).read_text().splitlines()
    return [
        {"values": count, "megabytes": round(count * 4 / 1e6, 2), "milliseconds": float(line)}
        for count, line in zip(values, lines, strict=True)
    ]
