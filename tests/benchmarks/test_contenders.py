"""The harness of the benchmarks: contenders take turns, do the same work, and what they say is kept."""

import dataclasses
import json
import sys
import types

import pytest

from benchmarks import __main__ as command
from benchmarks import contenders
from benchmarks.contenders import FIRST, Process, Work
from conversion.agreement.environment import Processor
from ms_bert.kernels import native
from tests.cases import some

TINY = {
    "pretraining": Work("pretraining", "tiny", rows=2, tokens=16, slots=2),
    "finetuning": Work("finetuning", "tiny", rows=2, tokens=16),
}


@pytest.mark.parametrize("kind", some(TINY, "pretraining"))
def test_contenders_begin_with_the_same_loss(kind):
    """MindSpore and PyTorch, each in its own process; then both run on."""
    losses = []
    for name in (FIRST, "pt_reference"):
        process = Process(name, TINY[kind])
        losses.append(process.loss)
        assert process.run(2) > 0 and process.first_seconds > 0 and 0.1 < process.peak_memory_gb < 4
        process.close()
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)


def test_a_contender_that_fails_is_named():
    with pytest.raises(SystemExit, match="the contender nobody ended with exit code 1"):
        Process("nobody", TINY["pretraining"])


class Fake:
    """A contender whose runs take 1 s, 2 s, ... by its place among all, twice as long in every other round."""

    alive, most = 0, 0

    def __init__(self, name, work, environment):
        self.name, self.first_seconds, self.loss, self.peak_memory_gb = name, 9.0, 1.0, 0.5
        self.seconds, self.rounds = 1.0 + list(contenders.makers(work.kind)).index(name), 0
        Fake.alive += 1
        Fake.most = max(Fake.most, Fake.alive)

    def run(self, times):
        self.rounds += 1
        return self.seconds * (1 + self.rounds % 2)

    def close(self):
        Fake.alive -= 1


@pytest.mark.parametrize("together, most", [(6, 6), (3, 3), (2, 2)])
def test_ratios_are_taken_pair_by_pair_in_groups_that_fit(together, most, monkeypatch):
    monkeypatch.setattr(contenders, "Process", Fake)
    Fake.alive = Fake.most = 0
    found = contenders.compare(TINY["pretraining"], rounds=5, together=together)
    assert list(found) == list(contenders.makers("pretraining"))
    ratios = [one["times_the_first"]["median"] for one in found.values()]
    assert ratios == [1, 2, 3, 4, 5, 6]
    assert all(one["times_the_first"]["quartiles"] == [ratio] * 2 for one, ratio in zip(found.values(), ratios))
    assert Fake.most == most and Fake.alive == 0


@pytest.mark.parametrize("instructions, there", [((), False), (("avx512_bf16",), True), (("bf16",), True)])
def test_bfloat16_contends_only_where_the_processor_multiplies_it(instructions, there, monkeypatch):
    processor = dataclasses.replace(Processor.here(), instructions=instructions)
    monkeypatch.setattr(Processor, "here", lambda: processor)
    assert ("pt_reference bfloat16 --compile" in contenders.makers("inference")) == there
    assert "transformers" in contenders.makers("inference")


def test_flops_are_those_of_the_literature():
    short, long = (Work("pretraining", "base", 1, tokens, slots) for tokens, slots in ((128, 20), (512, 76)))
    after_attention = 2 * 768 * 768 + 4 * 768 * 3072  # of the last layer, a token, which the twins compute of few
    assert (short.flops + 3 * (128 - 21) * after_attention) / 1e9 == pytest.approx(69.9, abs=0.1)
    assert (long.flops + 3 * (512 - 77) * after_attention) / 1e9 == pytest.approx(300.9, abs=0.2)
    encoder = Work("inference", "base", 1, 128).flops
    head = 2 * 768 * 768 + 2 * 768 * 30522
    assert short.flops_of_all_tokens == pytest.approx(3 * (encoder + 128 * head))
    tuned = Work("finetuning", "base", 1, 128)
    assert tuned.flops_of_all_tokens == 3 * encoder
    assert tuned.flops == pytest.approx(3 * (encoder - 127 * after_attention))


def test_what_a_contender_computes_is_what_its_rate_is_of():
    step, encoder = Work("pretraining", "base", 8, 128, 20), Work("inference", "base", 8, 128)
    assert contenders.flops_of(FIRST, step) == contenders.flops_of("pt_reference", step) == step.flops
    assert contenders.flops_of("transformers autocast", step) == step.flops_of_all_tokens > step.flops
    assert contenders.flops_of("transformers", encoder) == contenders.flops_of(FIRST, encoder) == encoder.flops


def test_turns_come_in_another_order_in_each_round():
    order: list[int] = []

    class Counted:
        def __init__(self, number):
            self.number = number

        def run(self, times):
            order.append(self.number)
            return float(self.number)

    seconds = contenders.by_turns([Counted(number) for number in range(4)], [1] * 4, rounds=12)
    assert seconds == [(float(number),) * 12 for number in range(4)]
    rounds = [tuple(order[begin : begin + 4]) for begin in range(0, 48, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds)
    assert len({*rounds}) > 6


def test_a_contender_that_dies_between_its_turns_is_named():
    process = Process(FIRST, TINY["pretraining"])
    process._process.kill()
    process._process.wait()
    with pytest.raises(SystemExit, match="the contender ms_bert fused ended with exit code -9"):
        process.run(1)
    process.close()


def test_stock_operations_are_not_measured_as_fused_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "missing.so")
    for kind in ("pretraining", "finetuning", "inference"):
        with pytest.raises(SystemExit, match="the fused kernels cannot be measured: they were not built"):
            contenders.made(FIRST, dataclasses.replace(TINY["pretraining"], kind=kind))


def measuring(monkeypatch, measure, *arguments):
    module = types.SimpleNamespace(__doc__="In how many parts?", measure=measure)
    monkeypatch.setitem(sys.modules, "benchmarks.packing", module)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "packing", *map(str, arguments)])
    monkeypatch.setattr(command, "describe", dict)
    return command.main


def test_what_is_measured_is_kept_part_by_part_beside_the_last_whole_result(tmp_path, monkeypatch):
    partial, path = tmp_path / "packing.partial.json", tmp_path / "packing.json"
    path.write_text('{"result": "the last one"}')

    def measure(output, last=KeyboardInterrupt):
        yield {"part": 1}
        assert json.loads(partial.read_text())["result"] == [{"part": 1}]
        yield {"part": 2}
        if last:
            raise last

    with pytest.raises(KeyboardInterrupt):
        measuring(monkeypatch, measure, "--output", tmp_path)()
    assert json.loads(partial.read_text())["result"] == [{"part": 1}, {"part": 2}]
    assert json.loads(path.read_text()) == {"result": "the last one"}
    assert measuring(monkeypatch, lambda output: measure(output, None), "--output", tmp_path)() == 0
    assert json.loads(path.read_text())["result"] == [{"part": 1}, {"part": 2}] and not partial.exists()


def test_the_last_result_of_another_processor_is_kept(tmp_path, monkeypatch):
    def measured(family, date="2026-11-01"):
        machine = {"cpu": "CPU", "cpu_family": family, "cpu_model": 7}
        monkeypatch.setattr(command, "describe", lambda: {"machine": machine, "date": date})
        assert run() == 0

    run = measuring(monkeypatch, lambda output: [{"part": 1}], "--output", tmp_path)
    for family in (None, 25, 25, 26, 26):
        measured(family)
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("packing.json"))
    assert kept == [
        "machines/family-25-model-7/packing.json",
        "machines/unknown-2026-11-01/packing.json",
        "packing.json",
    ]
    assert json.loads((tmp_path / "packing.json").read_text())["machine"]["cpu_family"] == 26


def test_where_no_result_can_be_written_nothing_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="cannot be written to .*name another --output"):
        measuring(monkeypatch, pytest.fail, "--output", tmp_path / "file" / "results")()
