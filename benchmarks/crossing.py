"""Does a run that changes its framework follow one that does not?

Four times 150 steps of the default run: MindSpore, PyTorch, MindSpore, PyTorch, each resuming the folder of the other;
and the same 600 steps by each alone. Dropout is on: both drop the same units.
"""

import math
import tempfile
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.machine import run_pretraining
from ms_bert.run.curves import FRAMEWORK_COLORS, training_spans
from ms_bert.run.folder import METRICS, read_description, read_log

STEPS, LEG = 600, 150
PACKAGES = {"MindSpore": "ms_bert", "PyTorch": "pt_reference"}


def measure(output):
    with tempfile.TemporaryDirectory() as name:
        folders = {kind: Path(name) / kind for kind in (*PACKAGES, "crossed")}
        options = ["--dropout", 0.1, "--decay-steps", STEPS, "--eval-every", LEG, "--checkpoint-every", LEG]
        for framework, package in PACKAGES.items():
            arguments = (*options, "--steps", STEPS, "--output", folders[framework])
            run_pretraining(*arguments, package=package)
        crossed = folders["crossed"]
        run_pretraining(*options, "--steps", LEG, "--output", crossed, package="ms_bert")
        for number in range(1, STEPS // LEG):
            package = tuple(PACKAGES.values())[number % 2]
            run_pretraining("--resume", crossed, "--steps", LEG * (number + 1), package=package)
        losses = {kind: _losses(folder) for kind, folder in folders.items()}
        spans = training_spans(read_description(crossed)["trained_by"])
        held_out = {
            kind: [line for line in read_log(folder, METRICS) if "held_out_mlm_loss" in line][-1]
            for kind, folder in folders.items()
        }
    _draw(output / "crossing.png", losses, spans)
    return {
        "steps": STEPS,
        "crossed": [[first, min(last, STEPS), framework] for first, last, framework in spans],
        "largest_relative_difference_of_the_loss": {
            "crossed from MindSpore alone": _largest(losses["crossed"], losses["MindSpore"]),
            "PyTorch alone from MindSpore alone": _largest(losses["PyTorch"], losses["MindSpore"]),
        },
        "held_out_mlm_loss": {kind: line["held_out_mlm_loss"] for kind, line in held_out.items()},
        "mlm_losses": {kind: [values[step] for step in sorted(values)] for kind, values in losses.items()},
    }


def _losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["mlm_loss"] for line in read_log(folder, METRICS) if "mlm_loss" in line}


def _largest(losses: dict[int, float], others: dict[int, float]) -> float:
    return max(abs(value / others[step] - 1.0) for step, value in losses.items())


def _draw(path: Path, losses: dict[str, dict[int, float]], spans: list) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    curve, noise = figure.subplots(1, 2)
    steps = sorted(losses["crossed"])
    curve.plot(steps, [losses["MindSpore"][s] for s in steps], color="lightgray", linewidth=6, label="MindSpore alone")
    for first, last, framework in spans:
        # From the last point of the one before, so that the line has no gaps.
        part = [s for s in steps if first <= s <= last]
        label = framework if framework not in curve.get_legend_handles_labels()[1] else None
        color = FRAMEWORK_COLORS[framework]
        curve.plot(part, [losses["crossed"][s] for s in part], color=color, linewidth=1.8, label=label)
    for axes in (curve, noise):
        for first, _, _ in spans[1:]:
            axes.axvline(first, color="gray", linestyle=":", linewidth=1)
        axes.set(xlabel="step")
        axes.grid(alpha=0.3)
    curve.set(title="One run, two frameworks", ylabel="masked language model loss (nats)")
    for kind, color, label in (
        ("crossed", "tab:green", "the crossed run"),
        ("PyTorch", FRAMEWORK_COLORS["PyTorch"], "PyTorch alone"),
    ):
        values = [abs(losses[kind][s] / losses["MindSpore"][s] - 1.0) or math.nan for s in steps]
        noise.semilogy(steps, values, color=color, linewidth=1.2, label=label)
    noise.set(title="Difference from MindSpore alone", ylabel="relative difference of the loss")
    for axes in (curve, noise):
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
