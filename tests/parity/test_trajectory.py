"""Two hundred steps of training drift from the oracle's no faster in MindSpore than in PyTorch."""

import dataclasses

import pytest

from conversion.agreement import faults, trajectories
from conversion.agreement.figures import ORACLE
from conversion.agreement.in_mindspore import MindSpore, in_graph_mode
from ms_bert.config import BertConfig
from ms_bert.data.batches import BatchMaker
from ms_bert.kernels import native
from ms_bert.options import ExampleOptions, Options, TrainingOptions

CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
OPTIONS = Options(
    examples=ExampleOptions(seq_length=32),
    training=TrainingOptions(batch_size=8, steps=200, warmup_steps=20, learning_rate=2e-3),
)


@pytest.fixture(scope="module")
def make(store, vocabulary):
    return BatchMaker(store.train, vocabulary, OPTIONS.examples, OPTIONS.training.batch_size, seed=1)


class TooMuchDecay(MindSpore):
    """A contender with a fault that no curve shows to the eye: the weight decay is a tenth too strong."""

    def __init__(self):
        super().__init__()
        self.name = "MindSpore with a fault"

    def trainer(self, problem, options):
        training = dataclasses.replace(options.training, weight_decay=1.1 * options.training.weight_decay)
        return super().trainer(problem, dataclasses.replace(options, training=training))


@pytest.fixture(scope="module")
def trained(make):
    return trajectories.compare([*in_graph_mode("CPU", "float32"), TooMuchDecay()], CONFIG, OPTIONS, make)


def test_two_hundred_steps_drift_no_faster_than_pytorchs(trained):
    curves, findings = trained
    findings = [finding for finding in findings if finding.contender != "MindSpore with a fault"]
    assert all(finding.agrees for finding in findings), "\n".join(map(str, findings))
    contenders = ["PyTorch", "MindSpore", *(["MindSpore fused"] if native.why_not() is None else [])]
    expected = [(contender, name) for contender in contenders for name in ("losses", "change of all weights")]
    assert [(finding.contender, finding.name) for finding in findings] == expected
    assert len(curves.losses[ORACLE]) == 200 and curves.losses[ORACLE][-1] < curves.losses[ORACLE][0] - 0.5


def test_a_fault_too_small_for_the_eye_is_caught_by_the_drift(trained):
    findings = [finding for finding in trained[1] if finding.contender == "MindSpore with a fault"]
    assert len(findings) == 2 and not all(finding.agrees for finding in findings)


@pytest.mark.full
def test_a_fault_of_the_optimizer_bends_the_curve(make):
    options = dataclasses.replace(OPTIONS, training=dataclasses.replace(OPTIONS.training, steps=30))
    faulty = faults.Faulty(MindSpore(), faults.FAULTS["bias-correction-off"])
    _, findings = trajectories.compare([faulty], CONFIG, options, make)
    beyond = {finding.name for finding in findings if not finding.agrees}
    assert beyond == {"losses", "change of all weights"}
