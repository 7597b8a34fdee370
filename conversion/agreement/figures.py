"""Figures of an agreement check: errors and their ratios by sublayer, gradients, histograms, losses, planted faults.

Colours are contenders, line styles are precisions. On a logarithmic axis what is not finite stands at the top edge
(a triangle up) and what is 0 at the bottom edge (a triangle down). A figure of which there is nothing to show is None.
`colors` is the palette of all contenders of a page, that a figure of some of them shows them in the same colours.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conversion.agreement.findings import HISTOGRAM_EDGES, Finding
from conversion.agreement.tolerances import K

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; a framework's first contender has the framework's own.
FRAMEWORKS = {"MindSpore": "#0072B2", "PyTorch": "#D55E00", "ONNX Runtime": "#009E73"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#7F5F00", "#5D3A9B", "#994F00")
CAUGHT, MISSED = "#0072B2", "#E69F00"
ORACLE = "PyTorch float64"
MARKERS = ("o", "s", "D", "P", "X", "*", "h", "p", "8")
DASHES = {"float32": "-", "float16": "--", "bfloat16": ":"}

MOST_CASES = 3  # that have a panel each
MOST_LABELS = 44  # of an axis 11 inches wide
TEXT = {"fontsize": 9}

_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.(.+)")


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The losses of one training run that several frameworks computed.

    Attributes:
        steps: of the losses. losses: of each contender, nats, the oracle among them.
        drift: of each contender, the relative difference of its loss from the oracle's.
    """

    steps: Sequence[int]
    losses: Mapping[str, Sequence[float]]
    drift: Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class CaughtFault:
    """A fault that was planted to see whether a check finds it.

    Attributes:
        what: it is, in one phrase. check: that is farthest beyond its limit (or nearest to it), at which tensor.
    """

    name: str
    what: str
    check: str
    tensor: str
    error: float
    limit: float
    caught: bool

    @property
    def times(self) -> float:
        """How many times its limit the error is; not finite errors are infinitely many."""
        if not math.isfinite(self.error):
            return math.inf
        return self.error / self.limit if self.limit else (math.inf if self.error else 0.0)


def palette(contenders: Iterable[str]) -> dict[str, str]:
    """A colour of its own for each contender, whatever their order."""
    colors, free, others = {ORACLE: "#999999"}, dict(FRAMEWORKS), itertools.cycle(OTHERS)
    for name in sorted(set(contenders) - {ORACLE}):
        framework = next((framework for framework in free if name.startswith(framework)), None)
        colors[name] = free.pop(framework) if framework else next(others)
    return colors


def forward_order(names: Iterable[str]) -> dict[str, int]:
    """The place of each tensor in the forward pass: embeddings, layer by layer, what follows; else as they come."""
    unique = list(dict.fromkeys(names))

    def place(name: str) -> tuple[int, int]:
        if layer := _LAYER.search(name):
            return 1, int(layer[1])
        return (0, 0) if "embeddings" in name else (2, 0)

    return {name: i for i, name in enumerate(sorted(unique, key=place))}


def share(finding: Finding) -> float:
    """The error as a share of its limit; infinite for nan, so that it is the worst."""
    return math.inf if math.isnan(finding.share) else finding.share


def times(value: float) -> str:
    """How many times, for people: `1.64`, `12,300`, `4.1e+07`, or the sign of infinity."""
    if not math.isfinite(value):
        return "\u221e"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def errors_by_layer(findings: Iterable[Finding], colors: Mapping[str, str] | None = None) -> Figure | None:
    """||x - exact|| / ||exact|| of every sublayer's output, and its limit."""
    return _by_layer(
        [finding for finding in findings if finding.check == "forward"],
        colors,
        value=lambda finding: finding.error.norm,
        bound=_limits,
        bound_label="limit",
        ylabel="relative error",
    )


def ratios_by_layer(findings: Iterable[Finding], colors: Mapping[str, str] | None = None) -> Figure | None:
    """How many times PyTorch's own error each sublayer's is, and the K that is allowed."""
    return _by_layer(
        [finding for finding in findings if finding.check == "forward" and finding.yardstick is not None],
        colors,
        value=lambda finding: finding.ratio,
        bound=lambda panel: dict.fromkeys((f.name for f in panel), K),
        bound_label="K",
        ylabel="error / PyTorch's own",
    )


def gradients(findings: Iterable[Finding], colors: Mapping[str, str] | None = None) -> Figure | None:
    """The relative error of every parameter's gradient in the worst of its cases, by layer; a panel a precision."""
    found = _worst_cases(finding for finding in findings if finding.check == "gradients")
    if not found:
        return None
    colors = colors or palette(finding.contender for finding in found)
    groups: dict[str, list[str]] = {}
    for name in forward_order(finding.name for finding in found):
        groups.setdefault(_module(name), []).append(name)
    places, spans = {}, {}
    at = 0
    for group, names in groups.items():
        spans[group] = (at - 1, at + len(names))
        places |= {name: at + i for i, name in enumerate(names)}
        at += len(names) + 2  # a gap
    precisions = list(dict.fromkeys(finding.precision for finding in found))
    figure = _figure(height=1.6 + 2.7 * len(precisions))
    panels = figure.subplots(len(precisions), 1, sharex=True, squeeze=False)[:, 0]
    contenders = list(dict.fromkeys(finding.contender for finding in found))
    legend: dict[str, object] = {}
    for axes, precision in zip(panels, precisions):
        shown = [finding for finding in found if finding.precision == precision]
        top, bottom = _log_axis(axes, [value for f in shown for value in (f.error.norm, f.limit.norm)])
        limits = {places[name]: limit for name, limit in _limits(shown).items()}
        axes.hlines(limits.values(), [x - 0.5 for x in limits], [x + 0.5 for x in limits], color="0.7", linewidth=2)
        legend["limit"] = axes.plot([], [], color="0.7", linewidth=2)[0]
        for i, contender in enumerate(contenders):
            own = [finding for finding in shown if finding.contender == contender]
            offset = 0.5 * ((i + 0.5) / len(contenders) - 0.5)
            xs = [places[finding.name] + offset for finding in own]
            style = {"color": colors[contender], "marker": _marker(contender, colors), "markersize": 3.2}
            line = _points(axes, xs, [f.error.norm for f in own], top, bottom, linestyle="none", **style)
            legend.setdefault(_plain(contender), line)
        _mark_beyond(axes, shown, places, lambda finding: finding.error.norm, top, bottom, legend)
        for group in list(spans)[1::2]:
            axes.axvspan(*spans[group], color="0.95", zorder=0)
        axes.set_title(_plain(precision), loc="left", **TEXT)
        axes.set_ylabel("relative error", **TEXT)
        axes.set_xlim(-2, at - 1)
    panels[-1].set_xticks([sum(span) / 2 for span in spans.values()], [_plain(group) for group in spans], rotation=90)
    panels[-1].tick_params(axis="x", labelsize=8)
    _legend(figure, legend)
    return figure


def histograms(findings: Iterable[Finding], colors: Mapping[str, str] | None = None) -> Figure | None:
    """The distribution of |x - exact| / max |exact| over the elements, all cases together, of some telling tensors.

    The tensors are the first one, one in the middle, that of the last layer, and the logits.
    """
    found = [finding for finding in findings if finding.check == "forward" and sum(finding.histogram)]
    if not found:
        return None
    colors = colors or palette(finding.contender for finding in found)
    names = list(forward_order(finding.name for finding in found))
    inside = [name for name in names if _LAYER.search(name)] or names
    logits = next((name for name in names if "logits" in name), names[-1])
    chosen = list(dict.fromkeys((names[0], inside[len(inside) // 2], inside[-1], logits)))
    counts: dict[tuple[str, str, str], list[int]] = {}
    for finding in found:
        if finding.name in chosen:
            key = (finding.name, finding.contender, finding.precision)
            counts[key] = [a + b for a, b in zip(counts.get(key, [0] * len(finding.histogram)), finding.histogram)]
    # The outermost bins, of what is 0 and what is not finite, move beside the others.
    filled = [i for bins in counts.values() for i, count in enumerate(bins[1:-1], 1) if count]
    filled = filled or [len(HISTOGRAM_EDGES) // 2]
    first, last = max(min(filled) - 2, 0), min(max(filled) + 2, len(HISTOGRAM_EDGES) - 2)
    edges = [10.0**edge for edge in HISTOGRAM_EDGES[first : last + 2]]
    rows, columns = (1, len(chosen)) if len(chosen) < 3 else (2, 2)
    figure = _figure(height=1.0 + 2.6 * rows)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    legend: dict[str, object] = {}
    for axes, name in zip(panels, chosen):
        for (tensor, contender, precision), bins in counts.items():
            if tensor != name:
                continue
            shown = bins[first : last + 1]
            shown[0] += sum(bins[:first])
            shown[-1] += sum(bins[last + 1 :])
            style = {"color": colors[contender], "linestyle": DASHES.get(precision, "-."), "linewidth": 1.6}
            axes.stairs([count / sum(bins) for count in shown], edges, **style)
            key = f"{_plain(contender)} {_plain(precision)}"
            legend[key] = axes.plot([], [], **style)[0]  # a stair's own handle is a box
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_title(_short(name), loc="left", **TEXT)
        axes.set_ylabel("share of elements", **TEXT)
        axes.xaxis.set_major_formatter(_tick)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(chosen) :]:
        axes.remove()
    for axes in list(figure.axes)[-columns:]:
        axes.set_xlabel("error of an element / largest element", **TEXT)
        axes.tick_params(axis="x", labelbottom=True)
    _legend(figure, legend)
    return figure


def trajectory(shown: Trajectory, colors: Mapping[str, str] | None = None) -> Figure:
    """The losses of each contender, and how far they are from the oracle's."""
    colors = colors or palette([*shown.losses, *shown.drift])
    figure = _figure(height=4.4)
    losses, drift = figure.subplots(1, 2)
    legend: dict[str, object] = {}
    dashes = itertools.cycle(("-", "--", ":", "-.", (0, (1, 4))))  # lines that lie on each other are all seen
    for name in sorted(shown.losses, key=lambda name: name != ORACLE):
        style = {"linewidth": 7} if name == ORACLE else {"linewidth": 1.6, "linestyle": next(dashes), "marker": "."}
        values = shown.losses[name]
        line = losses.plot(shown.steps[: len(values)], values, color=colors[name], markersize=3, **style)
        legend[_plain(name)] = line[0]
    losses.set_title("Losses", loc="left", **TEXT)
    losses.set_ylabel("loss (nats)", **TEXT)
    top, bottom = _log_axis(drift, [value for values in shown.drift.values() for value in values])
    for name, values in shown.drift.items():
        line = _points(drift, shown.steps[: len(values)], values, top, bottom, color=colors[name], linewidth=1.6)
        legend.setdefault(_plain(name), line)
    drift.set_title("Drift", loc="left", **TEXT)
    drift.set_ylabel("relative difference from the oracle's loss", **TEXT)
    for axes in (losses, drift):
        axes.set_xlabel("step", **TEXT)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    _legend(figure, legend)
    return figure


def faults(planted: Iterable[CaughtFault]) -> Figure | None:
    """How many times its limit the error of each planted fault is, the largest on top."""
    planted = sorted(planted, key=lambda fault: fault.times)
    if not planted:
        return None
    figure = _figure(height=1.1 + 0.27 * len(planted))
    axes = figure.subplots()
    finite = [fault.times for fault in planted if 0 < fault.times < math.inf]
    left, right = min([0.3, *(value / 3 for value in finite)]), max([30.0, *(value * 3 for value in finite)])
    for y, fault in enumerate(planted):
        shown = min(max(fault.times, left), right)
        color, hatch = (CAUGHT, "") if fault.caught else (MISSED, "///")
        axes.barh(y, shown - 1, left=1, height=0.7, color=color, hatch=hatch, edgecolor="white", linewidth=0)
        told = times(fault.times) if fault.caught else f"{times(fault.times)}, missed"
        offset = {"xytext": (4, 0), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(told, (max(shown, 1), y), va="center", fontsize=8, **offset)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(left, right * (right / left) ** 0.12)  # room for the number beside the longest
    axes.set_ylim(-0.6, len(planted) - 0.4)
    axes.set_yticks(range(len(planted)), [_plain(fault.name, 44) for fault in planted])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("error / limit", **TEXT)
    axes.xaxis.set_major_formatter(_tick)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def _by_layer(
    found: list[Finding],
    colors: Mapping[str, str] | None,
    value: Callable[[Finding], float],
    bound: Callable[[list[Finding]], dict[str, float]],
    bound_label: str,
    ylabel: str,
) -> Figure | None:
    """A panel a case, of a value by the place in the forward pass; `bound` gives it by name, at one precision."""
    if not found:
        return None
    colors = colors or palette(finding.contender for finding in found)
    contenders = list(dict.fromkeys(finding.contender for finding in found))
    precisions = list(dict.fromkeys(finding.precision for finding in found))
    cases = list(dict.fromkeys(finding.case for finding in found))
    if len(cases) > MOST_CASES:
        panels = {f"the worst of {len(cases)} cases": _worst_cases(found)}
    else:
        panels = {case: [finding for finding in found if finding.case == case] for case in cases}
    bounds = {
        (case, precision): bound([finding for finding in panel if finding.precision == precision])
        for case, panel in panels.items()
        for precision in precisions
    }
    places = forward_order(finding.name for finding in found)
    figure = _figure(height=2.0 + 2.5 * len(panels))
    everything = [value(finding) for finding in found] + [y for bounded in bounds.values() for y in bounded.values()]
    legend: dict[str, object] = {}
    for axes, (case, panel) in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items()):
        top, bottom = _log_axis(axes, everything)
        for precision in precisions:
            line = sorted((places[name], y) for name, y in bounds[case, precision].items())
            if line:
                style = {"color": "0.7", "linewidth": 3, "linestyle": DASHES.get(precision, "-."), "zorder": 1}
                legend[f"{bound_label}, {_plain(precision)}"] = axes.plot(*zip(*line), **style)[0]
        for contender in contenders:
            for precision in precisions:
                own = [finding for finding in panel if (finding.contender, finding.precision) == (contender, precision)]
                own.sort(key=lambda finding: places[finding.name])
                if own:
                    style = {"color": colors[contender], "linestyle": DASHES.get(precision, "-."), "linewidth": 1.4}
                    style |= {"marker": _marker(contender, colors), "markersize": 3.5}
                    xs = [places[finding.name] for finding in own]
                    line = _points(axes, xs, [value(finding) for finding in own], top, bottom, **style)
                    legend.setdefault(f"{_plain(contender)} {_plain(precision)}", line)
        _mark_beyond(axes, panel, places, value, top, bottom, legend)
        _bands(axes, places)
        axes.set_title(_plain(case, 70), loc="left", **TEXT)
        if beyond := [finding for finding in panel if not finding.agrees]:
            first = min(beyond, key=lambda finding: places[finding.name])
            axes.set_title(f"first beyond its limit: {_short(first.name)}", loc="right", fontweight="bold", **TEXT)
        axes.set_ylabel(ylabel, **TEXT)
        axes.set_xlim(-0.7, len(places) - 0.3)
    labelled = _labelled(places)
    axes.set_xticks([places[name] for name in labelled], [_short(name) for name in labelled], rotation=90)
    axes.tick_params(axis="x", labelsize=8)
    _legend(figure, legend)
    return figure


def _marker(contender: str, colors: Mapping[str, str]) -> str:
    return MARKERS[list(colors).index(contender) % len(MARKERS)]


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(11, height), layout="constrained", facecolor="white")


def _limits(findings: list[Finding]) -> dict[str, float]:
    """The limit of the norm of each tensor's error: the loosest, where the contenders have several."""
    limits: dict[str, float] = {}
    # PyTorch itself is held by the cap alone, which would hide the limit of the others.
    for finding in [finding for finding in findings if finding.yardstick is not None] or findings:
        limits[finding.name] = max(finding.limit.norm, limits.get(finding.name, 0.0))
    return limits


def _worst_cases(findings: Iterable[Finding]) -> list[Finding]:
    """Of each tensor of each contender at each precision, the case that is nearest to its limit or farthest beyond."""
    worst: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        key = (finding.contender, finding.precision, finding.name)
        if key not in worst or share(finding) > share(worst[key]):
            worst[key] = finding
    return list(worst.values())


def _log_axis(axes: Axes, values: Iterable[float]) -> tuple[float, float]:
    """Make y logarithmic over the values that have a logarithm -> (top, bottom)."""
    from matplotlib.ticker import LogLocator, NullFormatter

    finite = [value for value in values if 0 < value < math.inf] or [1e-7, 1e-5]
    top, bottom = min(max(finite) * 2.5, 1e300), max(min(finite) / 2.5, 1e-300)
    decades = top / bottom > 300
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0), numticks=9))
    axes.yaxis.set_major_formatter(_tick)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", alpha=0.3)
    return top, bottom


def _tick(value: float, _) -> str:
    return f"{value:g}" if 0.09 < value < 1.1e4 else f"{value:.0e}"


def _at_edge(value: float, top: float, bottom: float) -> float:
    return top if not math.isfinite(value) else max(bottom, value)


def _points(axes: Axes, xs: Sequence[float], values: Sequence[float], top: float, bottom: float, **style):
    """The line of the values, with triangles at the edge where they have no logarithm -> the line."""
    (line,) = axes.plot(xs, [_at_edge(value, top, bottom) for value in values], **style)
    for marker, chosen in (("^", [not math.isfinite(v) for v in values]), ("v", [v <= 0 for v in values])):
        at = [x for x, wanted in zip(xs, chosen) if wanted]
        edge = {"linestyle": "none", "markersize": 8, "clip_on": False, "zorder": 5}
        if at:  # an empty line without clipping has no bounds, and there is no layout of that
            axes.plot(at, [top if marker == "^" else bottom] * len(at), marker=marker, color=style["color"], **edge)
    return line


def _mark_beyond(axes: Axes, shown, places, value, top: float, bottom: float, legend: dict) -> None:
    beyond = [finding for finding in shown if not finding.agrees]
    if beyond:
        points = [(places[finding.name], _at_edge(value(finding), top, bottom)) for finding in beyond]
        style = {"linestyle": "none", "marker": "x", "color": "black", "markersize": 6, "zorder": 6, "clip_on": False}
        legend["beyond its limit"] = axes.plot(*zip(*points), **style)[0]


def _bands(axes: Axes, places: Mapping[str, int]) -> None:
    """Shade every other layer."""
    layers: dict[int, list[int]] = {}
    for name, place in places.items():
        if layer := _LAYER.search(name):
            layers.setdefault(int(layer[1]), []).append(place)
    for layer, inside in layers.items():
        if layer % 2 == 0:
            axes.axvspan(min(inside) - 0.5, max(inside) + 0.5, color="0.95", zorder=0)


def _labelled(names: Iterable[str]) -> list[str]:
    """Those that have a label: all, or the last of every layer or every few layers, and all that is outside them."""
    names = list(names)
    last = {int(layer[1]): name for name in names if (layer := _LAYER.search(name))}
    outside = [name for name in names if not _LAYER.search(name)]
    if len(names) <= MOST_LABELS or not last:
        return names[:: math.ceil(len(names) / MOST_LABELS)]
    every = math.ceil(len(last) / max(MOST_LABELS - len(outside), 12))
    kept = {name for layer, name in last.items() if layer % every == 0} | set(outside)
    return [name for name in names if name in kept]


def _module(name: str) -> str:
    """`layer 3`, or the module beside the encoder that a parameter is in."""
    if layer := _LAYER.search(name):
        return f"layer {layer[1]}"
    return name.removeprefix("bert.").split(".")[0]


def _short(name: str) -> str:
    """`layer.3.attention.output` -> `3 attention output`."""
    layer = _LAYER.search(name)
    return _plain((f"{layer[1]} {layer[2]}" if layer else name).replace(".", " "))


def _plain(text: str, length: int = 32) -> str:
    """A name as it is, whatever it holds: no mathematics between dollars, no line breaks, not beyond a length."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def _legend(figure: Figure, handles: Mapping[str, object]) -> None:
    """A legend on top, of as many columns as fit."""
    labels = list(handles)

    def width(columns: int) -> float:  # points, at 9 points a letter
        lengths = [max(map(len, column), default=0) for column in np.array_split(labels, columns)]
        return sum(42 + 5.3 * length for length in lengths)

    columns = next((columns for columns in (5, 4, 3, 2) if width(columns) < 72 * figure.get_figwidth()), 1)
    figure.legend(list(handles.values()), labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
