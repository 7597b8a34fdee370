"""The page of an agreement check: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import dataclasses
import html as markup
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conversion.agreement import figures
from conversion.agreement.figures import CaughtFault, Trajectory
from conversion.agreement.findings import Finding
from conversion.agreement.tolerances import K
from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from conversion.agreement.predictions import Predictions

GENERATOR = "ms_bert agreement"
MOST_BEYOND = 20  # rows of what is beyond its limit
MOST_ROWS = 4000  # of the table of all findings, which is most of the page's size

STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --faint: #666; --agrees: #e3f4ea; --differs: #fde5e1; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --faint: #aaa; --agrees: #14402a; --differs: #5a1d14; }
}
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 2em 0 .5em; }
#verdict { padding: .7em 1em; border-left: 6px solid; overflow-wrap: anywhere; print-color-adjust: exact; }
#verdict.agrees { background: var(--agrees); border-color: #1a7f47; }
#verdict.differs { background: var(--differs); border-color: #c0321c; }
figure { margin: 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; background: white; border-radius: 4px; }
figcaption, .faint { color: var(--faint); font-size: .9em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em .2em 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3em 1em; font-size: .9em; }
dt { font-weight: bold; } dd { margin: 0; }
h3 { font-size: 1em; margin: 1.2em 0 .2em; } h3 + p { margin: .2em 0 .5em; }
tr.beyond td { background: var(--differs); print-color-adjust: exact; }
summary { cursor: pointer; font-weight: bold; margin-top: 2em; }
"""

CAPTIONS = {
    "errors": "The relative error of each sublayer against the float64 oracle, in the order of the forward pass. A "
    "contender agrees where its line is below the gray line, the limit; a fault lies where its line first leaves the "
    "others.",
    "ratios": "The error of each contender divided by PyTorch's own error at the same precision, by norm or by largest "
    "element, whichever is worse. Without a fault it stays near 1 and below the gray line, K; with a fault it jumps. "
    "(The limit is K times PyTorch's error plus a floor, so a tiny error may be above the line.)",
    "gradients": "The relative error of the gradient of each parameter, layer by layer, in the case that is nearest to "
    "its limit. The gray dash above the points is the limit.",
    "histograms": "The distribution of the errors of single elements. The lines of contenders at one precision should "
    "coincide. The first bin also holds exact elements, the last one also elements that are not finite.",
    "trajectory": "The losses of one training run in every framework, which should coincide with the wide line of the "
    "oracle, and their drift from it: rounding makes the drift grow step by step, a fault makes it jump.",
    "faults": "The error of each planted fault divided by its limit. Right of the line at 1 the check finds the fault; "
    "a hatched bar is a fault that it missed.",
}

COLUMNS = ("check", "case", "contender", "precision", "tensor", "measure", "error", "PyTorch's", "limit", "of limit")
# Every word to which the page gives a special meaning.
GLOSSARY = {
    "tensor": "an array of numbers that a model computes between its tokens and its answer: the embeddings, the "
    "attention probabilities and the output of each layer, the logits, the gradient of a weight.",
    "contender": "a program that computes these tensors: a framework with the weights of A or of B.",
    "oracle": "the same model in PyTorch with 64-bit numbers (float64). Its rounding errors are about a billion times "
    "smaller than those of 32-bit numbers, so its tensors are treated as exact.",
    "error": "how far a contender's tensor is from the oracle's, relative to the size of the tensor. There are two "
    "measures: norm, the norm of the difference divided by the norm of the tensor; and largest, the largest "
    "difference of an element divided by the largest element.",
    "yardstick (PyTorch's)": "the error that PyTorch itself makes at the same precision with the same weights. "
    "Rounding is not a fault, and the yardstick says how large it is. For two checkpoints PyTorch computes twice, the "
    "second time with the last bit of the weights changed, and the larger error counts: one run may be lucky.",
    "floor": "the error that is always allowed, for example because the exponential function of MindSpore on a CPU is "
    "accurate to six digits only.",
    "limit": f"the largest error that is allowed: {K:g} times the yardstick, plus the floor.",
    "share (of limit)": "the error divided by its limit, by the worse of the two measures. Up to 100% it agrees.",
    "cap": "the largest limit that makes sense: a higher one would hide a fault. A tensor whose limit would be higher "
    "is not judged, nor what is computed from it, and the notes name it. PyTorch itself must stay below the cap.",
    "precision": "the dtype of the computation: float32 has about seven digits, float16 three, bfloat16 two.",
    "case": "the inputs: real text, random tokens, or packed rows, which hold several sequences each.",
}

NUMBERS = {"error", "PyTorch's", "limit", "of limit", "times"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        title: what was compared. verdict: the answer, in a sentence or two. environment: the machine and the versions.
        about: what was compared with what, on which inputs, in plain words. predictions: of both sides, by kind.
    """

    title: str
    verdict: str
    agrees: bool
    findings: tuple[Finding, ...]
    environment: dict[str, str]
    notes: tuple[str, ...] = ()
    trajectory: Trajectory | None = None
    faults: tuple[CaughtFault, ...] = ()
    about: str = ""
    predictions: tuple[Predictions, ...] = ()


def check_free(path: Path) -> None:
    """Raise UserError unless a report can be written there: where there is nothing, or an older report."""
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}; create it, or name another --report.")
    try:
        taken = path.exists() and (path.is_dir() or not _is_report(path.read_bytes()[:4096]))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); name another --report.") from None
    if taken:
        raise UserError(f"{path} already exists and is not a report of this command; name another --report.")


def _is_report(begin: bytes) -> bool:
    return begin.startswith(b"<!") and f'<meta name="generator" content="{GENERATOR}">'.encode() in begin


def write(path: Path, report: Report) -> None:
    """Write the page beside its place, then rename it."""
    write_atomically(path, html(report).encode("utf-8"))


def beyond(report: Report) -> list[str]:
    """Lines on the findings that are beyond their limits, in the order in which they were computed, ten at most."""
    found = [finding for finding in report.findings if not finding.agrees]
    more = [f"... and {len(found) - 10} more"] if len(found) > 10 else []
    missed = [f"the planted fault {fault.name} was not caught" for fault in report.faults if not fault.caught]
    return [*map(str, found[:10]), *more, *missed]


def html(report: Report) -> str:
    """The page. It forbids itself whatever is not in it, should a name get past the escaping."""
    title, state = _text(report.title), "agrees" if report.agrees else "differs"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{GENERATOR}">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{_about(report.about)}
<p id="verdict" class="{state}"><strong>{_answer(report)}</strong> {_text(report.verdict)}</p>
{_notes(report.notes)}
{_predictions(report.predictions)}
{_beyond(report.findings)}
{_glossary(report.findings)}
{_figures(report)}
{_worst(report.findings)}
{_faults(report.faults)}
{_all(report.findings)}
{_environment(report.environment)}
</body>
</html>
"""


def _answer(report: Report) -> str:
    if report.agrees:
        return "Yes, all agree."
    missed = any(not fault.caught for fault in report.faults)
    return "No." if missed or any(not finding.agrees for finding in report.findings) else "It cannot be decided."


def _about(about: str) -> str:
    return f'<p id="about">{_text(about)}</p>' if about else ""


def _predictions(predictions: Sequence[Predictions]) -> str:
    if not predictions:
        return ""
    sections = []
    for kind in predictions:
        share = f"{kind.equal} of {kind.total} first answers are the same ({kind.equal / max(kind.total, 1):.0%})"
        shown = "" if len(kind.rows) == kind.total else f"; {len(kind.rows)} are shown"
        rows = [(not row.equal, (row.asked, *row.answers, "yes" if row.equal else "no")) for row in kind.rows]
        table = _table(("text", *kind.sides, "the same"), rows)
        sections.append(f"<h3>{_text(kind.what[:1].upper() + kind.what[1:])}</h3><p>{share}{shown}.</p>{table}")
    return f'<section id="predictions"><h2>What the models predict</h2>{"".join(sections)}</section>'


def _glossary(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    terms = "".join(f"<dt>{_text(term)}</dt><dd>{_text(told)}</dd>" for term, told in GLOSSARY.items())
    return f'<section id="glossary"><h2>Terms used on this page</h2><dl>{terms}</dl></section>'


def _beyond(findings: Iterable[Finding]) -> str:
    beyond = [finding for finding in findings if not finding.agrees]
    if not beyond:
        return ""
    # The forward pass first: what it gets wrong, losses and gradients inherit.
    checks = {check: i for i, check in enumerate(dict.fromkeys(["forward", *(finding.check for finding in beyond)]))}
    order = figures.forward_order(finding.name for finding in beyond)
    beyond.sort(key=lambda finding: (checks[finding.check], order[finding.name], -figures.share(finding)))
    told = f"<p class=faint>{min(len(beyond), MOST_BEYOND)} of the {len(beyond):,} findings beyond their limit, "
    told += "in the order of the forward pass.</p>"
    return f'<section id="beyond"><h2>Where it first fails</h2>{told}{_findings(beyond[:MOST_BEYOND])}</section>'


def _figures(report: Report) -> str:
    found, told = report.findings, report.trajectory
    trained = [*told.losses, *told.drift] if told else []
    colors = figures.palette([*(finding.contender for finding in found), *trained])
    drawn = {
        "errors": ("Error by sublayer", figures.errors_by_layer(found, colors)),
        "ratios": ("Error as a multiple of PyTorch's own", figures.ratios_by_layer(found, colors)),
        "gradients": ("Error of the gradients", figures.gradients(found, colors)),
        "histograms": ("Errors of single elements", figures.histograms(found, colors)),
        "trajectory": ("One training run in every framework", figures.trajectory(told, colors) if told else None),
        "faults": ("Planted faults", figures.faults(report.faults)),
    }
    return "\n".join(
        f'<figure id="{name}"><h2>{title}</h2>\n{_svg(name, title, figure)}'
        f"<figcaption>{CAPTIONS[name]}</figcaption></figure>"
        for name, (title, figure) in drawn.items()
        if figure is not None
    )


def _svg(name: str, title: str, figure: Figure) -> str:
    """The figure as an element of the page, with ids that no other figure has."""
    import matplotlib

    told = io.StringIO()
    # Letters stay text, which the page can be searched for; without metadata the same figure is the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(told, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = told.getvalue()
    svg = svg[svg.index("<svg ") :]  # less the XML declaration and the document type
    own = re.compile(r'(\bid="|\bhref="#|url\(#)')
    svg = re.sub(r"<[^<>]+>", lambda tag: own.sub(rf"\g<1>{name}-", tag[0]), svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_text(title)}" ', 1)


def _worst(findings: Iterable[Finding]) -> str:
    worst: dict[tuple[str, str, str], Finding] = {}
    for finding in (finding for finding in findings if finding.judged):
        key = (finding.check, finding.contender, finding.precision)
        if key not in worst or figures.share(finding) > figures.share(worst[key]):
            worst[key] = finding
    if not worst:
        return ""
    return f'<section id="worst"><h2>The largest errors of each check</h2>{_findings(worst.values())}</section>'


def _faults(planted: Sequence[CaughtFault]) -> str:
    if not planted:
        return ""
    columns = ("fault", "what it is", "found by", "at", "error", "limit", "times", "found")
    rows = []
    for fault in sorted(planted, key=lambda fault: -fault.times):
        named = (fault.name, fault.what, fault.check, fault.tensor)
        numbers = (_number(fault.error), _number(fault.limit), figures.times(fault.times))
        rows.append((not fault.caught, (*named, *numbers, "yes" if fault.caught else "missed")))
    table = _table(columns, rows)
    return f'<section id="planted"><h2>Planted faults, one by one</h2>{table}</section>'


def _all(findings: Sequence[Finding]) -> str:
    shown, told = list(findings), f"All {len(findings):,} findings"
    if len(shown) > MOST_ROWS:
        least = sorted(map(figures.share, shown), reverse=True)[MOST_ROWS - 1]
        shown = [finding for finding in shown if figures.share(finding) >= least][:MOST_ROWS]
        told = f"The {MOST_ROWS:,} of {len(findings):,} findings that are nearest to their limits or beyond"
    return f'<details id="all"><summary>{told}</summary>{_findings(shown)}</details>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f'<section id="notes"><h2>Notes</h2><ul>{items}</ul></section>' if notes else ""


def _environment(environment: dict[str, str]) -> str:
    table = _table(("", ""), [(False, row) for row in environment.items()])
    return f'<section id="environment"><h2>Environment</h2>{table}</section>' if environment else ""


def _findings(findings: Iterable[Finding]) -> str:
    """A table: of each finding the measure that is nearer to its limit or farther beyond."""
    rows = []
    for finding in findings:
        measure = max(("norm", "largest"), key=lambda measure: _share(finding, measure))
        error, limit = getattr(finding.error, measure), getattr(finding.limit, measure)
        own = _number(getattr(finding.yardstick, measure)) if finding.yardstick else "\u2013"
        share = _percent(_share(finding, measure)) if finding.judged else "not judged"
        numbers = (_number(error), own, _number(limit), share)
        named = (finding.check, finding.case, finding.contender, finding.precision, finding.name, measure)
        rows.append((not finding.agrees, (*named, *numbers)))
    return _table(COLUMNS, rows)


def _share(finding: Finding, measure: str) -> float:
    error, limit = getattr(finding.error, measure), getattr(finding.limit, measure)
    if math.isnan(error) or not limit:
        return 0.0 if error == 0.0 else math.inf
    return error / limit


def _table(columns: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    """Rows are (whether it is beyond its limit, cells)."""
    kinds = [" class=number" if column in NUMBERS else "" for column in columns]
    head = "".join(f"<th{kind}>{_text(column)}</th>" for kind, column in zip(kinds, columns))
    body = "\n".join(
        f"<tr{' class=beyond' if beyond else ''}>"
        + "".join(f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(kinds, cells))
        + "</tr>"
        for beyond, cells in rows
    )
    head = f"<thead><tr>{head}</tr></thead>\n" if any(columns) else ""
    return f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"


def _number(value: float) -> str:
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 10 else f"{figures.times(share)}x"


def _text(text: str) -> str:
    """As text and as an attribute's value; a path's undecodable bytes become question marks."""
    return markup.escape(text.encode("utf-8", "replace").decode("utf-8"))
