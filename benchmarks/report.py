"""`python -m benchmarks report`: the charts and the README's tables of speed, from the results on file."""

from __future__ import annotations

import json
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- speed, made by `python -m benchmarks report` -->", "<!-- /speed -->"
CHART = "speed.png"
FIRST = "ms_bert fused"


def write(readme: Path = README, results: Path = RESULTS) -> None:
    """Draw the chart and put the tables into the README."""
    draw(results / CHART, results)
    text = readme.read_text()
    readme.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block(results), text, flags=re.S))


def block(results: Path = RESULTS) -> str:
    """What stands in the README between the two marks."""
    steps, inference, packing = (_result(results, name) for name in ("training_step", "inference", "packing"))
    gain, shares = packing["gain"], packing["share_of_text"]
    alone, packed = (f"{share['median']:.0%}" for share in shares.values())
    lines = [
        BEGIN,
        "",
        "A pre-training step, dropout on: milliseconds with the fused kernels, and how many times as long the others",
        "take (median of pairs; quartiles in the raw results). Last, what the fused step computes a second, by the",
        "model's own products, as a share of what the best matrix product on this machine did in the same run.",
        "",
        *_table(steps),
        "",
        "The encoder of all-MiniLM-L6-v2, as it infers:",
        "",
        *_table(inference),
        "",
        f"With `--pack 4`, a step of BERT-mini on rows of {packing['tokens_a_row']} tokens takes in "
        f"{gain['median']:.2f} times the text a second:",
        f"{packed} of a row is then text, {alone} without.",
        "",
        END,
    ]
    return "\n".join(lines)


def _table(works: list[dict]) -> list[str]:
    names = list(works[0]["contenders"])
    rows = [["", *names, "of the peak"], ["---"] * (len(names) + 2)]
    for work in works:
        first = work["contenders"][FIRST]
        cells = [f"{work['preset']}, {work['rows']} x {work['tokens']}", f"{first['seconds']['median'] * 1e3:.4g} ms"]
        cells += [f"{work['contenders'][name]['times_the_first']['median']:.2f}" for name in names[1:]]
        rows.append([*cells, f"{first['share_of_gemm_peak']:.0%}"])
    return ["| " + " | ".join(row) + " |" for row in rows]


def draw(path: Path, results: Path = RESULTS) -> None:
    """How many times as long as the fused kernels each contender takes, with the quartiles."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    works = [*_result(results, "training_step"), *_result(results, "inference")]
    columns = 3
    lines = -(-len(works) // columns)
    figure, panels = pyplot.subplots(lines, columns, figsize=(13, 2.6 * lines), layout="constrained", squeeze=False)
    for panel in panels.flat[len(works) :]:
        panel.set_visible(False)
    for panel, work in zip(panels.flat, works):
        names = list(work["contenders"])[::-1]
        ratios = [work["contenders"][name]["times_the_first"] for name in names]
        medians = [ratio["median"] for ratio in ratios]
        spans = [[abs(ratio["quartiles"][side] - ratio["median"]) for ratio in ratios] for side in (0, 1)]
        colors = ["#1f6fb4" if name.startswith("ms_bert") else "#b0b7bf" for name in names]
        panel.barh(names, medians, xerr=spans, color=colors, error_kw={"elinewidth": 1, "ecolor": "#444444"})
        for place, value in enumerate(medians):
            panel.text(value, place, f"  {value:.2f}", va="center", fontsize=8)
        panel.axvline(1, color="#444444", linewidth=0.8)
        what = "step" if work["kind"] == "train" else "inference"
        seconds = work["contenders"][FIRST]["seconds"]["median"]
        panel.set_title(
            f"{work['preset']}, {what}, {work['rows']} x {work['tokens']}: {seconds * 1e3:.4g} ms", fontsize=9
        )
        panel.set_xlim(0, 1.18 * max(medians))
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Times as long as ms_bert with fused kernels (less is better)", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _result(results: Path, name: str):
    path = results / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing; measure it first: python -m benchmarks {name}")
    return json.loads(path.read_text())["result"]
