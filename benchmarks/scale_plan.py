"""How long would a step take with many workers? A plan from what one worker and one exchange take.

    python -m benchmarks scale_plan
    python -m benchmarks.scale_plan --parameters 110e6 --leaves 512 --leaf-seconds 0.08 --bandwidth 12.5e9 --workers 512

The first foretells the steps of two workers that `python -m benchmarks workers` has measured, from what it measured of
one worker and of the exchange alone, and draws curves to 512 workers for devices that are assumed. The second prints a
plan for your own numbers: measure --leaf-seconds and --update-seconds by two runs of one worker that differ in --leaves
and in the size of the batch, which throughput.jsonl times.

The plan is a sum, as nothing overlaps: with L leaves, W workers, N bytes of gradients and B bytes a second,

    t(W) = L/W t_leaf + t_update/W + s N (W-1)/W / B + r(W) a

PyTorch sends s = 2 times the gradients in r = 2 (W-1) messages (all-to-all, all-gather), MindSpore s = 3 times in
2 log2(W) + W-1 (AllReduce of two workers, level by level, of half as much each time; AllGather); a is the time of a
message that has no length. The efficiency is t(1) / (W t(W)).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ms_bert.errors import UserError

MOST_ERROR = 0.2  # of a step that was foretold
CHART = "scale_plan.png"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step is made of; see the module.

    Attributes:
        leaves: L. leaf_seconds: t_leaf. update_seconds: t_update, of one worker. size: N, in bytes. bandwidth: B, in
            bytes a second of one worker. latency: a, in seconds. framework: whose exchange.
    """

    leaves: int
    leaf_seconds: float
    update_seconds: float
    size: float
    bandwidth: float
    latency: float
    framework: str = "MindSpore"

    def exchange_seconds(self, workers: int) -> float:
        """Of gradients and updated rows."""
        if workers == 1:
            return 0.0
        sent, messages = 2, 2 * (workers - 1)
        if self.framework == "MindSpore":
            sent, messages = 3, 2 * math.ceil(math.log2(workers)) + workers - 1
        return sent * self.size * (workers - 1) / workers / self.bandwidth + messages * self.latency

    def step_seconds(self, workers: int) -> float:
        """t(W).

        Raises:
            UserError: there are more workers than leaves.
        """
        if workers > self.leaves:
            raise UserError(f"{workers} workers cannot share {self.leaves} leaves; choose more --leaves.")
        computing = self.leaves / workers * self.leaf_seconds + self.update_seconds / workers
        return computing + self.exchange_seconds(workers)

    def efficiency(self, workers: int) -> float:
        """The share of the workers' time that one worker alone would need."""
        return self.step_seconds(1) / (workers * self.step_seconds(workers))


# Curves


@dataclasses.dataclass(frozen=True)
class Assumed:
    """A device and a network, as nobody has measured them here.

    Attributes:
        flops: of a device that trains, a second; what it reaches, not its peak. bandwidth: bytes a second of a worker.
        latency: seconds of a message. memory: bytes a second that a device reads or writes.
    """

    name: str
    flops: float
    bandwidth: float
    latency: float
    memory: float


# 140 TFLOP/s are 45% of 312, the bfloat16 peak of an A100 and about that of an Ascend 910.
DEVICES = (
    Assumed("140 TFLOP/s, 100 Gbit/s", 140e12, 12.5e9, 20e-6, 1.2e12),
    Assumed("140 TFLOP/s, 400 Gbit/s", 140e12, 50e9, 20e-6, 1.2e12),
)
PARAMETERS = {"base": 110.1e6, "large": 336.2e6}  # with the heads of pre-training, 30,522 tokens
LEAF_TOKENS = 128 * 128
LEAVES = 512  # 65,536 rows of 128 tokens, a batch of LAMB's paper (You et al., 2020)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def assumed(preset: str, device: Assumed) -> Plan:
    """A plan by the rule that a token takes 6 operations for each parameter (Kaplan et al., 2020): 2 forward, 4
    backward. LAMB or AdamW read and write the gradient, two moments and the parameter."""
    parameters = PARAMETERS[preset]
    return Plan(
        leaves=LEAVES,
        leaf_seconds=6 * parameters * LEAF_TOKENS / device.flops,
        update_seconds=7 * 4 * parameters / device.memory,
        size=4 * parameters,
        bandwidth=device.bandwidth,
        latency=device.latency,
    )


def measure(output: Path) -> dict:
    """What is foretold of two workers beside what was measured, and the curves.

    Raises:
        UserError: several workers were not measured.
    """
    path = output / "workers.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; measure it first: python -m benchmarks workers") from None
    curves = [
        {
            "preset": preset,
            "device": device.name,
            "leaf_seconds": round(assumed(preset, device).leaf_seconds, 4),
            "points": list(_points(assumed(preset, device), WORKERS)),
        }
        for preset in PARAMETERS
        for device in DEVICES
    ]
    draw(output / CHART, curves)
    return {"measured_at": found["commit"], "foretold": list(foretold(found["result"])), "curves": curves}


def foretold(found: Sequence[dict]) -> Iterator[dict]:
    """The step of two workers of each model that was measured, from its parts."""
    (exchange,) = (one for one in found if one["kind"] == "exchange")
    throughput = {one["preset"]: one for one in found if one["kind"] == "throughput"}
    bandwidth, latency = fitted(exchange["sizes"])
    for parts in (one for one in found if one["kind"] == "parts"):
        measured = throughput[parts["preset"]]
        size = 4.0 * parts["parameters"]
        leaves = measured["leaves"]
        plan = Plan(leaves, parts["leaf_seconds"], parts["update_seconds"], size, bandwidth, latency)
        seconds = measured["rows"] / measured["sequences_per_second"]["2 workers"]
        yield {
            "preset": parts["preset"],
            "rows": measured["rows"],
            "leaves": leaves,
            "leaf_seconds": parts["leaf_seconds"],
            "exchange_seconds": round(plan.exchange_seconds(2), 4),
            "foretold_seconds": round(plan.step_seconds(2), 4),
            "measured_seconds": round(seconds, 4),
            "foretold_to_measured": round(plan.step_seconds(2) / seconds, 3),
        }


def fitted(sizes: Sequence[dict]) -> tuple[float, float]:
    """The bandwidth and the latency by which the plan comes nearest to exchanges of two workers that were measured.

    The squares of relative errors are the least; the latency is 0 at least.
    """
    seconds = np.array([size["milliseconds"] / 1000 for size in sizes])
    values = np.array([4.0 * size["values"] for size in sizes])
    # 3 N / 2 / B + 3 a, of the plan for MindSpore and two workers.
    columns = np.stack([1.5 * values, np.full(len(values), 3.0)], 1) / seconds[:, None]
    (inverse, latency), *_ = np.linalg.lstsq(columns, np.ones(len(values)), rcond=None)
    if latency < 0.0:
        first = columns[:, 0]
        inverse, latency = float(first.sum() / (first @ first)), 0.0
    return 1.0 / float(inverse), float(latency)


def _points(plan: Plan, workers: Sequence[int]) -> Iterator[dict]:
    for count in workers:
        yield {
            "workers": count,
            "step_seconds": round(plan.step_seconds(count), 4),
            "exchange_seconds": round(plan.exchange_seconds(count), 4),
            "efficiency": round(plan.efficiency(count), 3),
        }


def draw(path: Path, curves: Sequence[dict]) -> None:
    """The efficiencies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = {device.name: style for device, style in zip(DEVICES, ("-", "--"))}
    colors = dict(zip(PARAMETERS, ("#1f6fb4", "#d1495b")))
    for curve in curves:
        counts, shares = zip(*((point["workers"], point["efficiency"]) for point in curve["points"]))
        label = f"BERT-{curve['preset']}, {curve['device']}"
        panel.plot(counts, shares, styles[curve["device"]], color=colors[curve["preset"]], label=label, marker=".")
    panel.set_xscale("log", base=2)
    panel.set_xticks(WORKERS, [str(count) for count in WORKERS])
    panel.set_ylim(0, 1.05)
    panel.set_xlabel("workers")
    panel.set_ylabel("efficiency")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
    panel.set_title("A model, not a measurement: 65,536 rows of 128 tokens, nothing overlaps", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan for given numbers; returns the exit code."""
    about = __doc__.partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_plan", description=about)
    parser.add_argument("--parameters", type=float, required=True, help="of the model, such as 110e6")
    parser.add_argument("--leaves", type=int, required=True, help="of a batch")
    parser.add_argument("--leaf-seconds", type=float, required=True, help="of one leaf, forward and backward")
    parser.add_argument("--update-seconds", type=float, default=0.0, help="of one worker's whole update (default: 0)")
    parser.add_argument("--bandwidth", type=float, required=True, help="bytes a second that one worker sends")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds of a message (default: 2e-5)")
    parser.add_argument("--framework", choices=["MindSpore", "PyTorch"], default="MindSpore", help="whose exchange")
    parser.add_argument("--workers", type=int, required=True, help="up to so many, by powers of two")
    given = parser.parse_args(arguments)
    for name in ("parameters", "leaves", "leaf_seconds", "bandwidth", "workers"):
        if not getattr(given, name) > 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}; choose more than 0.")
    plan = Plan(
        given.leaves,
        given.leaf_seconds,
        given.update_seconds,
        4 * given.parameters,
        given.bandwidth,
        given.latency,
        given.framework,
    )
    if given.leaves.bit_count() != 1:
        parser.error(f"--leaves is {given.leaves}; choose a power of two.")
    counts = [2**power for power in range(given.workers.bit_length())]
    try:
        points = list(_points(plan, counts))
    except UserError as error:
        parser.error(str(error))
    header = ("workers", "leaves each", "step, s", "exchange, s", "efficiency", "times as fast")
    print("{:>8} {:>12} {:>10} {:>12} {:>11} {:>14}".format(*header))
    for point in points:
        count = point["workers"]
        print(
            f"{count:>8} {given.leaves // count:>12} {point['step_seconds']:>10.3f} {point['exchange_seconds']:>12.3f} "
            f"{point['efficiency']:>11.1%} {plan.step_seconds(1) / plan.step_seconds(count):>14.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
