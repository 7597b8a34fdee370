"""The fine-tuning tasks agree with an oracle that shares no code with them, and whatever is planted in one is found."""

import functools

import mindspore as ms
import numpy as np
import pytest

from conversion.agreement.findings import worst
from conversion.agreement.tasks import answers, suite
from conversion.agreement.tasks.answer_faults import ANSWER_FAULTS
from conversion.agreement.tasks.cases import PROBLEMS
from conversion.agreement.tasks.faults import FAULTS
from conversion.agreement.tasks.oracle import Oracle
from ms_bert.device import use_device
from ms_bert.tasks.registry import KINDS
from ms_bert.training.losses import OBJECTIVES
from ms_bert.training.trainer import MindSporeTrainer
from pt_reference.training.trainer import TorchTrainer
from tests.parity.test_agreement import assert_agree

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# In MindSpore, where each is a graph to compile: every model and every way to a loss, for a distilled one is that of
# the labels beside that of the teacher. Candidates of answers are classified as texts are.
COMPILED = ["classification of the mean", "question-answering"]
COMPILED += [name for name in PROBLEMS if name.startswith("distilled") and not name.endswith("answer-selection")]
FAULTS_OF_DATA = [name for name, fault in FAULTS.items() if fault.is_of_data and fault.problem in COMPILED]


oracle = functools.cache(lambda name: Oracle(PROBLEMS[name]))


class InMindSpore(MindSporeTrainer):
    """Evaluates operation by operation, which spares a compilation."""

    def evaluate(self, batch):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        try:
            return super().evaluate(batch)
        finally:
            ms.set_context(mode=ms.GRAPH_MODE)


@functools.cache
def mindspore(name: str) -> InMindSpore:
    use_device("CPU")
    return InMindSpore(*suite.options_of(PROBLEMS[name]))


def computed(trainer, name: str, given) -> dict:
    return suite.computed(trainer, PROBLEMS[name], oracle(name).problem, *given)


@functools.cache
def in_torch(name: str) -> dict:
    labelled = PROBLEMS[name]
    sequences = labelled.sequences()
    return computed(TorchTrainer(*suite.options_of(labelled)), name, (sequences, labelled.batch(sequences)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_logits_loss_gradients_and_step_of_pytorch_agree_with_the_oracle(name):
    assert_agree(suite.judged(name, "PyTorch", in_torch(name), oracle(name).exact))


@pytest.mark.parametrize("name", COMPILED)
def test_logits_loss_gradients_and_step_of_mindspore_agree_with_the_oracle(name):
    sequences = PROBLEMS[name].sequences()
    found = computed(mindspore(name), name, (sequences, PROBLEMS[name].batch(sequences)))
    assert_agree(suite.judged(name, "MindSpore", found, oracle(name).exact, in_torch(name)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_answers_and_scores_are_those_of_the_oracle(name):
    labelled = PROBLEMS[name]
    sequences = labelled.sequences()
    logits = answers.logits_of(labelled, sequences)
    told = answers.found(labelled.task, sequences, logits)
    assert not list(answers.differences(told, answers.expected(labelled, logits)))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_learning_is_found(name):
    fault, exact = FAULTS[name], oracle(FAULTS[name].problem).exact
    labelled = PROBLEMS[fault.problem]
    trainer = TorchTrainer(*suite.options_of(labelled), objective=fault.objective(labelled))
    found = suite.judged(name, "PyTorch", computed(trainer, fault.problem, fault.given(labelled)), exact)
    assert worst(found).share > 1000, worst(found)


@pytest.mark.parametrize("name", FAULTS_OF_DATA)
def test_a_fault_of_the_data_is_found_in_mindspore(name):
    fault, problem = FAULTS[name], FAULTS[name].problem
    found = computed(mindspore(problem), problem, fault.given(PROBLEMS[problem]))
    judged = suite.judged(name, "MindSpore", found, oracle(problem).exact, in_torch(problem))
    assert worst(judged).share > 1000, worst(judged)


@pytest.mark.parametrize("name", ANSWER_FAULTS)
def test_a_fault_of_answers_or_scores_is_found(name):
    assert ANSWER_FAULTS[name].differences()


def test_every_task_is_learned_and_answered_and_has_faults_of_both():
    assert {labelled.task.name for labelled in PROBLEMS.values()} == set(KINDS)
    for planted in (FAULTS, ANSWER_FAULTS):
        assert {PROBLEMS[fault.problem].task.name for fault in planted.values()} == set(KINDS)
    assert len(FAULTS) + len(ANSWER_FAULTS) >= 50


def test_the_problems_can_expose_faults():
    """Rows hold several sequences and padding; every parameter has a gradient but what a softmax does not see."""
    for name, labelled in PROBLEMS.items():
        sequences = labelled.sequences()
        batch = labelled.batch(sequences)
        assert (batch["sequence_ids"].max(1) > 1).any() and (batch["sequence_ids"] == 0).any(), name
        assert len(set(sequences.lengths)) > 2, name
        assert oracle(name).exact["gradients"]["global norm"] > labelled.options.training.clip_norm, name
        vanishing = {key for key, value in oracle(name).exact["gradients"].items() if np.abs(value).max() < 1e-12}
        unseen = {
            "question-answering": {"qa_outputs.bias", "bert.encoder.layer.0.output.LayerNorm.bias"},
            "multiple-choice": {"classifier.bias"},
        }
        keys = {f"bert.encoder.layer.{layer}.attention.self.key.bias" for layer in range(labelled.layers)}
        expected = unseen.get(labelled.task.name, set()) | keys
        assert vanishing == expected, name


def test_mindspore_computes_every_loss():
    tasks = {PROBLEMS[name].task.name for name in COMPILED}
    assert {OBJECTIVES[name].loss for name in KINDS} == {OBJECTIVES[name].loss for name in tasks}
