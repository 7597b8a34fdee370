"""curves.png: what a task draws of its metrics, learning rate and throughput of a run, from its logs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from ms_bert.data.files import write_atomically
from ms_bert.run.folder import CURVES, METRICS, THROUGHPUT, read_description, read_log
from ms_bert.tasks import Panel

# Of the training losses of a run that several frameworks computed.
FRAMEWORK_COLORS = {"MindSpore": "tab:blue", "PyTorch": "tab:red"}


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Draw the curves of a run folder: these panels of its metrics, and one of throughput and learning rate.

    Where several frameworks computed the run, the training curve of a panel with one metric is coloured by framework.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics, throughput = read_log(path, METRICS), read_log(path, THROUGHPUT)
    if not metrics:
        return
    rows = -(-(len(panels) + 1) // 2)
    figure = Figure(figsize=(11, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    *diagrams, speed = list(figure.subplots(rows, 2).flat)[: len(panels) + 1]
    spans = training_spans(read_description(path)["trained_by"])
    for axes, panel in zip(diagrams, panels):
        _draw_panel(axes, panel, metrics, spans)
    _plot(speed, throughput, "tokens_per_second", "tokens/s", "tab:green", linewidth=1)
    speed.set(title="Throughput and learning rate", ylabel="tokens/s", ylim=(0, None))
    rate = speed.twinx()
    _plot(rate, metrics, "learning_rate", "learning rate", "tab:red", linewidth=1.5)
    rate.set(ylabel="learning rate", ylim=(0, None))
    for axes in (*diagrams, speed):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        lines = [*axes.lines, *(rate.lines if axes is speed else [])]
        lines = [line for line in lines if not line.get_label().startswith("_")]
        if lines:
            axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path / CURVES, picture.getvalue(), make_folder=False)


def _draw_panel(axes, panel: Panel, metrics: list[dict], spans: list[tuple[int, float, str]]) -> None:
    several = len({framework for _, _, framework in spans}) > 1
    alone = len(panel.curves) == 1
    for curve in panel.curves:
        held_out = curve.color
        if alone and several:
            held_out = "black"
            for first, last, framework in spans:
                lines = [line for line in metrics if first <= line["step"] <= last]  # joined
                label = f"training, {framework}"
                if label in axes.get_legend_handles_labels()[1]:
                    label = "_" + label  # named once
                color = FRAMEWORK_COLORS.get(framework, curve.color)
                _plot(axes, lines, curve.metric, label, color, alpha=0.6, linewidth=1)
        else:
            _plot(axes, metrics, curve.metric, f"{curve.name} training".strip(), curve.color, alpha=0.6, linewidth=1)
        label, style = f"{curve.name} held-out".strip(), {"marker": "o", "markersize": 4, "linewidth": 1.8}
        _plot(axes, metrics, f"held_out_{curve.metric}", label, held_out, **style)
    if panel.line is not None and axes.lines:
        value, label = panel.line
        axes.axhline(value, color="gray", linestyle="--", linewidth=1, label=label)
    axes.set(title=panel.title, ylabel=panel.unit, ylim=panel.limits)


def _plot(axes, lines: list[dict], field: str, label: str, color: str, **style) -> None:
    points = [(line["step"], line[field]) for line in lines if math.isfinite(line.get(field, math.nan))]
    if points:
        axes.plot(*zip(*points), label=label, color=color, **style)


def training_spans(trained_by: list[dict]) -> list[tuple[int, float, str]]:
    """(first, last, framework): which framework computed the steps after first up to last."""
    begins = [entry["from_step"] for entry in trained_by]
    return [(begin, end, entry["framework"]) for begin, end, entry in zip(begins, [*begins[1:], math.inf], trained_by)]
