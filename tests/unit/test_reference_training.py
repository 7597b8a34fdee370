"""The PyTorch step: it does what MindSpore's does on the same batches, and what torch does by other ways."""

import copy
import math
import sys

import numpy as np
import pytest

from ms_bert.config import BertConfig
from ms_bert.data.batches import BatchMaker
from ms_bert.device import use_device
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, Options, PyTorchOptions, RunOptions, TrainingOptions
from ms_bert.training.trainer import MindSporeTrainer
from pt_reference.device import use_device as use_torch_device
from pt_reference.kernels import operations, sums_of_squares
from pt_reference.training.exchange import Whole
from pt_reference.training.optimizers import OPTIMIZERS
from pt_reference.training.step import Update, norm_by_few_kernels
from pt_reference.training.trainer import TorchTrainer
from tests.cases import some

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
EXAMPLES = ExampleOptions(seq_length=32)


DEVICES = ["CPU", pytest.param("GPU", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def options(compile=False, device="CPU", **training) -> Options:
    training = TrainingOptions(**{"batch_size": 8, "warmup_steps": 2, "steps": 10, "clip_norm": 0.5, **training})
    run, pytorch = RunOptions(device=device), PyTorchOptions(compile=compile)
    return Options(examples=EXAMPLES, training=training, run=run, pytorch=pytorch)


def trainer(config=CONFIG, **training) -> TorchTrainer:
    return TorchTrainer(config, options(**training))


@pytest.fixture(scope="module")
def batches(store, vocabulary):
    make = BatchMaker(store.train, vocabulary, EXAMPLES, 8, 1)
    return [make(step) for step in range(6)]


def train(one, batches, steps=3):
    return [one.train_step(batches[step], step, 1e-3) for step in range(steps)]


@pytest.fixture(scope="module")
def plain(batches):
    """A float32 trainer after three steps, and the results of these."""
    one = trainer()
    return one, train(one, batches)


def arrays(one, which=0) -> dict:
    return {name: value.copy() for name, value in one.state()[which].items()}


def relative_difference(a: dict, b: dict) -> float:
    """The largest over the arrays, each relative to its largest value."""
    assert list(a) == list(b)
    return max(np.abs(a[name] - b[name]).max() / (np.abs(b[name]).max() + 1e-30) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "adam-weight-decay", "lamb"])
def test_both_frameworks_take_the_same_steps_with_the_same_dropout(optimizer, batches):
    use_device("CPU")
    ours, theirs = trainer(optimizer=optimizer), MindSporeTrainer(CONFIG, options(optimizer=optimizer))
    for mine, other in zip(train(ours, batches), train(theirs, batches)):
        assert mine.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        for name, value in mine.sums.items():
            assert value == pytest.approx(other.sums[name], rel=1e-5), name
    assert ours.state()[2] == theirs.state()[2] and ours.shapes == theirs.shapes
    # The softmax does not see a key's bias: its gradient is zero, and what is computed for it is noise.
    mine, other = ({k: v for k, v in arrays(t, 1).items() if "key.bias" not in k} for t in (ours, theirs))
    assert relative_difference(mine, other) < 2e-4
    # Where a gradient is nearly 0, Adam divides noise by noise: a parameter may differ by a share of a step there.
    for name, value in arrays(ours).items():
        assert np.abs(value - arrays(theirs)[name]).max() < 3e-4, name
        assert np.abs(value - arrays(theirs)[name]).mean() < 1e-6, name


def test_a_fresh_model_guesses_uniformly(plain):
    first = plain[1][0].sums
    assert first["masked_loss"] / first["masked_count"] == pytest.approx(math.log(600), abs=0.1)
    assert first["next_sentence_loss"] / first["next_sentence_count"] == pytest.approx(math.log(2), abs=0.05)


def test_the_same_step_gives_the_same_bytes(plain, batches):
    again = trainer()
    assert train(again, batches) == plain[1]
    assert all((value == arrays(plain[0])[name]).all() for name, value in arrays(again).items())


def test_a_restored_trainer_goes_on_bit_for_bit(plain, batches):
    one, _ = plain
    other = trainer(seed=99)
    saved = copy.deepcopy(one.state())
    other.load(*saved)
    other.training = one.training  # the seed of the dropout keys
    expected, after = one.train_step(batches[3], 3, 1e-3), arrays(one)
    one.load(*saved)
    assert other.train_step(batches[3], 3, 1e-3) == expected
    assert all((value == after[name]).all() for name, value in arrays(other).items())
    assert saved[2]["updates"] == 3


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_repeats_its_steps_and_goes_on_to_the_same_bytes(device, batches):
    one, again, other = (trainer(device=device, leaves=2) for _ in range(3))
    results = train(one, batches)
    assert train(again, batches) == results and relative_difference(arrays(one), arrays(again)) == 0
    other.load(*copy.deepcopy(one.state()))
    assert other.train_step(batches[3], 3, 1e-3) == one.train_step(batches[3], 3, 1e-3)
    assert relative_difference(arrays(one), arrays(other)) == 0
    still = trainer(device=device, leaves=2)
    assert len({still.train_step(batches[0], step, 0.0).sums["masked_loss"] for step in range(3)}) == 3  # by dropout


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_device_computes_what_the_cpu_does(device, batches):
    config = CONFIG.with_dropout(0.0)
    there, here = train(trainer(config, device=device), batches), train(trainer(config), batches)
    for mine, other in zip(there, here):
        assert mine.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        assert mine.sums == pytest.approx(other.sums, rel=1e-4)


def test_a_batch_in_parts_gives_the_same_update(plain, batches):
    parts = trainer(accumulate=4)
    for mine, whole in zip(train(parts, batches), plain[1]):
        assert mine.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
        assert mine.sums["masked_loss"] == pytest.approx(whole.sums["masked_loss"], rel=1e-5)
    assert max(np.abs(value - arrays(plain[0])[name]).max() for name, value in arrays(parts).items()) < 2e-5


def test_leaves_in_parts_add_up_to_the_same_update(batches):
    """Three ways to sum the same gradients, with one, two and three levels of buffers; each leaf drops other units."""
    config = CONFIG.with_dropout(0.0)
    one = trainer(config)
    results = train(one, batches)
    for options in ({"leaves": 2, "accumulate": 2}, {"leaves": 4}, {"leaves": 8}):
        made = trainer(config, **options)
        for mine, whole in zip(train(made, batches), results):
            assert mine.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
            assert mine.sums == pytest.approx(whole.sums, rel=1e-5)
        assert max(np.abs(value - arrays(one)[name]).max() for name, value in arrays(made).items()) < 2e-5


# A compiled step is compared with the oracle by test_agreement.
@pytest.mark.parametrize("changed", some(["recompute", "compile"], "recompute"))
def test_recomputation_and_compilation_change_no_number(changed, plain, batches):
    for mine, whole in zip(train(trainer(**{changed: True}), batches), plain[1]):
        assert mine.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
        assert mine.sums["masked_loss"] == pytest.approx(whole.sums["masked_loss"], rel=1e-6)


def test_compilation_makes_one_graph_for_all_steps(batches):
    """Whatever the number of masked tokens is."""
    batches = [{name: value.copy() for name, value in batch.items()} for batch in batches]
    for number, batch in enumerate(batches):
        batch["masked_weights"][:number, 0] = 0.0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = trainer(compile=True)
    assert compiled.compile(batches[:1]) and torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    train(compiled, batches, steps=6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_evaluation_has_no_dropout_and_learns_nothing(plain, batches):
    one, _ = plain
    before = arrays(one)
    (first, outputs), second = one.evaluate(batches[4]), one.evaluate(batches[4])
    assert (first, outputs) == second and not outputs and relative_difference(before, arrays(one)) == 0
    assert first["masked_count"] == batches[4]["masked_weights"].sum()


def test_float64_is_float64_throughout(plain, batches):
    exact = trainer(precision="float64")
    for mine, single in zip(train(exact, batches), plain[1]):
        assert mine.gradient_norm == pytest.approx(single.gradient_norm, rel=1e-4)
        assert mine.gradient_norm != single.gradient_norm
    assert {value.dtype for which in (0, 1) for value in arrays(exact, which).values()} == {np.dtype("float64")}


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_near_full_precision(precision, plain, batches):
    half = trainer(precision=precision)
    for mine, single in zip(train(half, batches), plain[1]):
        assert mine.sums["masked_loss"] == pytest.approx(single.sums["masked_loss"], rel=0.01)
        assert mine.gradient_norm == pytest.approx(single.gradient_norm, rel=0.05)
        assert not mine.skipped and mine.loss_scale == (65536.0 if precision == "float16" else 1.0)
    assert {value.dtype for value in arrays(half).values()} == {np.dtype("float32")}


def test_an_overflow_skips_the_update_and_halves_the_scale(batches):
    one = trainer(precision="float16", loss_scale=2.0**30)
    before = copy.deepcopy(one.state())
    result = one.train_step(batches[0], 0, 1e-3)
    assert result.skipped and result.loss_scale == 2.0**29
    assert relative_difference(arrays(one), before[0]) == 0 and one.state()[2]["updates"] == 0
    scales = [one.train_step(batches[0], 0, 1e-3).loss_scale for _ in range(14)]
    assert one.state()[2]["updates"] > 0 and scales[-1] == scales[-2] < 2.0**29


def test_an_overflow_is_skipped_as_long_as_a_smaller_scale_is_left_to_try(batches):
    one = trainer(precision="float16", loss_scale=2.0)
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


def test_the_scale_doubles_after_a_thousand_good_steps():
    p = torch.nn.Parameter(torch.ones(3))
    update = Update({"weight": p}, TrainingOptions(precision="float16", loss_scale=8.0), operations())
    for _ in range(1000):
        p.grad = torch.ones(3)
        update(1e-3)
    assert (update.loss_scale, update.good_steps) == (16.0, 0)


def test_the_norm_by_few_kernels_is_the_global_norm():
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((7,), (300, 70), ())]
    expected = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
    assert norm_by_few_kernels(gradients) == pytest.approx(expected, rel=1e-6)


def test_the_global_norm_of_large_gradients_is_right():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) * 1e-3 for shape in ((30_522, 256), (256,), (1, 7))]
    exact = np.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
    assert float(sum(sums_of_squares(gradient).sum() for gradient in gradients) ** 0.5) == pytest.approx(
        exact, rel=1e-6
    )


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_gradients_are_clipped_by_their_global_norm(clip):
    given = {"a.weight": torch.tensor([3.0, 0.0]), "b.bias": torch.tensor([4.0])}
    parameters = {name: torch.nn.Parameter(torch.zeros_like(g)) for name, g in given.items()}
    update = Update(parameters, TrainingOptions(clip_norm=clip, beta1=0.0, optimizer="adam-weight-decay"), operations())
    for name, p in parameters.items():
        p.grad = given[name].clone()
    assert update(1e-3) == (5.0, False)
    scale = clip / 5.0 if 0.0 < clip < 5.0 else 1.0
    for name, g in given.items():
        assert torch.allclose(update.optimizer.m[name], g * scale)


# The formulas, written out in float64 for three updates.


def formula(name, p, gradients, o: TrainingOptions, decay):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m, v = o.beta1 * m + (1 - o.beta1) * g, o.beta2 * v + (1 - o.beta2) * g**2
        corrected = (m / (1 - o.beta1**t)) / (np.sqrt(v / (1 - o.beta2**t)) + o.optimizer_epsilon)
        if name == "adamw":
            p = p * (1 - 1e-2 * decay) - 1e-2 * corrected
        elif name == "adam-weight-decay":
            p = p - 1e-2 * (m / (np.sqrt(v) + o.optimizer_epsilon) + decay * p)
        else:
            u = corrected + decay * p
            p = p - 1e-2 * (np.linalg.norm(p) / np.linalg.norm(u) if decay else 1.0) * u
    return p


@pytest.mark.parametrize("changed", [{}, {"beta1": 0.0}, {"epsilon": 1e-3}, {"weight_decay": 0.3}])
@pytest.mark.parametrize("name", ["adamw", "adam-weight-decay", "lamb"])
def test_the_optimizers_follow_their_formulas(name, changed):
    rng = np.random.default_rng(3)
    o = TrainingOptions(**{"optimizer": name, "weight_decay": 0.1, **changed})
    first = {n: rng.normal(size=(5, 7)) for n in ("dense.weight", "dense.bias", "LayerNorm.weight")}
    gradients = {n: rng.normal(size=(3, 5, 7)) for n in first}
    parameters = {n: torch.nn.Parameter(torch.from_numpy(value.copy())) for n, value in first.items()}
    optimizer = OPTIMIZERS[name](Whole(parameters), o)
    for t in range(3):
        for n, p in parameters.items():
            p.grad = torch.from_numpy(gradients[n][t])
        optimizer.step(1e-2)
    for n, p in parameters.items():
        expected = formula(name, first[n], gradients[n], o, o.weight_decay if n == "dense.weight" else 0.0)
        assert np.abs(p.detach().numpy() - expected).max() < 1e-12, n


def test_what_the_machine_lacks_is_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="does not run on Ascend"):
        use_torch_device("Ascend")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="nvidia-smi"):
        use_torch_device("GPU")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        use_torch_device("CPU", compile=True)
    with pytest.raises(UserError, match="pt_reference"):
        use_device("CPU", precision="float64")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="not installed"):
        use_torch_device("CPU")
