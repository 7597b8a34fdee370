"""Pictures of what a model says of labelled data, each drawn into axes of matplotlib, and one file of several."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Drawing = Callable[[Any], None]
"""Draws into axes of matplotlib."""

MOST_NAMES = 30  # labels of a diagram: more cannot be read
_BINS = 10


def drawn(drawings: Sequence[Drawing]) -> bytes:
    """The drawings side by side, as a PNG file; at least one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(drawings), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, drawing in zip(figure.subplots(1, len(drawings), squeeze=False)[0], drawings):
        drawing(axes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def confusion(counts: np.ndarray, names: Sequence[str]) -> Drawing:
    """How often the label of a row is predicted as that of a column; shades are shares of the row.

    Args:
        counts: (K, K), see `ms_bert.tasks.metrics.confusion`.
    """

    def draw(axes) -> None:
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
        axes.set(title="Confusion", xlabel="predicted", ylabel="label")
        axes.set_xticks(range(len(names)), short, rotation=45 if len(names) > 3 else 0)
        axes.set_yticks(range(len(names)), short)
        if len(names) <= 12:
            for (row, column), count in np.ndenumerate(counts):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)

    return draw


def calibration(bins: Sequence[Mapping[str, float]], error: float) -> Drawing:
    """How often a guess is right, by how probable the model calls it; see `ms_bert.tasks.metrics.calibration`."""

    def draw(axes) -> None:
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="calibrated")
        sizes = np.array([one["count"] for one in bins])
        axes.scatter(
            [one["probability"] for one in bins],
            [one["right"] for one in bins],
            s=20 + 180 * sizes / sizes.max(),
            color="tab:blue",
            alpha=0.8,
            label="guesses, by size of the bin",
        )
        axes.set(
            title=f"Calibration (expected error {error:.3f})",
            xlabel="probability of the guess",
            ylabel="share that is right",
            xlim=(0, 1.02),
            ylim=(0, 1.02),
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9, loc="upper left")

    return draw


def bars(title: str, unit: str, values: Mapping[str, float], counts: Mapping[str, int]) -> Drawing:
    """A bar from 0 to 1 for each name, with how many examples it is of; of many names those with most examples."""

    def draw(axes) -> None:
        names = sorted(values, key=lambda name: -counts[name])[:MOST_NAMES][::-1]
        axes.barh(range(len(names)), [values[name] for name in names], color="tab:blue")
        axes.set_yticks(range(len(names)), [f"{name} ({counts[name]:,})" for name in names], fontsize=9)
        axes.set(title=title, xlabel=unit, xlim=(0, 1))
        axes.grid(axis="x", alpha=0.3)

    return draw


def by_length(lengths: np.ndarray, values: np.ndarray, unit: str) -> Drawing:
    """The mean of a value of each example, by the length of its text, in bins of equally many examples.

    Args:
        lengths: (n,), tokens. values: (n,).
    """

    def draw(axes) -> None:
        order = np.argsort(lengths, kind="stable")
        parts = [part for part in np.array_split(order, min(_BINS, max(1, len(order) // 20))) if len(part)]
        middles, means = (np.array([of[part].mean() for part in parts]) for of in (lengths, values))
        # Of a mean: its standard error times 1.96.
        spread = np.array([1.96 * values[part].std() / np.sqrt(len(part)) for part in parts])
        axes.errorbar(middles, means, yerr=spread, color="tab:blue", marker="o", capsize=3)
        axes.set(title=f"{unit.capitalize()} by length", xlabel="tokens (mean of a bin)", ylabel=unit)
        axes.grid(alpha=0.3)

    return draw


def scatter(labels: np.ndarray, predictions: np.ndarray) -> Drawing:
    """Predicted numbers over the labels."""

    def draw(axes) -> None:
        low, high = float(min(labels.min(), predictions.min())), float(max(labels.max(), predictions.max()))
        axes.plot([low, high], [low, high], color="gray", linestyle="--", linewidth=1)
        axes.scatter(labels, predictions, s=8, alpha=0.4, color="tab:blue")
        axes.set(title="Predictions", xlabel="label", ylabel="predicted")
        axes.grid(alpha=0.3)

    return draw
