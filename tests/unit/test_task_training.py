"""How PyTorch trains the tasks, where the agreement, which has no dropout, does not look: `test_twins` holds MindSpore
to the same."""

import contextlib
import dataclasses
import types

import pytest
import torch

from conversion.agreement.tasks import suite
from conversion.agreement.tasks.cases import PROBLEMS
from ms_bert.finetuning_options import FinetuneOptions, FinetuningOptions
from pt_reference.model import BertLayer
from pt_reference.training.trainer import TorchTrainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
IN_THE_HEAD = [name for name, one in PROBLEMS.items() if one.task.architecture != "BertForQuestionAnswering"]


def losses(config, options, task, batch) -> tuple[list[float], list[float]]:
    """Of three steps that learn nothing, and of two evaluations."""
    trainer = TorchTrainer(config, options, task)
    steps = [trainer.train_step(batch, step, 0.0).sums["loss"] for step in range(3)]
    return steps, [trainer.evaluate(batch)[0]["loss"] for _ in range(2)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_step_drops_other_units_and_an_evaluation_none(name):
    config, options, task = suite.options_of(PROBLEMS[name])
    batch = PROBLEMS[name].batch(PROBLEMS[name].sequences())
    steps, evaluated = losses(config, options, task, batch)
    assert len({*steps}) == 1 and steps[0] == pytest.approx(evaluated[0], rel=1e-5)  # without dropout
    dropped, still = losses(config.with_dropout(0.5), options, task, batch)
    assert len({*dropped}) == 3 and still == evaluated


@pytest.mark.parametrize("name", IN_THE_HEAD)
def test_a_head_has_a_dropout_of_its_own(name):
    config, options, task = suite.options_of(PROBLEMS[name])
    batch = PROBLEMS[name].batch(PROBLEMS[name].sequences())
    dropped, still = losses(config.replace(classifier_dropout=0.5), options, task, batch)
    assert len({*dropped}) == 3 and still == losses(config, options, task, batch)[1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_torch_captures_each_loss_in_one_graph(name, monkeypatch):
    """With nothing in it that depends on the data, which --compile would leave to Python."""
    config, options, task = suite.options_of(PROBLEMS[name])
    batch = PROBLEMS[name].batch(PROBLEMS[name].sequences())
    plain = TorchTrainer(config, options, task).train_step(batch, 0, 0.0)
    graphs = []

    def counted(module, inputs):
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    trainer = TorchTrainer(config, options, task)
    trainer.loss = torch.compile(trainer.evaluation, backend=counted, fullgraph=True, dynamic=False)
    captured = trainer.train_step(batch, 0, 0.0)
    assert len(graphs) == 1 and captured.sums == pytest.approx(plain.sums, rel=1e-6)
    assert captured.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-5)
    torch._dynamo.reset()


@contextlib.contextmanager
def layers_counted(trainer):
    """How often a layer is computed."""
    calls = []
    layers = [module for module in trainer.model.modules() if isinstance(module, BertLayer)]
    forwards = [layer.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in layers]
    yield calls, len(layers)
    for hook in forwards:
        hook.remove()


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_are_computed_again_for_the_gradient_where_asked_for(recompute):
    config, _, task = suite.options_of(PROBLEMS["classification"])
    batch = PROBLEMS["classification"].batch(PROBLEMS["classification"].sequences())
    training = FinetuningOptions(steps=1, batch_size=8, recompute=recompute)
    trainer = TorchTrainer(config, FinetuneOptions(training=training), task)
    with layers_counted(trainer) as (calls, layers):
        trainer.train_step(batch, 0, 0.0)
    assert len(calls) == layers * (2 if recompute else 1)


def test_on_a_gpu_each_leaf_of_each_step_draws_its_own_dropout(monkeypatch):
    in_two = dataclasses.replace(PROBLEMS["classification"], parts=2)
    config, _, task = suite.options_of(in_two)
    batch = in_two.batch(in_two.sequences())
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)

    def trained(seed: int) -> list[int]:
        training = FinetuningOptions(steps=1, batch_size=8, leaves=2, seed=seed)
        trainer = TorchTrainer(config, FinetuneOptions(training=training), task)
        trainer.device = types.SimpleNamespace(type="cuda")
        trainer._tensor = torch.from_numpy
        seeds.clear()
        for step in (0, 1):
            trainer.train_step(batch, step, 0.0)
        return [*seeds]

    first = trained(1)
    assert len(first) == 4 == len({*first})
    assert trained(1) == first and not {*trained(2)} & {*first}


def test_a_layer_has_its_share_of_the_rate():
    names = [f"bert.embeddings.{name}" for name in ("word_embeddings.weight", "LayerNorm.weight")]
    names += [f"bert.encoder.layer.{layer}.output.dense.weight" for layer in (0, 1)]
    names += ["bert.pooler.dense.weight", "classifier.weight"]
    decayed = FinetuningOptions(layer_decay=0.5)
    assert [decayed.rate_share(name, 2) for name in names] == [0.25, 0.25, 0.5, 1.0, 1.0, 1.0]
    frozen = FinetuningOptions(layer_decay=0.5, frozen_layers=1)
    assert [frozen.rate_share(name, 2) for name in names] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
