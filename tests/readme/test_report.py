"""What the README says of speed is what was measured, and what was required is met but where the limit is known."""

import json
import re
import shutil

import pytest

from benchmarks import report
from benchmarks.__main__ import main as benchmark
from benchmarks.contenders import FIRST
from ms_bert.config import PRESETS

NOT_MET = {
    # An exchange takes the same time whatever the batch is: beside a small one of a large model it is a fifth.
    "base, 32 x 128: 2 workers x 1 thread, times as fast as 1 x 2",
    # Three times as fast as the stock operations would be 87% of the machine's peak for mini, and 120% for base.
    "pretraining, mini, 16 x 128: ms_bert stock / ms_bert fused, seconds",
    "pretraining, base, 8 x 128: ms_bert stock / ms_bert fused, seconds",
    # A step on short sentences is mostly matrix products and the optimizer, which sorted batches have as well; packed
    # rows are filled up to one of four shapes, which is a tenth more tokens.
    "fine-tuning: times as fast as transformers, sorted, pt_reference",
    # In float32, and on whole rows in bfloat16 too, all of them multiply at nine tenths of the processor's peak.
    "inference, minilm, 1 x 16: the fastest other / ms_bert fused",
    "inference, minilm, 1 x 128: the fastest other / ms_bert fused",
    "inference, minilm, 16 x 128: the fastest other / ms_bert fused",
    "inference, minilm, 16 x 128: the fastest other / ms_bert fused bfloat16",
    "base, pre-training, 8 x 128: the fastest of torch / ms_bert fused bfloat16, seconds",
    # Parameters, their gradients and moments stay float32, and are most of the memory of small batches.
    "mini, pre-training, 16 x 128: peak memory of ms_bert fused bfloat16 / float32",
    "small, pre-training, 16 x 128: peak memory of ms_bert fused bfloat16 / float32",
    "base, pre-training, 8 x 128: peak memory of ms_bert fused bfloat16 / float32",
}


@pytest.mark.parametrize(
    "page, name", [(page, name) for page, makers in report.PAGES.items() for name in makers], ids=str
)
def test_a_page_has_the_numbers_of_the_results_on_file(page, name):
    makers = {name: report.PAGES[page][name]}
    assert report.blocks(report.RESULTS, makers)[name] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", report.PAGES, ids=str)
def test_no_other_block_stands_there(page):
    assert re.findall(r"<!-- ([^/].*?), made by", page.read_text(encoding="utf-8")) == list(report.PAGES[page])


def test_scores_are_means_over_the_seeds_with_their_spread_and_number(tmp_path):
    runs = {
        f"{task}/{who}/{seed}": {"task": task, "recipe": "usual", "contender": who, "seed": seed, "metrics": {"f1": f1}}
        for task, who, seed, f1 in [
            ("mrpc", "ms_bert", 1, 0.8),
            ("mrpc", "ms_bert", 2, 0.9),
            ("mrpc", "transformers", 1, 0.85),
            ("sst2", "pt_reference", 1, 0.915),
        ]
    }
    (tmp_path / "real_tasks.json").write_text(json.dumps({"result": runs}))
    assert report._real_tasks(tmp_path).splitlines()[2:] == [
        "| sst2 | usual | f1 |  | 91.5 (1) |  |",
        "| mrpc | usual | f1 | 85.0 ± 7.1 (2) |  | 85.0 (1) |",
    ]
    assert report._recipes(tmp_path).splitlines()[2:] == ["| usual | minilm | 3 | 5e-05 |  |"]
    taught = {"mrpc/self-distilled/ms_bert/1": {**runs["mrpc/ms_bert/1"], "recipe": "self-distilled"}}
    (tmp_path / "real_tasks.json").write_text(json.dumps({"result": taught}))
    (row,) = report._recipes(tmp_path).splitlines()[2:]
    assert row.endswith("`--pooling mean --layer-decay 0.9`, `--teacher`: by mean-2e-4-decay, of the same seed |")


def test_what_was_required_is_met():
    found = list(report.requirements())
    assert len(found) > 20
    assert {what for what, _, _, met in found if not met} == NOT_MET


def test_three_times_as_fast_as_stock_would_be_about_the_peak_itself():
    for work in report.load(report.RESULTS, "pretraining_step"):
        title = f"pretraining, {work['preset']}, {work['rows']} x {work['tokens']}: ms_bert stock / {FIRST}, seconds"
        if title in NOT_MET:
            least = {"mini": 0.86, "base": 1.15}[work["preset"]]  # of a step with all that is no product
            assert 3 * work["contenders"]["ms_bert stock"]["share_of_gemm_peak"] > least


def test_contenders_computed_the_same():
    for name in ("pretraining_step", "finetuning_step", "inference"):
        for work in report.load(report.RESULTS, name):
            losses = {who: one["loss_of_first_run"] for who, one in work["contenders"].items()}
            if name != "inference":
                losses.pop("transformers")  # draws its own weights and masks
            rounded = [
                losses.pop(who) for who in list(losses) if who.endswith(("bfloat16", "int8", "bfloat16 --compile"))
            ]
            assert max(losses.values()) - min(losses.values()) < 1e-4, (work, losses)
            assert all(abs(one / losses[FIRST] - 1) < 0.1 for one in rounded), (work, rounded)


def test_every_size_was_measured():
    sizes = {(work["preset"], work["tokens"]) for work in report.load(report.RESULTS, "pretraining_step")}
    assert sizes == {(preset, tokens) for preset in ("tiny", "mini", "small", "base") for tokens in (128, 512)}
    assert {preset for preset, _ in sizes} < PRESETS.keys()


@pytest.mark.drawn
@pytest.mark.parametrize("draw", [report.draw_speed, report.draw_profile])
def test_the_charts_can_be_drawn(draw, tmp_path):
    draw(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_replaces_its_own_part_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n" + "\nbetween\n".join("\nold\n".join(report.marks(name)) for name in report.BLOCKS) + "\nafter\n"
    )
    results = tmp_path / "results"
    results.mkdir()
    for path in report.RESULTS.glob("*.json"):
        (results / path.name).write_bytes(path.read_bytes())
    page = tmp_path / "results.md"
    page.write_text("\nold\n".join(report.marks("scores")))
    report.write(results, {readme: report.BLOCKS, page: report.RESULTS_BLOCKS})
    assert page.read_text() == report.blocks(report.RESULTS, report.RESULTS_BLOCKS)["scores"]
    text = readme.read_text()
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n") and "\nold\n" not in text
    assert text.count("between") == len(report.BLOCKS) - 1
    assert re.search(r"\| base, pre-training, 8 x 128 \| \d+ ms ", text)


def test_results_elsewhere_leave_the_readme_alone(tmp_path, monkeypatch, capsys):
    shutil.copytree(report.RESULTS, tmp_path, ignore=shutil.ignore_patterns("*.png"), dirs_exist_ok=True)
    before = report.README.read_bytes(), (report.RESULTS / report.SPEED).stat().st_mtime_ns
    monkeypatch.setattr("sys.argv", ["benchmarks", "report", "--output", str(tmp_path)])
    assert benchmark() == 0
    assert (report.README.read_bytes(), (report.RESULTS / report.SPEED).stat().st_mtime_ns) == before
    told = capsys.readouterr().out
    for makers in report.PAGES.values():
        assert all(block in told for block in report.blocks(report.RESULTS, makers).values())
    assert (tmp_path / report.SPEED).exists()


def test_a_missing_result_is_named(tmp_path, monkeypatch):
    (tmp_path / "pretraining_step.json").write_text(json.dumps({"result": []}))
    monkeypatch.setattr("sys.argv", ["benchmarks", "report", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="python -m benchmarks learning"):
        benchmark()
    assert [path.name for path in tmp_path.iterdir()] == ["pretraining_step.json"]
