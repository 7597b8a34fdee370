"""The loop: which held-out examples are evaluated and when, and which overflow ends a run."""

import dataclasses
import math
import shutil

import pytest

from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, BatchMaker, FirstRows
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions
from ms_bert.run import checkpoints, curves
from ms_bert.run.folder import METRICS, RunFolder, read_log
from ms_bert.run.leaves import cut
from ms_bert.run.loop import Loop, StepResult, evaluate
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
        train, other = maker(store.train, vocabulary), first(store, vocabulary, options.run.eval_sequences)
        return Loop(PreTraining(), options.training, options.run, trainer, folder, train, other, Silent())

    return made


def maker(split, vocabulary, **arguments) -> BatchMaker:
    return BatchMaker(split, vocabulary, OPTIONS.examples, OPTIONS.training.batch_size, 1, **arguments)


def held_out(store, vocabulary) -> BatchMaker:
    return maker(store.held_out, vocabulary, held_out=True)


def first(store, vocabulary, rows) -> FirstRows:
    return FirstRows(held_out(store, vocabulary), rows, PreTraining.weights)


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
        evaluate(PreTraining(), reader, first(store, vocabulary, sequences))
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

        def compile(self, batches):
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


# The best checkpoint


class Measured(PreTraining):
    """Evaluations choose its best checkpoint."""

    measure = "mlm_accuracy"


class Measures(Trainer):
    """Its evaluations find these accuracies, the first before the first step."""

    def __init__(self, *found):
        super().__init__()
        self.found = list(found)

    def evaluate(self, batch):
        return {**dict.fromkeys(PreTraining.sums, 1.0), "masked_correct": self.found.pop(0)}, ()


@pytest.fixture
def measured(store, vocabulary, tmp_path, monkeypatch):
    """Begins or resumes a run that is evaluated after each step: measured(trainer, steps, patience)."""
    monkeypatch.setattr(curves, "draw", lambda *arguments: None)

    def made(trainer, steps, patience=0) -> Loop:
        path, config = tmp_path / "run", BertConfig(vocab_size=vocabulary.size)
        begun = path.exists()
        folder = (
            RunFolder(path)
            if begun
            else RunFolder.create(path, {"options": OPTIONS.to_dict()}, Measured.architecture, config, vocabulary)
        )
        training = dataclasses.replace(OPTIONS.training, steps=steps, precision="float32")
        run = dataclasses.replace(OPTIONS.run, eval_every=1, checkpoint_every=2, keep=1)
        train, other = maker(store.train, vocabulary), first(store, vocabulary, 4)
        loop = Loop(Measured(), training, run, trainer, folder, train, other, Silent(), patience)
        if begun:
            loop.resume(checkpoints.load_newest(path, warn=pytest.fail))
        if not loop.finished:
            loop.run()
        return loop

    return made


def weights_of(path, step) -> bytes:
    return (checkpoints.folder_of(path, step) / checkpoints.MODEL).read_bytes()


def test_the_best_checkpoint_is_kept_and_its_weights_are_the_runs(measured, tmp_path):
    loop = measured(Measures(0.9, 0.1, 0.3, 0.2, 0.3, 0.1, 0.2), steps=6)
    path = tmp_path / "run"
    assert loop.best == {"step": 2, "value": 0.3}  # not what an untrained model finds, and the first of equals
    assert checkpoints.steps(path) == [2, 6]
    assert (path / checkpoints.MODEL).read_bytes() == weights_of(path, 2) != weights_of(path, 6)


def test_a_step_that_is_better_is_saved_between_checkpoints(measured, tmp_path):
    loop = measured(Measures(0.0, 0.1, 0.2, 0.5, 0.4), steps=4)
    assert loop.best["step"] == 3 and checkpoints.steps(tmp_path / "run") == [3, 4]


def test_a_resumed_run_remembers_its_best(measured, tmp_path):
    measured(Measures(0.0, 0.5, 0.2), steps=2)
    best = measured(Measures(0.3, 0.4), steps=4).best  # the loop holds the folder
    path = tmp_path / "run"
    assert best == {"step": 1, "value": 0.5} and checkpoints.steps(path) == [1, 4]
    assert (path / checkpoints.MODEL).read_bytes() == weights_of(path, 1)
    assert measured(Measures(0.6), steps=5).best["step"] == 5 and checkpoints.steps(path) == [5]


def test_a_best_checkpoint_that_is_gone_is_told_and_the_run_goes_on(measured, tmp_path):
    measured(Measures(0.0, 0.5, 0.2), steps=2)
    shutil.rmtree(checkpoints.folder_of(tmp_path / "run", 1))
    assert measured(Measures(0.3, 0.2), steps=4).best == {"step": 3, "value": 0.3}


def test_a_run_stops_when_its_patience_ends_and_stays_so(measured, tmp_path):
    loop = measured(Measures(0.0, 0.1, 0.5, 0.4, 0.5), steps=9, patience=2)
    assert loop.step == 4 and loop.best["step"] == 2 and checkpoints.steps(tmp_path / "run") == [2, 4]
    del loop
    assert measured(Measures(), steps=9, patience=2).step == 4
    assert measured(Measures(0.1, 0.6, 0.1), steps=7, patience=4).best["step"] == 6


@pytest.mark.parametrize(
    "best", [[], {"step": 1}, {"step": 9, "value": 1.0}, {"step": 1, "value": None}, {"step": 0, "value": 1.0}]
)
def test_a_best_step_that_no_run_can_have_is_refused(best, measured, tmp_path):
    measured(Measures(0.0, 0.5, 0.2), steps=2)
    folder = checkpoints.folder_of(tmp_path / "run", 2)
    state = checkpoints.verified(folder)
    position = {**state["position"], "best": best}
    checkpoints.write_state(folder, 2, state["scalars"], position, state["metrics"])
    with pytest.raises(UserError, match="best step that is impossible"):
        measured(Measures(), steps=4)


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
