"""The fused operations within models: the same names and numbers, and none where they were not built."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from conversion.agreement import cases
from ms_bert import fused, pretrain
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS
from ms_bert.device import use_device
from ms_bert.kernels import native, sublayers
from ms_bert.model import BertModel, Linear, Numerics, initialize
from ms_bert.model import BertSelfAttention as PlainAttention
from ms_bert.options import ExampleOptions, MindSporeOptions, Options, RunOptions, TrainingOptions
from ms_bert.pretrained import load
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.training.trainer import MindSporeTrainer

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


@needs_kernels
def test_a_fused_model_has_the_same_names_and_gives_the_same(batch):
    use_device("CPU")
    stock, other = (BertModel(CONFIG, Numerics()) for _ in range(2))
    names = [p.name for p in other.get_parameters()]
    for one in (stock, other):
        initialize(one, CONFIG, seed=1)
    assert fused.fuse(other) is other and [p.name for p in other.get_parameters()] == names
    fused.fuse(other)  # twice is once
    inputs = [Tensor(batch[name]) for name in FIELDS[:5]]
    expected, found = (one(*inputs)[0].asnumpy() for one in (stock, other))
    real = batch["sequence_ids"].reshape(-1) > 0
    assert np.abs(found - expected)[real].max() < 3e-6
    assert all(issubclass(cell, plain) for plain, cell in fused.FUSED.items())


@needs_kernels
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_a_model_fused_for_inference_gives_the_same_and_no_intermediates(activation, batch):
    use_device("CPU")
    config = CONFIG.replace(hidden_act=activation)
    stock, other = (BertModel(config, Numerics()) for _ in range(2))
    for one in (stock, other):
        initialize(one, config, seed=1)
    names = [p.name for p in other.get_parameters()]
    fused.fuse(other, inference=True)
    assert [p.name for p in other.get_parameters()] == names
    inputs = [Tensor(batch[name]) for name in FIELDS[:5]]
    expected, (found, pooled, (_, layers)) = stock(*inputs), other(*inputs)
    real = batch["sequence_ids"].reshape(-1) > 0
    assert np.abs(found.asnumpy() - expected[0].asnumpy())[real].max() < 3e-6
    assert np.abs(pooled.asnumpy() - expected[1].asnumpy()).max() < 3e-6
    assert layers == ()


@needs_kernels
def test_a_model_fused_for_inference_refuses_gradients(batch):
    use_device("CPU")
    model = BertModel(CONFIG, Numerics())
    initialize(model, CONFIG, seed=1)
    fused.fuse(model, inference=True)

    def total(*inputs):
        return model(*inputs)[0].sum()

    gradients = ms.value_and_grad(total, None, weights=model.trainable_params())
    inputs = [Tensor(batch[name]) for name in FIELDS[:5]]
    with pytest.raises(RuntimeError, match="fused for inference has no gradients"):
        gradients(*inputs)
    keys = dropout_keys(1, 0, batch["input_ids"].size, DropoutColumns(CONFIG).total)
    with pytest.raises(ValueError, match="fused for inference has no dropout"):
        model(*inputs, tuple(map(Tensor, keys)))


@needs_kernels
def test_a_loaded_model_is_fused_as_its_numerics_say(tmp_path, batch):
    use_device("CPU")
    model = BertModel(CONFIG, Numerics())
    initialize(model, CONFIG, seed=1)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    weights = {p.name: p.asnumpy() for p in model.get_parameters()}
    save_file(weights, tmp_path / "model.safetensors")
    inputs = [Tensor(batch[name]) for name in FIELDS[:5]]
    expected = model(*inputs)[0].asnumpy()
    real = batch["sequence_ids"].reshape(-1) > 0
    for dtype, inference, kind in (
        ("float32", False, fused.BertSelfAttention),
        ("float32", True, fused.BertSelfAttention),
        ("float16", True, PlainAttention),
    ):
        loaded = load(BertModel, tmp_path, Numerics(dtype=dtype), fused=True, inference=inference)
        layer = loaded.encoder.layer[0]
        assert type(layer.attention.self) is kind
        assert isinstance(layer, fused.BertLayer) == (inference and dtype == "float32")
        found = loaded(*inputs)[0].asnumpy()
        assert np.abs(found - expected)[real].max() < (3e-6 if dtype == "float32" else 3e-2)


@needs_kernels
@pytest.mark.parametrize("inference", [False, True])
def test_integers_of_another_type_are_the_same_numbers(inference, batch):
    """A Tensor of a list has int64; a kernel that took its halves for int32 would compute with other tokens."""
    use_device("CPU")
    model = BertModel(CONFIG, Numerics())
    initialize(model, CONFIG, seed=1)
    fused.fuse(model, inference)
    one, other = (model(*[Tensor(batch[n].astype(t)) for n in FIELDS[:5]])[0].asnumpy() for t in (np.int32, np.int64))
    assert one.tobytes() == other.tobytes()


def test_what_holds_no_bert_is_not_fused():
    with pytest.raises(ValueError, match="Linear holds no BertModel"):
        fused.fuse(Linear(2, 3))


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
    states = []
    for threads in (1, 2, 3):
        native.set_threads(threads)
        trainer = MindSporeTrainer(CONFIG, options())
        trainer.train_step(batch, 0, 1e-2)
        states.append({name: value.tobytes() for name, value in trainer.state()[0].items()})
    native.set_threads(0)
    # MindSpore's own operations in the step have no part that depends on the threads either.
    assert states[0] == states[1] == states[2]


def test_without_the_library_stock_operations_train_and_it_is_said(not_built, batch):
    use_device("CPU")
    assert native.why_not() == "they were not built when this package was installed"
    assert sublayers("CPU", "float32") is None
    trainer = MindSporeTrainer(CONFIG, options("fused"))
    assert not any(type(cell) in fused.FUSED.values() for _, cell in trainer.model.cells_and_names())
    assert trainer.train_step(batch, 0, 1e-3).gradient_norm > 0
    told = pretrain.MindSpore().kernels(options("fused"))
    assert told == "stock kernels (not by the faster fused ones: they were not built when this package was installed)"


def test_a_library_that_cannot_be_loaded_is_none(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(native, "LIBRARY", broken)
    native._library.cache_clear()
    assert native.why_not() == "broken.so cannot be loaded here"
    native._library.cache_clear()


@needs_kernels
def test_what_computes_is_told():
    tell = pretrain.MindSpore().kernels
    assert tell(options("fused")) == f"fused kernels ({native.instructions()})"
    assert tell(options("stock")) == "stock kernels" == tell(options("fused", precision="float16"))
    for device in ("GPU", "Ascend"):
        assert sublayers(device, "float32") is None and sublayers("CPU", "float16") is None
        assert tell(Options(run=RunOptions(device=device))) == "stock kernels"
    half = Options(training=TrainingOptions(precision="float16"), run=RunOptions(device="Ascend"))
    assert tell(half) == "stock kernels, its fused attention among them"
