"""curves.png: losses, accuracies, learning rate and throughput of a run, drawn from its logs."""

from __future__ import annotations

import io
import math
from pathlib import Path

from ms_bert.data.files import write_atomically
from ms_bert.run.folder import CURVES, METRICS, THROUGHPUT, read_description, read_log

# Of the training losses of a run that several frameworks computed.
FRAMEWORK_COLORS = {"MindSpore": "tab:blue", "PyTorch": "tab:red"}


def draw(path: Path, entropy: float | None = None) -> None:
    """Draw the curves of a run folder; `entropy` is the unigram entropy that the MLM loss is compared with, nats.

    Where several frameworks computed the run, its training losses are coloured by framework.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics, throughput = read_log(path, METRICS), read_log(path, THROUGHPUT)
    if not metrics:
        return
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    mlm, nsp, accuracy, speed = figure.subplots(2, 2).flat

    def plot(axes, lines, field, label, color, **style):
        points = [(line["step"], line[field]) for line in lines if math.isfinite(line.get(field, math.nan))]
        if points:
            axes.plot(*zip(*points), label=label, color=color, **style)

    spans = training_spans(read_description(path)["trained_by"])
    several = len({framework for _, _, framework in spans}) > 1

    def plot_training(axes, field, color):
        for first, last, framework in spans:
            lines = [line for line in metrics if first <= line["step"] <= last]  # joined
            label = f"training, {framework}" if several else "training"
            if label in axes.get_legend_handles_labels()[1]:
                label = "_" + label  # named once
            shown = FRAMEWORK_COLORS.get(framework, color) if several else color
            plot(axes, lines, field, label, shown, alpha=0.6, linewidth=1)

    held_out = {"marker": "o", "markersize": 4, "linewidth": 1.8}
    plot_training(mlm, "mlm_loss", "tab:blue")
    plot(mlm, metrics, "held_out_mlm_loss", "held-out", "black" if several else "tab:blue", **held_out)
    if entropy is not None:
        mlm.axhline(entropy, color="gray", linestyle="--", linewidth=1, label="unigram entropy")
    mlm.set(title="Masked language model", ylabel="loss (nats)")
    plot_training(nsp, "nsp_loss", "tab:orange")
    plot(nsp, metrics, "held_out_nsp_loss", "held-out", "black" if several else "tab:orange", **held_out)
    if nsp.lines:
        nsp.axhline(0.6931, color="gray", linestyle="--", linewidth=1, label="chance")
    nsp.set(title="Next sentence", ylabel="loss (nats)")
    for task, color in (("mlm", "tab:blue"), ("nsp", "tab:orange")):
        plot(accuracy, metrics, f"{task}_accuracy", f"{task.upper()} training", color, alpha=0.5, linewidth=1)
        plot(accuracy, metrics, f"held_out_{task}_accuracy", f"{task.upper()} held-out", color, **held_out)
    accuracy.set(title="Accuracy", ylabel="share of predictions", ylim=(0, 1))
    plot(speed, throughput, "tokens_per_second", "tokens/s", "tab:green", linewidth=1)
    speed.set(title="Throughput and learning rate", ylabel="tokens/s", ylim=(0, None))
    rate = speed.twinx()
    plot(rate, metrics, "learning_rate", "learning rate", "tab:red", linewidth=1.5)
    rate.set(ylabel="learning rate", ylim=(0, None))
    for axes in (mlm, nsp, accuracy, speed):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        lines = [*axes.lines, *(rate.lines if axes is speed else [])]
        lines = [line for line in lines if not line.get_label().startswith("_")]
        if lines:
            axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(path / CURVES, picture.getvalue(), make_folder=False)


def training_spans(trained_by: list[dict]) -> list[tuple[int, float, str]]:
    """(first, last, framework): which framework computed the steps after first up to last."""
    begins = [entry["from_step"] for entry in trained_by]
    return [(begin, end, entry["framework"]) for begin, end, entry in zip(begins, [*begins[1:], math.inf], trained_by)]
