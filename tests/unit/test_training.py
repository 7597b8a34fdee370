"""The compiled step: losses, gradients, clipping, optimizers, loss scaling, accumulation, and its Ascend form."""

import copy
import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_bert import kernels
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, BatchMaker
from ms_bert.device import use_device
from ms_bert.errors import UserError
from ms_bert.framework import MindSpore
from ms_bert.options import ExampleOptions, ModelOptions, Options, RunOptions, TrainingOptions
from ms_bert.run.leaves import own_rows
from ms_bert.run.recipe import is_decayed, learning_rate
from ms_bert.training.exchange import Whole
from ms_bert.training.optimizers import OPTIMIZERS
from ms_bert.training.trainer import MindSporeTrainer
from tests.cases import some

pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
EXAMPLES = ExampleOptions(seq_length=32)


@pytest.fixture(scope="module", autouse=True)
def cpu():
    use_device("CPU")


def options(**training) -> Options:
    training = {"batch_size": 8, "warmup_steps": 2, "steps": 10, "clip_norm": 0.5, **training}
    return Options(examples=EXAMPLES, training=TrainingOptions(**training), run=RunOptions(), model=ModelOptions())


def trainer(config=CONFIG, **training) -> MindSporeTrainer:
    return MindSporeTrainer(config, options(**training))


@pytest.fixture(scope="module")
def batches(store, vocabulary):
    make = BatchMaker(store.train, vocabulary, EXAMPLES, 8, 1)
    return [make(step) for step in range(6)]


@pytest.fixture(scope="module")
def plain(batches):
    """A float32 trainer after three steps, and the results of these."""
    one = trainer()
    return one, [one.train_step(batches[step], step, 1e-3) for step in range(3)]


def weights(one: MindSporeTrainer) -> dict:
    return {name: value.copy() for name, value in one.state()[0].items()}


def largest_difference(a: dict, b: dict) -> float:
    return max(np.abs(a[name] - b[name]).max() for name in a)


def test_a_fresh_model_guesses_uniformly(plain):
    first = plain[1][0].sums
    assert first["masked_loss"] / first["masked_count"] == pytest.approx(math.log(600), abs=0.1)
    assert first["next_sentence_loss"] / first["next_sentence_count"] == pytest.approx(math.log(2), abs=0.05)
    assert first["next_sentence_count"] == 8


def test_the_loss_and_the_gradient_norm_equal_transformers(batches):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = CONFIG.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours = trainer(config)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**config.to_dict())).double()
    theirs.load_state_dict({k: torch.from_numpy(v).double() for k, v in weights(ours).items()}, strict=False)
    theirs.tie_weights()
    batch = batches[0]
    labels = np.full(batch["input_ids"].shape, -100)
    used = batch["masked_weights"] > 0
    rows = np.broadcast_to(np.arange(8)[:, None], used.shape)
    labels[rows[used], batch["masked_positions"][used]] = batch["masked_labels"][used]
    arrays = {
        "input_ids": batch["input_ids"],
        "token_type_ids": batch["token_type_ids"],
        "labels": labels,
        "attention_mask": batch["sequence_ids"],
        "next_sentence_label": batch["next_sentence_labels"][:, 0],
    }
    loss = theirs(**{k: torch.from_numpy(v).long() for k, v in arrays.items()}).loss
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in theirs.parameters()))
    result = ours.train_step(batch, 0, 1e-3)
    sums = result.sums
    assert sums["masked_loss"] / sums["masked_count"] + sums["next_sentence_loss"] / 8 == pytest.approx(
        loss.item(), rel=1e-5
    )
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_the_same_step_gives_the_same_bytes(plain, batches):
    again = trainer()
    results = [again.train_step(batches[step], step, 1e-3) for step in range(3)]
    assert results == plain[1]
    assert all((value == weights(plain[0])[name]).all() for name, value in weights(again).items())


def test_a_restored_trainer_goes_on_bit_for_bit(plain, batches):
    one, _ = plain
    other = trainer(seed=99)
    other.load(*one.state())
    other.training = one.training  # the seed of the dropout keys
    saved = copy.deepcopy(one.state())
    expected = one.train_step(batches[3], 3, 1e-3)
    after = weights(one)
    one.load(*saved)
    assert other.train_step(batches[3], 3, 1e-3) == expected
    assert all((value == after[name]).all() for name, value in weights(other).items())
    assert saved[2]["updates"] == 3


def test_a_batch_in_parts_gives_the_same_update(plain, batches):
    one, results = plain
    parts = trainer(accumulate=4)
    for step in range(3):
        result = parts.train_step(batches[step], step, 1e-3)
        assert result.gradient_norm == pytest.approx(results[step].gradient_norm, rel=1e-4)
        assert result.sums["masked_loss"] == pytest.approx(results[step].sums["masked_loss"], rel=1e-5)
    assert largest_difference(weights(parts), weights(one)) < 2e-5


@pytest.mark.full
def test_leaves_in_parts_add_up_to_the_same_update(batches):
    """Three ways to sum the same gradients, with one, two and three levels of buffers; each leaf drops other units."""
    config = CONFIG.with_dropout(0.0)
    one = trainer(config)
    results = [one.train_step(batches[step], step, 1e-3) for step in range(3)]
    for options in ({"leaves": 2, "accumulate": 2}, {"leaves": 4}, {"leaves": 8}):
        made = trainer(config, **options)
        for step in range(3):
            result = made.train_step(batches[step], step, 1e-3)
            assert result.gradient_norm == pytest.approx(results[step].gradient_norm, rel=1e-4)
            assert result.sums == pytest.approx(results[step].sums, rel=1e-5)
        assert largest_difference(weights(made), weights(one)) < 2e-5


def _is_recomputed(one) -> bool:
    """Whether MindSpore is told to compute the layers again for the gradient."""
    (told,) = {"recompute" in (layer.get_scope() or "") for layer in one.model.bert.encoder.layer}
    return told


def test_recomputation_changes_no_number(plain, batches):
    again = trainer(recompute=True)
    assert [_is_recomputed(one) for one in (again, plain[0])] == [True, False]
    for step in range(3):
        result = again.train_step(batches[step], step, 1e-3)
        assert result.gradient_norm == pytest.approx(plain[1][step].gradient_norm, rel=1e-5)
    assert largest_difference(weights(again), weights(plain[0])) < 1e-5


def test_evaluation_has_no_dropout_and_learns_nothing(plain, batches):
    one, _ = plain
    before = weights(one)
    (first, outputs), second = one.evaluate(batches[4]), one.evaluate(batches[4])
    assert (first, outputs) == second and not outputs and largest_difference(before, weights(one)) == 0
    assert first["masked_count"] == batches[4]["masked_weights"].sum()


def test_without_nsp_its_loss_is_out(store, vocabulary):
    make = BatchMaker(store.train, vocabulary, dataclasses.replace(EXAMPLES, nsp=False), 8, 1)
    one = trainer()
    before = weights(one)["cls.seq_relationship.weight"]
    sums = one.train_step(make(0), 0, 1e-3).sums
    assert sums["next_sentence_count"] == sums["next_sentence_loss"] == 0
    # Only the weight decay of one update at this rate touches the head.
    assert np.allclose(weights(one)["cls.seq_relationship.weight"], before * (1 - 1e-3 * 0.01), atol=1e-9)


@pytest.mark.full
def test_a_stack_as_deep_as_bert_large_compiles(batches):
    # The compiler's recursion limit was once exceeded by the number of parameters, not by any small model.
    deep = CONFIG.replace(num_hidden_layers=24, hidden_size=16, intermediate_size=16)
    assert trainer(deep).train_step(batches[0], 0, 1e-3).sums["masked_count"] > 0


# Half precision


@pytest.fixture(scope="module")
def in_half_precision():
    one = trainer(precision="float16")
    return one, copy.deepcopy(one.state())


def begun(in_half_precision, **scalars) -> MindSporeTrainer:
    """The trainer in float16 as it was first, but for these scalars."""
    one, (model, moments, first) = in_half_precision
    one.load(model, moments, {**first, **scalars})
    return one


def test_an_overflow_skips_the_step_and_halves_the_scale_and_training_goes_on(in_half_precision, batches):
    scale = 2.0**40
    one = begun(in_half_precision, loss_scale=scale)
    before = weights(one)
    result = one.train_step(batches[0], 0, 1e-3)
    assert result.skipped and result.loss_scale == scale / 2 and not math.isfinite(result.gradient_norm)
    assert largest_difference(before, weights(one)) == 0 and not any(v.any() for v in one.state()[1].values())
    assert one.state()[2]["updates"] == 0
    model, moments, scalars = copy.deepcopy(one.state())
    one.load(model, moments, {**scalars, "loss_scale": 1024.0, "good_steps": 998})
    results = [one.train_step(batches[step], step, 1e-3) for step in (1, 2)]
    assert [r.skipped for r in results] == [False, False]
    assert [r.loss_scale for r in results] == [1024.0, 2048.0]
    assert largest_difference(before, weights(one)) > 1e-4
    assert one.state()[2] == {"updates": 2, "loss_scale": 2048.0, "good_steps": 0}


def test_an_overflow_is_skipped_as_long_as_a_smaller_scale_is_left_to_try(in_half_precision, batches):
    one = begun(in_half_precision, loss_scale=2.0)
    model, moments, scalars = copy.deepcopy(one.state())
    # So large in float16 that the gradients overflow whatever the scale.
    model = {
        name: np.full_like(value, 6e4) if name.endswith("dense.weight") else value for name, value in model.items()
    }
    one.load(model, moments, scalars)
    results = [one.train_step(batches[step], step, 1e-3) for step in range(2)]
    assert [(r.skipped, r.loss_scale) for r in results] == [(True, 1.0), (False, 1.0)]
    assert not any(math.isfinite(r.gradient_norm) for r in results)
    after = one.state()
    assert all(np.array_equal(after[0][name], value) for name, value in model.items()) and after[2]["updates"] == 0


def test_half_precision_follows_full_precision(in_half_precision, plain, batches):
    half = begun(in_half_precision)
    for step in range(3):
        result, expected = half.train_step(batches[step], step, 1e-3), plain[1][step]
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=0.02)
        assert result.sums["masked_loss"] == pytest.approx(expected.sums["masked_loss"], rel=2e-3)
    assert all(value.dtype == np.float32 for value in weights(half).values())


def test_what_the_cpu_cannot_do_is_refused():
    with pytest.raises(UserError, match="--precision bfloat16 on the CPU needs the fused kernels"):
        kernels.operations("CPU", "bfloat16", "stock")
    with pytest.raises(UserError, match="--precision float64 is not supported by MindSpore on CPU"):
        use_device("CPU", "float64")
    with pytest.raises(UserError, match="--recompute saves no memory on CPU"):
        use_device("CPU", recompute=True)


# Optimizers, against their formulas in float64


SHAPES = {"a.weight": (5, 3), "a.bias": (5,), "LayerNorm.weight": (3,)}
OPTION = TrainingOptions(weight_decay=0.1, beta1=0.8, beta2=0.95, epsilon=1e-3)


def updated(name: str, steps: int = 4):
    """Parameters before, the gradients, and the parameters after."""
    rng = np.random.default_rng(0)
    before = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
    gradients = [{k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()} for _ in range(steps)]
    parameters = [Parameter(Tensor(value), name=k) for k, value in before.items()]
    optimizer = OPTIMIZERS[name](Whole(parameters), dataclasses.replace(OPTION, optimizer=name), kernels.operations())

    class Step(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.optimizer = optimizer

        def construct(self, rate, *gradients):
            return self.optimizer(gradients, Tensor(1.0, ms.float32), rate, None)

    step = Step()
    for number, gradient in enumerate(gradients):
        step(Tensor(np.float32(0.1 / (1 + number))), *map(Tensor, gradient.values()))
    return before, gradients, {p.name: p.asnumpy() for p in parameters}


def test_adamw_is_torchs():
    torch = pytest.importorskip("torch")
    before, gradients, after = updated("adamw")
    values = {k: torch.nn.Parameter(torch.from_numpy(v).double()) for k, v in before.items()}
    groups = [{"params": [v], "weight_decay": 0.1 if is_decayed(k) else 0.0} for k, v in values.items()]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-3)
    for number, gradient in enumerate(gradients):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + number)
        for k, v in values.items():
            v.grad = torch.from_numpy(gradient[k]).double()
        optimizer.step()
    for k, v in values.items():
        assert np.abs(after[k] - v.detach().numpy()).max() < 1e-6


@pytest.mark.parametrize("name", ["adam-weight-decay", "lamb"])
def test_googles_optimizers_follow_their_formulas(name):
    before, gradients, after = updated(name)
    for k, p in before.items():
        p, m, v, decay = p.astype(np.float64), 0.0, 0.0, 0.1 if k == "a.weight" else 0.0
        for number, gradient in enumerate(gradients):
            g, t, rate = gradient[k].astype(np.float64), number + 1, 0.1 / (1 + number)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
            if name == "lamb":
                u = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3) + decay * p
                trust = np.linalg.norm(p) / np.linalg.norm(u) if decay else 1.0
            else:
                u, trust = m / (np.sqrt(v) + 1e-3) + decay * p, 1.0
            p = p - rate * trust * u
        assert np.abs(after[k] - p).max() < 1e-6


def test_biases_and_layer_norm_are_not_decayed():
    names = [
        "bert.encoder.layer.0.output.dense.weight",
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.output.dense.bias",
        "bert.embeddings.LayerNorm.weight",
        "cls.predictions.bias",
    ]
    assert list(map(is_decayed, names)) == [True, True, False, False, False]


@pytest.mark.parametrize("name", some(["adam-weight-decay", "lamb"], "lamb"))
def test_every_optimizer_trains_inside_the_step(name, batches):
    one = trainer(CONFIG.replace(num_hidden_layers=1), optimizer=name)
    losses = [one.train_step(batches[0], step, 5e-3).sums["masked_loss"] for step in range(12)]
    assert losses[-1] < losses[0] - 1


# Schedule


def test_the_learning_rate_rises_then_falls_to_nothing():
    linear = TrainingOptions(steps=10, warmup_steps=4, learning_rate=1.0)
    assert [round(learning_rate(linear, t), 6) for t in range(1, 12)] == [
        0.25,
        0.5,
        0.75,
        1.0,
        *(round((11 - t) / 7, 6) for t in range(5, 11)),
        0.0,
    ]
    square = dataclasses.replace(linear, decay_power=2.0, decay_steps=7, warmup_steps=0)
    assert learning_rate(square, 4) == pytest.approx((4 / 8) ** 2) and learning_rate(square, 8) == 0.0


def test_the_learning_rate_stays_where_the_schedule_has_a_plateau():
    constant = TrainingOptions(steps=10, warmup_steps=2, learning_rate=1.0, schedule="constant")
    assert [learning_rate(constant, t) for t in (1, 2, 3, 10, 99)] == [0.5, 1.0, 1.0, 1.0, 1.0]
    wsd = dataclasses.replace(constant, schedule="wsd", cooldown_steps=4)
    rates = [learning_rate(wsd, t) for t in range(1, 12)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    usual = dataclasses.replace(wsd, cooldown_steps=None)  # a fifth of the steps
    assert [learning_rate(usual, t) for t in (8, 9, 10, 11)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    # A cool-down that is longer than all steps begins after the warm-up: the schedule is linear.
    longest = dataclasses.replace(wsd, cooldown_steps=50)
    linear = dataclasses.replace(wsd, schedule="linear", cooldown_steps=None)
    assert [learning_rate(longest, t) for t in range(1, 12)] == [learning_rate(linear, t) for t in range(1, 12)]


# The Ascend form


def mindir(path):
    """What a MindIR file holds."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def operations(path) -> dict[str, int]:
    """How often each operation stands in a MindIR file."""
    model = mindir(path)
    counts: dict[str, int] = {}
    for graph in [model.graph, *model.functions]:
        for node in graph.node:
            kind = node.op_type.removeprefix("REF::").split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
    return counts


@pytest.mark.parametrize("precision", some(["float16", "bfloat16"], "float16"))
def test_the_ascend_training_graph_is_built_on_a_cpu_host_with_its_fused_attention(tmp_path, batches, precision):
    # 16-wide heads and 16 | S, as flash attention asks for.
    ascend = dataclasses.replace(options(precision=precision, recompute=True), run=RunOptions(device="Ascend"))
    one = MindSporeTrainer(CONFIG, ascend)
    ms.export(
        one.step,
        *one.step_inputs(one.leaves(batches[0], 0)[0][0], 1e-3),
        file_name=str(tmp_path / "step"),
        file_format="MINDIR",
    )
    found = operations(tmp_path / "step.mindir")
    assert found["FlashAttentionScore"] >= 2 and found["FlashAttentionScoreGrad"] == 2
    assert found["DropoutGenMaskExt"] >= 2 and found["AdamWeightDecay"] == len(list(one.model.get_parameters()))
    assert "Softmax" not in found and "BatchMatMul" not in found  # no attention by stock operations is left
    assert found["Erf"] >= 3 and found["MatMul"] > 3 * 14
    assert ("IsFinite" in found) == (precision == "float16")  # of the skipped step
    assert set(FIELDS) == set(batches[0])


@pytest.mark.parametrize("reduction", ["tree", "vendor"])
def test_the_ascend_graph_of_a_worker_holds_the_collectives_of_hccl(tmp_path, batches, monkeypatch, reduction):
    class ThirdOfFour:
        rank, count, pairs = 2, 4, ["pair-2-3", "pair-0-2"]

        def gather(self, array):
            return np.stack([array] * 4)

    # MindSpore takes the number of workers from here as long as no backend is initialised, which needs a device.
    monkeypatch.setenv("RANK_SIZE", "4")
    ascend = options(precision="float16", leaves=4, reduction=reduction)
    ascend = dataclasses.replace(ascend, run=RunOptions(device="Ascend"))
    one = MindSporeTrainer(CONFIG, ascend, workers=ThirdOfFour())
    assert one.in_one_graph
    part = one.leaves(own_rows(batches[0], ThirdOfFour()), 0)[0][0]
    assert len(part.batch["input_ids"]) == 2  # of the eight rows
    step = str(tmp_path / "step")
    ms.export(one.step, *one.step_inputs(part, 1e-3), file_name=step, file_format="MINDIR")
    found = operations(tmp_path / "step.mindir")
    buckets = len(one.update.exchange.shards.buckets)
    assert found["FlashAttentionScoreGrad"] == 2
    assert found["AllReduce"] == buckets * (2 if reduction == "tree" else 1)
    assert found["AllGather"] == buckets + 1  # what was updated, and the norms of the tiles
    groups = {
        (primitive.op_type, attribute.s.decode())
        for primitive in mindir(tmp_path / "step.mindir").primitives
        for attribute in primitive.attribute
        if attribute.name == "group" and primitive.op_type in ("AllReduce", "AllGather")
    }
    world = "hccl_world_group"
    reduced = {("AllReduce", pair) for pair in ThirdOfFour.pairs} if reduction == "tree" else {("AllReduce", world)}
    assert groups == {("AllGather", world)} | reduced


def test_ascend_in_float32_falls_back_to_stock_attention():
    for device, dtype in (("Ascend", "float32"), ("CPU", "float16")):
        assert kernels.operations(device, dtype).probabilities and not kernels.operations(device, dtype).own_dropout
    ascend = kernels.operations("Ascend", "bfloat16")
    assert ascend.own_dropout and not ascend.probabilities


def test_sizes_that_ascends_attention_lacks_are_refused():
    ascend = dataclasses.replace(options(precision="float16"), run=RunOptions(device="Ascend"))
    for heads, rows, found in ((4, (32,), "8 and 32"), (2, (112, 100), "16 and 100")):
        config = CONFIG.replace(num_attention_heads=heads)
        with pytest.raises(UserError, match=f"multiples of 16, found {found}"):
            MindSpore().check_rows(ascend, config, rows)
