"""The loop: which held-out examples are evaluated and when, and which overflow ends a run."""

import dataclasses
import math

import pytest

from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, BatchMaker
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions
from ms_bert.run import curves
from ms_bert.run.folder import METRICS, RunFolder, read_log
from ms_bert.run.loop import Loop, StepResult, evaluate
from ms_bert.run.recipe import cut
from ms_bert.tasks.pretraining import PreTraining
from tests.faults.killed_everywhere import Silent, Trainer

OPTIONS = Options(
    examples=ExampleOptions(seq_length=32),
    training=TrainingOptions(batch_size=4, steps=3, precision="float16"),
    run=RunOptions(log_every=1, eval_every=2, eval_sequences=6),
)


@pytest.fixture
def loop(store, vocabulary, tmp_path, monkeypatch):
    """Makes the loop of a new run: loop(trainer, options)."""
    monkeypatch.setattr(curves, "draw", lambda *arguments: None)

    def made(trainer, options=OPTIONS) -> Loop:
        config, description = BertConfig(vocab_size=vocabulary.size), {"options": options.to_dict()}
        folder = RunFolder.create(tmp_path / "run", description, PreTraining.architecture, config, vocabulary)
        train, other = maker(store.train, vocabulary), held_out(store, vocabulary)
        return Loop(PreTraining(), options.training, options.run, trainer, folder, train, other, Silent())

    return made


def maker(split, vocabulary, **arguments) -> BatchMaker:
    return BatchMaker(split, vocabulary, OPTIONS.examples, OPTIONS.training.batch_size, 1, **arguments)


def held_out(store, vocabulary) -> BatchMaker:
    return maker(store.held_out, vocabulary, held_out=True)


# Evaluation


class Reader(Trainer):
    """Keeps the examples that it is shown for evaluation, in as many parts as the options say."""

    def __init__(self, accumulate=1):
        super().__init__()
        self.options, self.seen, self.parts = TrainingOptions(batch_size=4, accumulate=accumulate), [], []

    def evaluate(self, batch):
        for part in cut(batch, self.options):
            self.parts.append(len(part["input_ids"]))
            for row in range(len(part["input_ids"])):
                if part["masked_weights"][row].any():
                    self.seen.append([part[name][row].tolist() for name in FIELDS])
        return dict.fromkeys(PreTraining.sums, 1.0), ()


@pytest.mark.parametrize("sequences", [1, 4, 6, 8])
def test_an_evaluation_is_of_the_same_examples_however_the_batch_is_computed(store, vocabulary, sequences):
    whole, parts = Reader(), Reader(accumulate=2)
    for reader in (whole, parts):
        evaluate(PreTraining(), reader, held_out(store, vocabulary), sequences)
    assert whole.seen == parts.seen and len(whole.seen) == sequences
    assert set(whole.parts) == {4} and set(parts.parts) == {2}  # one shape each, for one compiled graph
    batches = [held_out(store, vocabulary)(step) for step in range(2)]
    assert (
        whole.seen
        == [[batch[name][row].tolist() for name in FIELDS] for batch in batches for row in range(4)][:sequences]
    )


def steps_evaluated(folder) -> list[int]:
    return [line["step"] for line in read_log(folder, METRICS) if "held_out_mlm_loss" in line]


def test_a_run_is_evaluated_before_its_first_step(loop, tmp_path):
    loop(Trainer()).run()
    lines = read_log(tmp_path / "run", METRICS)
    assert steps_evaluated(tmp_path / "run") == [0, 2, 3] and lines[0]["step"] == 0
    assert {"held_out_mlm_loss", "held_out_mlm_accuracy", "held_out_nsp_loss", "held_out_mlm_perplexity"} < lines[
        0
    ].keys()


def test_a_run_that_is_evaluated_at_its_end_only_is_not_at_its_beginning(loop, tmp_path):
    loop(Trainer(), dataclasses.replace(OPTIONS, run=dataclasses.replace(OPTIONS.run, eval_every=0))).run()
    assert steps_evaluated(tmp_path / "run") == [3]


def test_neither_an_evaluation_nor_compilation_is_in_the_time_of_a_step(loop, tmp_path, monkeypatch):
    now = 0.0

    class Slow(Trainer):
        def evaluate(self, batch):
            nonlocal now
            now += 1000.0
            return super().evaluate(batch)

        def compile(self, batch):
            nonlocal now
            now += 100.0
            return True

        def train_step(self, batch, step, rate):
            nonlocal now
            now += 1.0
            return super().train_step(batch, step, rate)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    loop(Slow()).run()
    compiled, *steps = read_log(tmp_path / "run", "throughput.jsonl")
    assert compiled == {"step": 0, "compile_seconds": 100.0}
    assert [(line["step"], line["seconds"]) for line in steps] == [(1, 1.0), (2, 1.0), (3, 1.0)]


# Curves


def test_the_curves_are_drawn_at_the_end_and_seldom_before(loop, monkeypatch):
    """A picture takes longer than many steps."""
    now, drawn = 0.0, []

    class Slow(Trainer):
        def train_step(self, batch, step, rate):
            nonlocal now
            now += 25.0
            return super().train_step(batch, step, rate)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    run = loop(Slow(), dataclasses.replace(OPTIONS, training=dataclasses.replace(OPTIONS.training, steps=8)))
    monkeypatch.setattr(curves, "draw", lambda *arguments: drawn.append(run.step))
    run.run()
    assert drawn == [3, 6, 8]  # after 75 and 150 seconds, and at the end


# Overflow


class Overflowing(Trainer):
    """Overflows at every loss scale, as a trainer in float16 tells it."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.tried = scale, []

    def train_step(self, batch, step, rate):
        self.tried.append(self.scale)
        skipped, self.scale = self.scale > 1.0, max(self.scale / 2, 1.0)
        return StepResult(dict.fromkeys(PreTraining.sums, 1.0), math.inf, skipped, self.scale)


@pytest.mark.parametrize("scale, tried", [(2.0, [2.0, 1.0]), (1.0, [1.0]), (3.0, [3.0, 1.5, 1.0])])
def test_only_an_overflow_without_any_loss_scale_ends_the_run(loop, scale, tried):
    trainer = Overflowing(scale)
    with pytest.raises(UserError, match=f"step {len(tried)}: .*both must be finite"):
        loop(trainer).run()
    assert trainer.tried == tried
