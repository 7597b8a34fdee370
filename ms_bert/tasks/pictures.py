"""Pictures of what a model says of data, each drawn into axes of matplotlib, and one file of several."""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Drawing = Callable[[Any], None]
"""Draws into axes of matplotlib."""

MOST_NAMES = 30  # labels of a diagram: more cannot be read
_BINS = 10
_COLORS = ("tab:blue", "tab:orange", "tab:green")

# With letters that matplotlib's own font lacks: Chinese, Japanese, Korean. Those that are installed are used.
_FONTS = (
    *(f"{family} {script}" for family in ("Noto Sans CJK", "Noto Sans", "Source Han Sans") for script in ("SC", "TC")),
    *("Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "Arial Unicode MS", "Droid Sans Fallback"),
)


def drawn(drawings: Sequence[Drawing], columns: int | None = None, size: tuple[float, float] = (5.5, 4.6)) -> bytes:
    """The drawings side by side, as a PNG file; at least one.

    Args:
        columns: so many in a row; None: all. size: width and height of each, inches.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A name with two dollar signs is no formula.
    with rc_context({"font.family": list(_fonts()), "text.parse_math": False}):
        columns = columns or len(drawings)
        rows = -(-len(drawings) // columns)
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, drawing in zip(figure.subplots(rows, columns, squeeze=False).flat, drawings):
            drawing(axes)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


@functools.cache
def _fonts() -> dict[str, frozenset[int]]:
    """The fonts to draw with, each for what those before it lack, and the letters that each has."""
    from matplotlib import font_manager, rcParamsDefault

    usual = rcParamsDefault["font.sans-serif"][0]
    there = {font.name for font in font_manager.fontManager.ttflist}
    found = {}
    for name in (usual, *(name for name in _FONTS if name in there)):
        path = font_manager.findfont(font_manager.FontProperties(family=[name]))
        found[name] = frozenset(font_manager.get_font(path).get_charmap())
    return found


def _shown(name: str, longest: int = 24) -> str:
    """A name as a diagram can show it: not longer than so many Latin letters, and with \\uXXXX, as results.json has it,
    for what no font has."""
    parts = [
        letter
        if letter.isprintable() and any(ord(letter) in has for has in _fonts().values())
        else letter.encode("unicode_escape").decode()
        for letter in name
    ]
    ends = np.cumsum([width(part) for part in parts])
    if not len(ends) or ends[-1] <= longest:
        return "".join(parts)
    return "".join(parts[: int(np.searchsorted(ends, longest - 1, "right"))]) + "…"


def width(text: str) -> int:
    """How many Latin letters are as wide: Chinese ones are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in text)


def confusion(counts: np.ndarray, names: Sequence[str]) -> Drawing:
    """How often the label of a row is predicted as that of a column; shades are shares of the row.

    Args:
        counts: (K, K), see `ms_bert.tasks.metrics.confusion`.
    """

    def draw(axes) -> None:
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        short = [_shown(name, 16) for name in names]
        axes.set(title="Confusion", xlabel="predicted", ylabel="label")
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len("".join(short)) > 30 else {}
        size = 10 if len(names) <= 20 else 7
        axes.set_xticks(range(len(names)), short, fontsize=size, **slanted)
        axes.set_yticks(range(len(names)), short, fontsize=size)
        if len(names) <= 12:
            for (row, column), count in np.ndenumerate(counts):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)

    return draw


def attention(probabilities: np.ndarray, names: Sequence[str], title: str, beside: str, below: str = "") -> Drawing:
    """How much the token of a row attends to that of a column.

    Args:
        probabilities: (S, S). names: of the S tokens, or none. title, beside, below: what stands there.
    """

    def draw(axes) -> None:
        axes.imshow(probabilities, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        short = [_shown(name, 16) for name in names]
        axes.set_xticks(range(len(names)), short, fontsize=8, rotation=90)
        axes.set_yticks(range(len(names)), short, fontsize=8)
        axes.set_ylabel(beside, fontsize=9)
        axes.set_xlabel(below, fontsize=9)

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
    names = sorted(values, key=lambda name: -counts[name])[:MOST_NAMES]
    if len(names) < len(values):
        title = f"{title}, the {len(names)} most frequent of {len(values)}"
    return grouped(title, "", {unit: values}, {name: counts[name] for name in names})


def grouped(title: str, group: str, values: Mapping[str, Mapping[str, float]], counts: Mapping[str, int]) -> Drawing:
    """For each group of examples a bar from 0 to 1 of each value.

    Args:
        group: what the groups are. values: by name of the value, by name of the group; none where it is not defined.
        counts: of examples in each group, in the order in which they are drawn, from the top.
    """

    def draw(axes) -> None:
        places, height = np.arange(len(counts)), 0.8 / len(values)
        for number, (name, of_groups) in enumerate(values.items()):
            own = [(place, of_groups[group]) for place, group in zip(places, counts) if group in of_groups]
            where, widths = zip(*own) if own else ((), ())
            middles = np.array(where) + (number - (len(values) - 1) / 2) * height
            axes.barh(middles, widths, height, color=_COLORS[number], label=name)
        shown = [f"{_shown(name)} ({count:,})" for name, count in counts.items()]
        axes.set_yticks(places, shown, fontsize=9)
        axes.set(title=title, ylabel=group, xlim=(0, 1))
        axes.set_ylim(max(len(counts), 3) - 0.4, -0.6)  # from the top, and no bar wider than a third of the height
        axes.grid(axis="x", alpha=0.3)
        if len(values) > 1:
            # Below the axis, in place of its name: the bars leave no room.
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.06), "ncols": len(values)}
            axes.legend(frameon=False, fontsize=9, **below)
        else:
            axes.set_xlabel(*values)

    return draw


def ranges(numbers: np.ndarray) -> list[str]:
    """For each of numbers (n,) from 1 on the range that it is in: 1, 2, 3–4, 5–8, 9–16, ..."""
    made = []
    for number in numbers.tolist():
        last = 1 << (number - 1).bit_length()
        first = last // 2 + 1
        made.append(str(last) if last <= 2 else f"{first}–{last}")
    return made


def by_length(
    lengths: np.ndarray, values: np.ndarray, unit: str, of: str = "tokens", length: str = "length"
) -> Drawing:
    """The mean of a value of each example, by the length of its text, in bins of as equally many examples as can be
    where those of one length are in one bin.

    Args:
        lengths: (n,), numbers of what `of` says. values: (n,). length: what the lengths are called.
    """

    def draw(axes) -> None:
        order = np.argsort(lengths, kind="stable")
        ascending, count = lengths[order], min(_BINS, max(1, len(order) // 20))
        ends = np.linspace(0, len(order), count + 1).astype(int)[1:-1]
        ends = np.unique(np.searchsorted(ascending, ascending[ends]))
        parts = np.split(order, ends[ends > 0])
        middles, means = (np.array([each[part].mean() for part in parts]) for each in (lengths, values))
        # Of a mean: its standard error times 1.96.
        spread = np.array([1.96 * values[part].std() / np.sqrt(len(part)) for part in parts])
        axes.errorbar(middles, means, yerr=spread, color="tab:blue", marker="o", capsize=3)
        axes.set(title=f"{unit[0].upper()}{unit[1:]} by {length}", xlabel=f"{of} (mean of a bin)", ylabel=unit)
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
