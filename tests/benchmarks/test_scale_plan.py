"""The plan for many workers: its formula, what is fitted to it, what it foretells, and its table."""

import json
import math

import pytest

from benchmarks import report, scale_plan
from benchmarks.scale_plan import Plan, fitted, foretold, main
from ms_bert.errors import UserError

PLAN = Plan(leaves=8, leaf_seconds=2.0, update_seconds=1.0, size=4e9, bandwidth=1e9, latency=0.1)


def test_a_step_is_the_sum_of_its_parts():
    assert PLAN.exchange_seconds(1) == 0.0 and PLAN.step_seconds(1) == 17.0 and PLAN.efficiency(1) == 1.0
    # 3 x 4 GB x 3/4, and log2(4) exchanges of gradients there and back and 3 of rows.
    assert PLAN.exchange_seconds(4) == pytest.approx(9.0 + 7 * 0.1)
    assert PLAN.step_seconds(4) == pytest.approx(4.0 + 0.25 + 9.7)
    assert PLAN.efficiency(4) == pytest.approx(17.0 / (4 * 13.95))
    torch = Plan(8, 2.0, 1.0, 4e9, 1e9, 0.1, "PyTorch")
    assert torch.exchange_seconds(4) == pytest.approx(6.0 + 6 * 0.1)
    with pytest.raises(UserError, match="16 workers cannot share 8 leaves; choose more --leaves"):
        PLAN.step_seconds(16)


def exchange(values: int, bandwidth: float, latency: float) -> dict:
    return {
        "values": values,
        "milliseconds": 1000 * Plan(2, 1.0, 1.0, 4.0 * values, bandwidth, latency).exchange_seconds(2),
    }


def test_bandwidth_and_latency_are_found_again():
    sizes = [exchange(values, 2.5e8, 0.004) for values in (2**18, 2**22, 2**26)]
    assert fitted(sizes) == pytest.approx((2.5e8, 0.004))
    # Small ones that are faster than any line through the others: no message takes less than no time.
    sizes = [{"values": 2**18, "milliseconds": 1.0}, {"values": 2**26, "milliseconds": 1000.0}]
    bandwidth, latency = fitted(sizes)
    assert latency == 0.0 and bandwidth > 0.0


@pytest.fixture
def measured(tmp_path):
    """A measurement of workers that were as fast as the plan says."""
    plan = Plan(8, 1.5, 0.4, 4e8, 2.5e8, 0.004)
    rate = 256 / plan.step_seconds(2)
    result = [
        {"kind": "throughput", "preset": "mini", "rows": 256, "leaves": 8, "sequences_per_second": {"2 workers": rate}},
        {"kind": "parts", "preset": "mini", "leaf_seconds": 1.5, "update_seconds": 0.4, "parameters": 10**8},
        {"kind": "exchange", "sizes": [exchange(values, 2.5e8, 0.004) for values in (2**18, 2**22, 2**26)]},
    ]
    machine = {"cores": 2, "cpu": "processor"}
    (tmp_path / "workers.json").write_text(json.dumps({"commit": "abc", "machine": machine, "result": result}))
    return tmp_path


def test_two_workers_are_foretold_from_one(measured):
    found = scale_plan.measure(measured)
    (told,) = found["foretold"]
    assert told["foretold_to_measured"] == pytest.approx(1.0, abs=0.001)
    assert told["exchange_seconds"] == pytest.approx(1.5 * 4e8 / 2.5e8 + 0.012, abs=1e-4)
    assert (measured / scale_plan.CHART).read_bytes().startswith(b"\x89PNG")
    assert len(found["curves"]) == 4
    for curve in found["curves"]:
        shares = [point["efficiency"] for point in curve["points"]]
        assert [point["workers"] for point in curve["points"]] == [2**power for power in range(10)]
        assert shares == sorted(shares, reverse=True) and shares[0] == 1.0 and 0.1 < shares[-1] < 0.95
    slow = json.loads((measured / "workers.json").read_text())["result"]
    slow[0]["sequences_per_second"]["2 workers"] /= 2
    assert next(foretold(slow))["foretold_to_measured"] == pytest.approx(0.5, abs=0.001)


def test_workers_that_were_not_measured_are_named(tmp_path):
    with pytest.raises(UserError, match="workers.json is missing; measure it first: python -m benchmarks workers"):
        scale_plan.measure(tmp_path)


GIVEN = ["--parameters", "1e9", "--leaves", "8", "--leaf-seconds", "2", "--update-seconds", "1", "--bandwidth", "1e9"]


def test_a_plan_for_given_numbers_is_printed(capsys):
    assert main([*GIVEN, "--latency", "0.1", "--workers", "4"]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[0] == "workers" and [row[:2] for row in rows] == [["1", "8"], ["2", "4"], ["4", "2"]]
    assert rows[2][2:] == ["13.950", "9.700", f"{17.0 / (4 * 13.95):.1%}", "1.2"]


@pytest.mark.parametrize(
    "more, words",
    [
        (["--workers", "16"], "16 workers cannot share 8 leaves"),
        (["--workers", "4", "--leaves", "6"], "--leaves is 6; choose a power of two"),
        (["--workers", "0"], "--workers is 0; choose more than 0"),
        (["--workers", "2", "--bandwidth", "nan"], "--bandwidth is nan; choose more than 0"),
    ],
)
def test_what_cannot_be_planned_is_said(more, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*GIVEN, *more])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_the_page_says_what_was_foretold_and_assumed(measured):
    found = scale_plan.measure(measured)
    machine = {"cores": 2, "cpu": "processor"}
    (measured / "scale_plan.json").write_text(
        json.dumps({"date": "2026-11-29", "commit": "abc", "machine": machine, "result": found})
    )
    text = report._scale_plan(measured)
    assert "| mini | 256 in 8 |" in text and "512" in text and "a model, not a measurement" in " ".join(text.split())
    assert math.isclose(found["foretold"][0]["foretold_to_measured"], 1.0, abs_tol=0.001)
