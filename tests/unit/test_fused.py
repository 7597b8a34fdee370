"""The fused operations within models: the same names and numbers, and none where they were not built."""

import copy
import dataclasses
import json
import logging

import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import save_file

from conversion.agreement import cases
from ms_bert import framework, kernels
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS
from ms_bert.device import use_device
from ms_bert.heads import BertForSequenceClassification
from ms_bert.kernels import native
from ms_bert.model import BertEncoder, BertLayer, BertModel, Numerics, initialize
from ms_bert.options import ExampleOptions, MindSporeOptions, Options, RunOptions, TrainingOptions
from ms_bert.pretrained import load
from ms_bert.training.trainer import MindSporeTrainer
from tests.cases import some

pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    vocab_size=90,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=80,
    max_position_embeddings=32,
)
needs_kernels = pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}")


@pytest.fixture
def batch():
    return cases.make_batch(CONFIG, ((20,), (31, 1), (9, 12, 3), (2,)), 32)


def options(kernels="fused", **changes):
    training = TrainingOptions(batch_size=4, clip_norm=0.1, **changes)
    examples = ExampleOptions(seq_length=32, pack=cases.SEQUENCES)
    return Options(training=training, examples=examples, mindspore=MindSporeOptions(kernels=kernels))


@pytest.fixture
def not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "missing.so")


def built(kind=BertModel, config=CONFIG, **numerics):
    """A model with the weights of a seed."""
    model = kind(config, Numerics(**numerics))
    initialize(model, config, seed=1)
    return model


def real_difference(batch, one, other):
    """The largest difference of two (B * S, H), padding left out."""
    return np.abs(one.asnumpy() - other.asnumpy())[batch["sequence_ids"].reshape(-1) > 0].max()


@pytest.fixture
def inputs(batch):
    use_device("CPU")
    return [Tensor(batch[name]) for name in FIELDS[:5]]


@needs_kernels
@pytest.mark.parametrize("activation", some(["gelu", "gelu_new", "relu"], "gelu"))
def test_a_fused_model_has_the_same_names_and_gives_the_same(activation, inputs, batch):
    config = CONFIG.replace(hidden_act=activation)
    stock, fused = (built(config=config, kernels=kind) for kind in ("stock", "fused"))
    assert [p.name for p in stock.get_parameters()] == [p.name for p in fused.get_parameters()]
    hidden, pooled, _ = stock(*inputs)
    found, found_pooled, (_, layers) = fused(*inputs)
    assert 0 < real_difference(batch, found, hidden) < 3e-6
    assert np.abs(found_pooled.asnumpy() - pooled.asnumpy()).max() < 3e-6
    assert [layer[0] for layer in layers] == [(), ()]  # no probabilities


class Louder(BertLayer):
    """A user's own layer, which computes twice what it should."""

    def construct(self, hidden_states, sequence_ids, dropout_keys, positions=None):
        attended, probabilities = self.attention(hidden_states, sequence_ids, dropout_keys, positions)
        return 2.0 * self.output(self.intermediate(attended), attended, dropout_keys), (probabilities, attended)


class LouderEncoder(BertEncoder):
    def __init__(self, config, numerics):
        super().__init__(config, numerics)
        self.layer = nn.CellList([Louder(config, numerics, i) for i in range(config.num_hidden_layers)])


class LouderModel(BertModel):
    def __init__(self, config, numerics):
        super().__init__(config, numerics)
        self.encoder = LouderEncoder(config, numerics)


class OwnHead(BertForSequenceClassification):
    def __init__(self, config, numerics):
        super().__init__(config, numerics)
        self.bert = LouderModel(config, numerics)


@needs_kernels
def test_what_a_user_derives_computes_by_fused_operations_too(inputs, batch):
    """A layer, an encoder, a model and a head of one's own, each by the operations."""
    stock, fused = (built(OwnHead, kernels=kind) for kind in ("stock", "fused"))
    hidden, _, _ = stock.bert(*inputs)
    # Not the stock operations' bytes, and no probabilities, which the fused attention never forms.
    found, _, (_, layers) = fused.bert(*inputs)
    assert [layer[0] for layer in layers] == [(), ()]
    assert 0 < real_difference(batch, found, hidden) < 6e-6
    assert np.abs(fused(*inputs).asnumpy() - stock(*inputs).asnumpy()).max() < 3e-6
    # Every place takes its function from the operations: none is left that computes when they refuse.
    attention = fused.bert.encoder.layer[0].attention
    for place, name in (
        (fused.bert.embeddings.embed, "embed"),
        (attention.self.projections, "projections"),
        (attention.output.linear_dropout_add_norm, "linear_dropout_add_norm"),
    ):
        assert place is getattr(kernels.operations(kind="fused"), name)


@needs_kernels
def test_one_operation_can_be_changed_for_another(inputs):
    operations = kernels.operations(kind="fused")

    def halved(x):
        return 0.5 * operations.tanh(x)

    changed = dataclasses.replace(operations, tanh=halved)
    one, other = (built(kernels=kind)(*inputs)[1].asnumpy() for kind in (operations, changed))
    assert (0.5 * one == other).all()


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_loaded_model_computes_as_its_numerics_say_and_says_where_it_cannot(dtype, tmp_path, inputs, batch, caplog):
    model = built()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    save_file({p.name: p.asnumpy() for p in model.get_parameters()}, tmp_path / "model.safetensors")
    expected = model(*inputs)[0]
    fused = dtype == "float32"
    with caplog.at_level(logging.WARNING, logger="ms_bert"):
        loaded = load(BertModel, tmp_path, Numerics(dtype=dtype, kernels="fused"))
    why = (
        "computed by stock kernels (not by the faster fused ones: they compute on the CPU, in float32 or bfloat16 only)"
    )
    assert (why in caplog.text) != fused
    found, _, (_, layers) = loaded(*inputs)
    assert (layers[0][0] == ()) == fused
    assert real_difference(batch, found, expected) < (3e-6 if fused else 3e-2)


@needs_kernels
def test_integers_of_another_type_are_the_same_numbers(batch):
    """A Tensor of a list has int64; a kernel that took its halves for int32 would compute with other tokens."""
    use_device("CPU")
    model = built(kernels="fused")
    one, other = (model(*[Tensor(batch[n].astype(t)) for n in FIELDS[:5]])[0].asnumpy() for t in (np.int32, np.int64))
    assert one.tobytes() == other.tobytes()


@pytest.mark.full  # both against the oracle: tests/parity/test_agreement.py
@needs_kernels
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "adam-weight-decay", "lamb"])
def test_fused_and_stock_steps_train_alike(optimizer, accumulate, batch):
    use_device("CPU")
    trainers = [
        MindSporeTrainer(CONFIG, options(k, optimizer=optimizer, accumulate=accumulate)) for k in ("fused", "stock")
    ]
    for step in range(3):
        one, other = (trainer.train_step(batch, step, 1e-2) for trainer in trainers)
        assert one.sums == pytest.approx(other.sums, rel=2e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=2e-4)
    (weights, moments, scalars), (expected, _, _) = (trainer.state() for trainer in trainers)
    assert scalars["updates"] == 3
    moved = 3e-2  # three updates of nearly the rate each
    assert max(np.abs(value - expected[name]).max() for name, value in weights.items()) < 0.02 * moved
    assert all(np.isfinite(value).all() for value in moments.values())


@needs_kernels
def test_a_step_gives_the_same_bytes_whatever_the_threads(batch):
    use_device("CPU")
    trainer = MindSporeTrainer(CONFIG, options())
    first, states = copy.deepcopy(trainer.state()), []
    for threads in (1, 2, 3):
        native.set_threads(threads)
        trainer.load(*first)
        trainer.train_step(batch, 0, 1e-2)
        states.append({name: value.tobytes() for name, value in trainer.state()[0].items()})
    native.set_threads(0)
    # MindSpore's own operations in the step have no part that depends on the threads either.
    assert states[0] == states[1] == states[2]


def test_without_the_library_stock_operations_train_and_it_is_said(not_built, batch):
    use_device("CPU")
    assert native.why_not() == "they were not built when this package was installed"
    assert kernels.why_not_fused("CPU", "float32") == native.why_not()
    trainer = MindSporeTrainer(CONFIG, options("fused"))
    assert trainer.model.bert.numerics.operations.probabilities
    assert trainer.train_step(batch, 0, 1e-3).gradient_norm > 0
    told = framework.MindSpore().kernels(options("fused"))
    assert told == "stock kernels (not by the faster fused ones: they were not built when this package was installed)"
    told = framework.MindSpore().kernels(options("fused", precision="bfloat16"))
    assert told.startswith("stock kernels (not in bfloat16 by the fused ones: they were not built")


def test_a_library_that_cannot_be_loaded_is_none(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(native, "LIBRARY", broken)
    native.library.cache_clear()
    assert native.why_not() == "broken.so cannot be loaded here"
    native.library.cache_clear()


@needs_kernels
@pytest.mark.parametrize("gain", [None, 0.5])
def test_where_products_in_bfloat16_are_no_gain_those_in_float32_are_used_and_it_is_said(gain, monkeypatch):
    if gain is None:
        native.use("baseline", "bfloat16")
        why = "this processor, or the compiler that built them, has no products in bfloat16 (amx_bf16 or avx512_bf16)"
    else:
        monkeypatch.setattr(native, "instructions", lambda precision="float32": f"those of {precision}")
        monkeypatch.setattr(native, "gain", lambda precision: gain)
        why = "products in bfloat16 are 0.50 times as fast as in float32 on this processor"
    try:
        told = framework.MindSpore().kernels(options("fused", precision="bfloat16"))
        assert told == f"fused kernels ({native.instructions()}) (with products in float32: {why})"
    finally:
        next(name for name in native.INSTRUCTIONS["bfloat16"] if native.use(name, "bfloat16"))


@needs_kernels
def test_what_computes_is_told():
    tell = framework.MindSpore().kernels
    assert tell(options("fused")) == f"fused kernels ({native.instructions()})"
    assert tell(options("stock")) == "stock kernels"
    where = "(not by the faster fused ones: they compute on the CPU, in float32 or bfloat16 only)"
    assert tell(options("fused", precision="float16")) == f"stock kernels {where}"
    for device in ("GPU", "Ascend"):
        assert tell(Options(run=RunOptions(device=device))) == f"stock kernels {where}"
    half = Options(training=TrainingOptions(precision="float16"), run=RunOptions(device="Ascend"))
    assert tell(half) == f"stock kernels, its fused attention among them {where}"
    half = dataclasses.replace(half, mindspore=MindSporeOptions(kernels="stock"))
    assert tell(half) == "stock kernels, its fused attention among them"
