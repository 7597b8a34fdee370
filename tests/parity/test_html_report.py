"""The page of an agreement check: what it tells, that it needs nothing else, and that a browser draws it."""

import dataclasses
import functools
import html
import json
import math
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest

from conversion.agreement import figures, html_report
from conversion.agreement.figures import CaughtFault, Trajectory
from conversion.agreement.findings import error_of, histogram, judge
from conversion.agreement.html_report import Report
from conversion.agreement.predictions import Predictions, Row
from conversion.agreement.tolerances import Error
from conversion.parameters import parameters

pytestmark = pytest.mark.drawn

CONTENDERS = {"PyTorch eager": 1.0, "MindSpore graph": 1.1, "ONNX Runtime": 0.8}  # error, by PyTorch's
CASES = ("pairs of sentences", "one token", "padded to the end")
HOSTILE = "</svg><script>alert(1)</script>$x^{$--> \u4e2d"
POLICY = '<meta http-equiv="Content-Security-Policy"[^>]*>'
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def sublayers(layers) -> list[str]:
    inside = ("attention.probabilities", "attention.output", "output")
    encoder = [f"layer.{i}.{name}" for i in range(layers) for name in inside]
    return ["embeddings", *encoder, "pooled_output", "prediction_logits", "seq_relationship_logits"]


def findings(layers=12, cases=CASES, precisions=("float32",), damage=lambda contender, name: 1.0, gradients=True):
    """Findings as the suite makes them, of errors that are drawn; `damage` multiplies them."""
    numbers, made = np.random.default_rng(0), []
    checks = {"forward": sublayers(layers), "losses": ["masked_lm", "next_sentence"]}
    if gradients:
        checks["gradients"] = list(parameters(layers, ("embeddings", "encoder", "pooler", "mlm", "nsp")))
    noise = {"float32": 2e-7, "float16": 4e-4, "bfloat16": 3e-3}
    for precision in precisions:
        for case in cases:
            for check, names in checks.items():
                own = {}
                for contender, factor in CONTENDERS.items():
                    found, bins = {}, {}
                    for i, name in enumerate(names):
                        exact = numbers.normal(size=200)
                        size = factor * noise[precision] * (1 + i / 60) * damage(contender, name)
                        value = exact * (1 + size * numbers.uniform(0.8, 1.2, 200) * numbers.choice((-1, 1), 200))
                        found[name] = error_of(value, exact)
                        if check == "forward":
                            bins[name] = histogram(value, exact)
                    own = own or found
                    yardsticks = None if contender.startswith("PyTorch") else own
                    made += judge(check, case, contender, precision, found, yardsticks, bins)
    return tuple(made)


PREDICTED = Predictions(
    "the label of the text",
    ("PyTorch (A)", "MindSpore (B)"),
    (Row("a text", ("good 61.0%", "bad 60.2%"), False), Row("another", ("bad 98.1%", "bad 98.1%"), True)),
    4,
    5,
)


def full(**changed) -> Report:
    steps = list(range(0, 200, 10))
    oracle = [9 * math.exp(-step / 80) + 2 for step in steps]
    drift = {name: [factor * 1e-7 * 1.03**step * (step > 0) for step in steps] for name, factor in CONTENDERS.items()}
    losses = {"PyTorch float64": oracle}
    losses |= {name: [loss * (1 + by) for loss, by in zip(oracle, drift[name])] for name in CONTENDERS}
    planted = tuple(
        CaughtFault(f"fault {i}", "a weight is transposed", "forward", "layer.0.output", 10.0 ** (i - 7), 1e-6, i > 0)
        for i in range(12)
    )
    told = {
        "title": "runs/base against base.ckpt",
        "verdict": "All frameworks agree.",
        "agrees": True,
        "findings": findings(),
        "environment": {"cpu": "Xeon", "mindspore": "2.10.0"},
        "notes": ("ONNX Runtime has no gradients.",),
        "trajectory": Trajectory(steps, losses, drift),
        "faults": planted,
        "about": "A is runs/base. B is base.ckpt.",
        "predictions": (PREDICTED,),
    }
    return Report(**(told | changed))


@functools.cache
def healthy() -> Report:
    return full()


@functools.cache
def differing() -> Report:
    """MindSpore goes wrong in the attention of layer 7."""
    names = sublayers(12)
    wrong = set(names[names.index("layer.7.attention.output") :])
    jumped = findings(damage=lambda contender, name: 3e4 if contender == "MindSpore graph" and name in wrong else 1.0)
    return full(findings=jumped, agrees=False, verdict="MindSpore graph differs.", title="a against b")


@functools.cache
def odd() -> Report:
    """Errors, limits and drifts that have no logarithm, one layer, and names that are markup."""
    found = list(findings(layers=1, cases=("one token",)))
    infinite, zero, undefined = (Error(value, value) for value in (math.inf, 0.0, math.nan))
    for i, changed in enumerate(
        (
            {"error": infinite},
            {"error": zero},
            {"error": undefined},
            {"error": zero, "limit": zero},
            {"name": HOSTILE, "contender": HOSTILE, "case": HOSTILE, "precision": HOSTILE, "yardstick": infinite},
        ),
        start=8,
    ):
        found[i] = dataclasses.replace(found[i], **changed)
    planted = [
        CaughtFault(HOSTILE, HOSTILE, HOSTILE, HOSTILE, error, 1e-6, True) for error in (math.inf, math.nan, 0.0)
    ]
    losses = {"PyTorch float64": [3.0, 2.0, 1.0], HOSTILE: [3.0, math.nan]}
    drift = {HOSTILE: [0.0, math.nan], "PyTorch eager": [math.inf, 1e-6, 0.0]}
    return full(
        title=HOSTILE,
        verdict=HOSTILE,
        findings=tuple(found),
        environment={HOSTILE: HOSTILE},
        notes=(HOSTILE, "undecodable \udcff"),
        trajectory=Trajectory((0, 1, 2), losses, drift),
        faults=tuple(planted),
    )


REPORTS = {"healthy": healthy, "differing": differing, "odd": odd}
FIGURES = ["errors", "ratios", "gradients", "histograms", "trajectory", "faults"]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout")  # labels would be cut
        warnings.filterwarnings("ignore", message="Glyph")  # no font here has Chinese
        return {name: html_report.html(report()) for name, report in REPORTS.items()}


def rows(page, place) -> list[list[str]]:
    """The cells of the table below an id."""
    body = page.split(f'id="{place}"', 1)[1].split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in body.split("</tr>")[:-1]
    ]


def figure_of(page, name) -> str:
    return page.split(f'<figure id="{name}">', 1)[1].split("</figure>", 1)[0]


def test_a_healthy_page_tells_everything_and_no_failure(pages):
    page, report = pages["healthy"], healthy()
    assert "<h1>runs/base against base.ckpt</h1>" in page
    assert 'id="verdict" class="agrees"' in page and 'id="beyond"' not in page
    assert page.count("<tr class=beyond>") == 2  # the fault that was missed, and the text with another label
    assert re.findall(r'<figure id="(\w+)">', page) == FIGURES
    assert len(re.findall(r"<figcaption>[^<]{40,}</figcaption>", page)) == len(FIGURES)
    assert len(rows(page, "all")) == len(report.findings)
    assert [row[0] for row in rows(page, "planted")][-1] == "fault 0"
    assert rows(page, "environment") == [["cpu", "Xeon"], ["mindspore", "2.10.0"]]
    assert "ONNX Runtime has no gradients." in page
    assert len(page.encode()) < 3e6


def test_a_page_begins_with_what_was_compared_the_answer_and_what_is_predicted(pages):
    page = pages["healthy"]
    order = [page.index(f'id="{name}"') for name in ("about", "verdict", "notes", "predictions", "glossary", "errors")]
    assert order == sorted(order)
    assert "<strong>Yes, all agree.</strong>" in page and "<strong>No.</strong>" in pages["differing"]
    told = page[page.index('id="predictions"') : page.index('id="glossary"')]
    assert "<h3>The label of the text</h3><p>4 of 5 first answers are the same (80%); 2 are shown.</p>" in told
    assert rows(page, "predictions") == [
        ["a text", "good 61.0%", "bad 60.2%", "no"],
        ["another", "bad 98.1%", "bad 98.1%", "yes"],
    ]


def test_every_word_of_the_tables_is_explained(pages):
    explained = " ".join(re.findall(r"<dt>(.*?)</dt>", html.unescape(pages["healthy"])))
    for column in ("case", "contender", "precision", "tensor", "error", "PyTorch's", "limit", "of limit"):
        assert column in explained, column
    for word in ("oracle", "yardstick", "floor", "cap", "share"):
        assert word in explained, word


def test_what_was_not_judged_is_no_failure_and_is_marked(pages):
    found = [dataclasses.replace(f, error=Error(1.0, 1.0), judged=False) for f in findings(layers=1)[:3]]
    page = html_report.html(Report("a against b", "", True, tuple(found), {}))
    assert 'id="beyond"' not in page and {row[-1] for row in rows(page, "all")} == {"not judged"}
    assert "It cannot be decided." in html_report.html(Report("a against b", "", False, tuple(found), {}))


def test_the_worst_of_each_check_is_told_with_its_numbers(pages):
    told = rows(pages["healthy"], "worst")
    assert len(told) == 3 * len(CONTENDERS)
    for check, case, contender, precision, name, measure, error, own, limit, share in told:
        group = [f for f in healthy().findings if (f.check, f.contender, f.precision) == (check, contender, precision)]
        worst = max(group, key=lambda finding: finding.share)
        assert (case, name, share) == (worst.case, worst.name, f"{worst.share:.1%}")
        assert (error, limit) == tuple(f"{getattr(side, measure):.2e}" for side in (worst.error, worst.limit))
        assert own == (f"{getattr(worst.yardstick, measure):.2e}" if worst.yardstick else "\u2013")


def test_a_failure_is_told_first_where_the_forward_pass_first_goes_wrong(pages):
    page = pages["differing"]
    assert 'id="verdict" class="differs"' in page and page.index('id="beyond"') < page.index("<figure")
    told = rows(page, "beyond")
    assert len(told) == html_report.MOST_BEYOND
    assert [row[4] for row in told[: 2 * len(CASES)]] == ["layer.7.attention.output"] * 3 + ["layer.7.output"] * 3
    shares = [float(row[-1].removesuffix("x").replace(",", "")) for row in told[: len(CASES)]]
    assert shares == sorted(shares, reverse=True) and min(shares) > 100
    beyond = sum(not finding.agrees for finding in differing().findings)
    assert f"{html_report.MOST_BEYOND} of the {beyond} findings" in page
    for figure in ("errors", "ratios"):
        assert figure_of(page, figure).count("first beyond its limit: 7 attention output") == len(CASES)


def test_names_are_text_whatever_they_hold(pages):
    page = pages["odd"]
    assert "<script" not in page
    assert page.count("<svg ") == page.count("</svg>") == len(FIGURES)
    assert html.unescape(re.search(r"<h1>(.*)</h1>", page)[1]) == HOSTILE
    assert HOSTILE in [row[4] for row in rows(page, "all")]
    page.encode()  # though a path's bytes are no text


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_needs_nothing_but_itself(pages, name):
    page = re.sub(r' xmlns(:\w+)?="http://www\.w3\.org/[^"]*"', "", pages[name])
    for word in ("http://", "https://", "@import", "<script", "<link", "<img", "<iframe", "<metadata"):
        assert word not in page
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


@pytest.mark.parametrize("name", REPORTS)
def test_ids_are_unique_and_every_reference_is_met(pages, name):
    tags = "".join(re.findall(r"<[^<>]+>", pages[name]))
    ids = re.findall(r'\bid="([^"]*)"', tags)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', tags)) <= set(ids)


def test_the_same_report_is_the_same_bytes():
    report = full(findings=findings(layers=1, cases=CASES[:1]))
    assert html_report.html(report) == html_report.html(report)


def test_an_empty_report_is_a_page_without_figures():
    empty = Report("nothing", "Nothing was compared.", False, (), {})
    page = html_report.html(empty)
    assert "Nothing was compared." in page and "<figure" not in page and "<svg" not in page
    assert figures.errors_by_layer(()) is None and figures.faults(()) is None


def test_a_report_of_one_check_has_its_figures_only():
    losses = tuple(finding for finding in findings(layers=1) if finding.check == "losses")
    assert "<figure" not in html_report.html(Report("losses", "", True, losses, {}))
    plain = tuple(dataclasses.replace(finding, histogram=()) for finding in findings(layers=1, gradients=False))
    page = html_report.html(Report("forward", "", True, plain, {}))
    assert re.findall(r'<figure id="(\w+)">', page) == ["errors", "ratios"]


def test_the_table_of_all_findings_is_capped_and_says_so(monkeypatch):
    found = differing().findings
    monkeypatch.setattr(html_report, "MOST_ROWS", 50)
    page = html_report._all(found)
    least = sorted(finding.share for finding in found)[-50]
    kept = {(f.case, f.contender, f.name) for f in found if f.share >= least}
    assert f"The 50 of {len(found):,} findings that are nearest to their limits or beyond" in page
    assert {(row[1], row[2], row[4]) for row in rows(page, "all")} == kept


def test_more_cases_than_panels_are_one_panel_of_the_worst():
    cases = [f"case {i}" for i in range(figures.MOST_CASES + 1)]
    figure = figures.errors_by_layer(findings(layers=1, cases=cases, gradients=False))
    assert [axes.get_title("left") for axes in figure.axes] == ["the worst of 4 cases"]


def test_a_deep_model_has_labels_that_fit():
    figure = figures.errors_by_layer(findings(layers=24, cases=CASES[:1], gradients=False))
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert len(labels) <= figures.MOST_LABELS
    assert labels[:2] == ["embeddings", "0 output"] and labels[-1] == "seq_relationship_logits"


def test_sublayers_are_in_order_though_a_framework_gives_the_outputs_only():
    names = ["logits", "layer.10.output", "layer.2.output", "layer.10.attention.output", "embeddings", "logits"]
    ordered = ["embeddings", "layer.2.output", "layer.10.output", "layer.10.attention.output", "logits"]
    assert list(figures.forward_order(names)) == ordered


def test_a_contender_has_a_colour_of_its_own_whatever_their_order():
    names = ["PyTorch eager", "PyTorch compiled", "MindSpore graph", "MindSpore PyNative", "ONNX Runtime", "other"]
    colors = figures.palette([*names, figures.ORACLE])
    assert len(set(colors.values())) == len(names) + 1
    assert colors == figures.palette([figures.ORACLE, *reversed(names)])


PROBE = """<script>
const told = {};
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg"), {x, y, width, height, right, bottom} = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll("path, use")].filter((shape) => {
    const box = shape.getBBox(), style = getComputedStyle(shape);
    const painted = style.visibility === "visible" && (style.stroke !== "none" || style.fill !== "none");
    return !shape.closest("defs") && (box.width || box.height) && painted;
  });
  const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim());
  const cut = texts.filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < x - 1 || box.right > right + 1 || box.top < y - 1 || box.bottom > bottom + 1;
  });
  told[figure.id] = {x, y, width, height, shapes: shapes.length, texts: texts.length};
  told[figure.id].cut = cut.map((text) => text.textContent);
}
const probe = document.createElement("pre");
probe.id = "probe";
probe.textContent = JSON.stringify(told);
document.body.append(probe);
</script>"""


def browse(path, *options) -> str:
    """What headless Chromium writes about a file."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,7000")
    command = [CHROMIUM, *quiet, f"--user-data-dir={path.parent / 'browser'}", *options, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def probed(page, folder) -> dict[str, dict]:
    """What a browser knows of each figure once the page is drawn."""
    page, found = re.subn(POLICY, "", page)  # which forbids all scripts, the probe too
    assert found == 1
    (folder / "probed.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    dom = browse(folder / "probed.html", "--dump-dom")
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]))


@needs_chromium
@pytest.mark.parametrize("name", REPORTS)
def test_a_browser_draws_every_figure_and_cuts_no_label(pages, name, tmp_path):
    told = probed(pages[name], tmp_path)
    assert list(told) == FIGURES
    for figure, seen in told.items():
        assert seen["width"] > 1000 and seen["height"] > 100, figure
        assert seen["shapes"] > 20 and seen["texts"] > 5, figure
        assert seen["cut"] == [], figure


@needs_chromium
def test_a_contender_has_its_colour_in_every_figure(pages, tmp_path):
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    boxes = probed(pages["differing"], tmp_path)
    (tmp_path / "report.html").write_text(pages["differing"], encoding="utf-8")
    browse(tmp_path / "report.html", f"--screenshot={tmp_path / 'report.png'}")
    pixels = imread(tmp_path / "report.png")[..., :3]
    palette = figures.palette(CONTENDERS)
    colors = [palette[contender] for contender in CONTENDERS]
    expected = {figure: colors for figure in FIGURES}
    expected |= {"ratios": colors[1:], "faults": [figures.CAUGHT, figures.MISSED]}  # the ratios are to PyTorch
    for figure, box in boxes.items():
        x, y, width, height = (round(box[key]) for key in ("x", "y", "width", "height"))
        inside = pixels[y : y + height, x : x + width]
        assert inside.shape[:2] == (height, width), "the window is too small"
        for color in expected[figure]:
            assert (np.abs(inside - to_rgb(color)).max(-1) < 0.01).sum() > 100, (figure, color)


@needs_chromium
def test_a_script_that_got_into_a_page_does_not_run(pages, tmp_path):
    (tmp_path / "page.html").write_text(pages["healthy"].replace("</body>", PROBE + "</body>"), encoding="utf-8")
    assert '<pre id="probe">' not in browse(tmp_path / "page.html", "--dump-dom")
