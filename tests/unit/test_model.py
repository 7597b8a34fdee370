"""The nn.Cell BERT computes what transformers computes on the same weights, and names what is inside it."""

import math
import tempfile

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ms_bert.config import PRESETS
from ms_bert.device import use_device
from ms_bert.heads import BertForMaskedLM, BertForMultipleChoice, named
from ms_bert.kernels import native, stock
from ms_bert.model import (
    BertForPreTraining,
    BertModel,
    Numerics,
    gather_positions,
    initialize,
    named_intermediates,
)
from ms_bert.randomness import DropoutColumns, dropout_keys
from ms_bert.training.optimizers import one_minus_power
from tests.cases import some

from .bert import CONFIG, LENGTHS, MASKED_POSITIONS, B, S, ragged_inputs, random_weights

pytestmark = pytest.mark.slow

needs_fused = pytest.mark.skipif(native.why_not() is not None, reason="the library of fused kernels is missing")

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def cpu():
    use_device("CPU")


@pytest.fixture(scope="module")
def inputs():
    return ragged_inputs()


def randomize(cell):
    parameters = {p.name: p for p in cell.get_parameters()}
    for name, value in random_weights({name: p.shape for name, p in parameters.items()}).items():
        parameters[name].set_data(Tensor(value))
    return cell


@pytest.fixture(scope="module")
def model():
    """Shared, for what is compiled for one test serves the others. None changes its weights."""
    return randomize(BertModel(CONFIG, Numerics()))


def twin(cell, kind, config=CONFIG):
    """transformers' model with the same weights; every one of its parameters must be given."""
    other = kind(transformers.BertConfig(**config.to_dict(), attn_implementation="eager")).double().eval()
    weights = {p.name: torch.from_numpy(p.asnumpy().astype(np.float64)) for p in cell.get_parameters()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    other.tie_weights()
    return other


def call(cell, inputs, *more):
    return cell(*(Tensor(value) for value in inputs.values()), *map(Tensor, more))


def reference(other, inputs, **arguments):
    with torch.no_grad():
        return other(
            **{name: torch.from_numpy(inputs[name]).long() for name in ("input_ids", "token_type_ids")},
            attention_mask=torch.from_numpy(inputs["sequence_ids"]).long(),
            **arguments,
        )


def assert_close(ours, theirs, tolerance=2e-5):
    ours, theirs = ours.asnumpy(), theirs.numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def test_pretraining_outputs_equal_transformers(inputs):
    ours = randomize(BertForPreTraining(CONFIG, Numerics()))
    theirs = reference(twin(ours, transformers.BertForPreTraining), inputs)
    masked, next_sentence = call(ours, inputs, MASKED_POSITIONS)
    expected = theirs.prediction_logits[torch.arange(B)[:, None], torch.from_numpy(MASKED_POSITIONS).long()]
    assert_close(masked, expected.reshape(-1, 97))
    assert_close(next_sentence, theirs.seq_relationship_logits)


def test_a_device_may_be_chosen_again_after_it_was_computed_on(model, inputs):
    call(model, inputs)
    use_device("CPU")


def by_name(inputs, *names):
    """Inputs as transformers calls them."""
    ours = {"attention_mask": "sequence_ids"}
    return {name: Tensor(inputs[ours.get(name, name)]) for name in names}


@pytest.mark.parametrize("names", [("attention_mask", "token_type_ids"), ("token_type_ids",), ()])
def test_a_call_as_of_transformers_gives_what_transformers_gives(model, inputs, names):
    given = by_name(inputs, "input_ids", *names)
    with torch.no_grad():
        arguments = {name: torch.from_numpy(value.asnumpy()).long() for name, value in given.items()}
        theirs = twin(model, transformers.BertModel)(**arguments)
    hidden, pooled, _ = model(**given)
    inside = inputs["sequence_ids"].reshape(-1) > 0 if "attention_mask" in names else np.ones(B * S, bool)
    assert_close(Tensor(hidden.asnumpy()[inside]), theirs.last_hidden_state.reshape(B * S, -1)[inside])
    assert_close(pooled, theirs.pooler_output)


def test_masks_and_ids_in_transformers_order_are_taken_for_what_they_are(model, inputs):
    given = by_name(inputs, "input_ids", "attention_mask", "token_type_ids", "position_ids")
    assert np.array_equal(model(*given.values())[1].asnumpy(), call(model, inputs)[1].asnumpy())


OTHER_SHAPES = [
    ("attention_mask", (B, S + 2)),
    ("attention_mask", (B, S - 1)),
    ("token_type_ids", (B, 1)),
    ("position_ids", (1, S)),
    ("cls_positions", (B + 1, 1)),
]


@pytest.mark.parametrize("kernels", ["stock", pytest.param("fused", marks=needs_fused)])
def test_inputs_of_other_shapes_are_refused(inputs, kernels):
    model = BertModel(CONFIG, Numerics(kernels=kernels))
    for name, shape in OTHER_SHAPES:
        with pytest.raises(ValueError, match=f"{name} begins with the shape .* but input_ids with"):
            model(Tensor(inputs["input_ids"]), **{name: Tensor(np.zeros(shape, np.int32))})


@needs_fused
def test_ids_that_a_table_has_not_are_refused_by_fused_kernels_too(inputs, capfd):
    """As by stock operations: a text that is too long must not get numbers that look like others."""
    for ids, said in (
        (np.full((1, CONFIG.max_position_embeddings + 1), 5), "a position is"),
        (np.full((B, S), CONFIG.vocab_size), "an id is"),
    ):
        with pytest.raises(RuntimeError, match="ms_bert_embed"):
            BertModel(CONFIG, Numerics(kernels="fused"))(Tensor(ids.astype(np.int32)))[0].asnumpy()
        assert f"ms_bert: embed: {said}" in capfd.readouterr().err


def test_without_masked_positions_every_token_is_predicted(inputs):
    model = randomize(BertForPreTraining(CONFIG, Numerics()))
    every, _ = model(**by_name(inputs, "input_ids", "attention_mask", "token_type_ids"))
    chosen, _ = call(model, inputs, MASKED_POSITIONS)
    assert every.shape == (B * S, 97)
    picked = every.asnumpy().reshape(B, S, 97)[np.arange(B)[:, None], MASKED_POSITIONS]
    assert np.abs(picked.reshape(-1, 97) - chosen.asnumpy()).max() < 1e-5


@pytest.mark.parametrize("act", some(["gelu_new", "relu"], "gelu_new"))
def test_the_other_activations_equal_transformers(inputs, act):
    config = CONFIG.replace(hidden_act=act, num_hidden_layers=1)
    ours = randomize(BertModel(config, Numerics()))
    theirs = reference(twin(ours, transformers.BertModel, config), inputs)
    assert_close(call(ours, inputs)[1], theirs.pooler_output)


def test_named_intermediates_equal_transformers(model, inputs):
    class Inside(nn.Cell):
        def __init__(self, model):
            super().__init__(auto_prefix=False)
            self.model = model

        def construct(self, a, b, c, d, e):
            return self.model(a, b, c, d, e)[2]

    named = named_intermediates(call(Inside(model), inputs))
    other = twin(model, transformers.BertModel)
    theirs = reference(other, inputs, output_hidden_states=True, output_attentions=True)
    assert list(named) == [
        "embeddings",
        *(f"layer.{i}.{part}" for i in range(2) for part in ("attention.probabilities", "attention.output", "output")),
    ]
    inside = inputs["sequence_ids"] > 0  # what padding computes is nobody's business, and differs
    for name, ours in named.items():
        layer = int(name.split(".")[1]) if "." in name else 0
        if name == "embeddings":
            expected = theirs.hidden_states[0]
        elif name.endswith("probabilities"):
            ours, expected = ours.asnumpy(), theirs.attentions[layer].numpy()
            for row, length in enumerate(LENGTHS):
                assert np.abs(ours[row, :, :length] - expected[row, :, :length]).max() < 1e-5
            continue
        elif name.endswith("attention.output"):
            with torch.no_grad():
                block = other.encoder.layer[layer].attention
                mask = torch.from_numpy((1.0 - inputs["sequence_ids"][:, None, None, :]) * -1e300)
                expected = block(theirs.hidden_states[layer], mask)[0]
        else:
            expected = theirs.hidden_states[layer + 1]
        assert_close(Tensor(ours.asnumpy().reshape(B, S, -1)[inside]), expected[torch.from_numpy(inside)])


@pytest.mark.parametrize(
    "kind",
    [
        "BertForNextSentencePrediction",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertForQuestionAnswering",
    ],
)
def test_downstream_heads_equal_transformers(inputs, kind):
    labels = 2 if kind == "BertForQuestionAnswering" else 5
    config = CONFIG.replace(num_hidden_layers=1, id2label={str(i): str(i) for i in range(labels)})
    cell = randomize(named(kind)(config, Numerics()))
    output = call(cell, inputs)
    expected = reference(twin(cell, getattr(transformers, kind), config), inputs)
    inside = inputs["sequence_ids"] > 0
    for value, wanted in (
        zip(output, (expected.start_logits, expected.end_logits))
        if isinstance(output, tuple)
        else [(output, expected.logits)]
    ):
        if value.shape[:2] == (B, S):
            value, wanted = Tensor(value.asnumpy()[inside]), wanted[torch.from_numpy(inside)]
        assert_close(value, wanted)


def test_masked_words_equal_transformers_and_without_positions_every_token_is_predicted(inputs):
    config = CONFIG.replace(num_hidden_layers=1)
    cell = randomize(BertForMaskedLM(config, Numerics()))
    expected = reference(twin(cell, transformers.BertForMaskedLM, config), inputs).logits
    picked = expected[torch.arange(B)[:, None], torch.from_numpy(MASKED_POSITIONS).long()]
    assert_close(call(cell, inputs, MASKED_POSITIONS), picked.reshape(-1, 97))
    inside = inputs["sequence_ids"].reshape(-1) > 0
    assert_close(Tensor(call(cell, inputs).asnumpy()[inside]), expected.reshape(B * S, 97)[torch.from_numpy(inside)])


def test_multiple_choice_equals_transformers(inputs):
    config = CONFIG.replace(num_hidden_layers=1)
    cell = randomize(BertForMultipleChoice(config, Numerics(), choices=2))
    other = twin(cell, transformers.BertForMultipleChoice, config)
    with torch.no_grad():
        expected = other(
            **{
                k: torch.from_numpy(inputs[n]).long().view(2, 2, S)
                for k, n in (
                    ("input_ids", "input_ids"),
                    ("token_type_ids", "token_type_ids"),
                    ("attention_mask", "sequence_ids"),
                )
            }
        )
    assert_close(call(cell, inputs), expected.logits)


def test_two_sequences_packed_in_a_row_compute_what_they_compute_alone(model, inputs):
    alone = call(model, inputs)
    lengths = (13, 7)
    packed = {name: np.zeros((1, S), np.int32) for name in list(inputs)[:4]}
    for number, (row, start, length) in enumerate(((1, 0, 13), (2, 13, 7)), 1):
        for name in ("input_ids", "token_type_ids", "position_ids"):
            packed[name][0, start : start + length] = inputs[name][row, :length]
        packed["sequence_ids"][0, start : start + length] = number
    hidden, pooled, _ = call(model, {**packed, "cls_positions": np.array([[0, 13]], np.int32)})
    assert np.abs(pooled.asnumpy() - alone[1].asnumpy()[1:3]).max() < 1e-5
    separate = alone[0].asnumpy().reshape(B, S, -1)
    assert np.abs(hidden.asnumpy()[:20] - np.concatenate([separate[1, :13], separate[2, :7]])).max() < 1e-4
    assert sum(lengths) == 20


def test_parameters_bear_hugging_faces_names_shapes_and_order():
    ours = BertForPreTraining(CONFIG, Numerics())
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**CONFIG.to_dict()))
    assert [(p.name, tuple(p.shape)) for p in ours.get_parameters()] == [
        (name, tuple(value.shape)) for name, value in theirs.named_parameters()
    ]


@pytest.mark.parametrize("preset, expected", [("base", 109_482_240), ("large", 335_141_888)])
def test_parameter_counts_are_the_published_ones(preset, expected):
    assert sum(p.size for p in BertModel(PRESETS[preset], Numerics()).trainable_params()) == expected


def test_initialisation_is_normal_002_zeros_and_ones_and_follows_the_seed():
    model = BertForPreTraining(CONFIG.replace(hidden_size=96), Numerics())
    initialize(model, CONFIG, seed=1)
    first = {p.name: p.asnumpy().copy() for p in model.get_parameters()}
    for name, value in first.items():
        if name.endswith("bias"):
            assert not value.any()
        elif name.endswith("LayerNorm.weight"):
            assert (value == 1).all()
        elif value.size > 2000:
            assert abs(value.std() - 0.02) < 0.001 and abs(value.mean()) < 0.001
    initialize(model, CONFIG, seed=2)
    other = {p.name: p.asnumpy() for p in model.get_parameters()}
    assert (first["bert.pooler.dense.weight"] != other["bert.pooler.dense.weight"]).any()
    encoder = BertModel(CONFIG.replace(hidden_size=96), Numerics())
    assert {p.name for p in encoder.get_parameters()} < {name.removeprefix("bert.") for name in first}


# Dropout


@pytest.fixture(scope="module")
def dropped():
    class Drop(nn.Cell):
        def construct(self, x, row_keys, column_keys):
            return stock.dropout(x, 0.1, row_keys, column_keys)

    cell, ones = Drop(), Tensor(np.ones((500, 400), np.float32))

    def at(step):
        row_keys, column_keys = dropout_keys(3, step, 500, 400)
        return cell(ones, Tensor(row_keys), Tensor(column_keys)).asnumpy()

    return at


def test_dropout_has_its_rate_and_scale_and_is_independent_between_elements_and_steps(dropped):
    first, second = dropped(0), dropped(1)
    assert set(np.unique(first)) == {np.float32(0.0), np.float32(1 / 0.9)}
    zero, other = first == 0, second == 0
    deviation = (0.1 * 0.9 / zero.size) ** 0.5
    assert abs(zero.mean() - 0.1) < 4 * deviation
    spread = 4 * 0.09 / zero.size**0.5 + 1e-4
    for a, b in ((zero, other), (zero[1:], zero[:-1]), (zero[:, 1:], zero[:, :-1])):
        assert abs((a & b).mean() - a.mean() * b.mean()) < spread
    # Neither rows nor columns are favoured: their sums vary as binomial ones do.
    for axis, size in ((0, 500), (1, 400)):
        assert abs(zero.sum(axis).var() / (size * 0.09) - 1) < 0.35
    assert (dropped(0) == first).all()


def test_dropout_is_on_with_keys_and_off_without(model, inputs):
    class Training(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)  # the names of the model's parameters stay
            self.model = model

        def construct(self, a, b, c, d, e, row_keys, column_keys):
            return self.model(a, b, c, d, e, (row_keys, column_keys))[0]

    training = Training()

    def train(step):
        return call(training, inputs, *dropout_keys(1, step, B * S, DropoutColumns(CONFIG).total)).asnumpy()

    evaluated = call(model, inputs)[0].asnumpy()
    assert (evaluated == call(model, inputs)[0].asnumpy()).all()
    assert (train(0) == train(0)).all()
    assert np.abs(train(0) - train(1)).max() > 0.1 and np.abs(train(0) - evaluated).max() > 0.1


@pytest.mark.parametrize(
    "kernels, positions",
    [
        pytest.param("stock", MASKED_POSITIONS, marks=pytest.mark.full),
        pytest.param("fused", MASKED_POSITIONS, marks=needs_fused),
        pytest.param("fused", None, marks=needs_fused),
    ],
)
def test_a_last_layer_of_what_is_read_computes_and_learns_the_same(inputs, kernels, positions):
    """Against the rows of the whole last layer, or, where nothing is read, against the pooled output alone."""
    model = randomize(BertModel(CONFIG, Numerics(kernels=kernels)))
    read = () if positions is None else Tensor(positions)
    drawn = dropout_keys(1, 0, B * S, DropoutColumns(CONFIG).total)

    class Loss(nn.Cell):
        def __init__(self, chosen):
            super().__init__()
            self.model, self.chosen = model, chosen

        def construct(self, a, b, c, d, e, row_keys, column_keys):
            hidden, pooled, _ = self.model(a, b, c, d, e, (row_keys, column_keys), read if self.chosen else None)
            loss = ops.sum(ops.square(pooled))
            if positions is None:
                return loss, pooled, pooled
            if not self.chosen:
                hidden = gather_positions(hidden, read, S)
            return loss + ops.sum(ops.square(hidden)), pooled, hidden

    found = []
    for chosen in (False, True):
        gradient = ms.value_and_grad(Loss(chosen), None, model.trainable_params(), has_aux=True)
        (_, *values), slopes = call(gradient, inputs, *drawn)
        found.append([*values, *slopes])
    for whole, part in zip(*found, strict=True):
        assert np.allclose(part.asnumpy(), whole.asnumpy(), rtol=1e-4, atol=1e-5 * np.abs(values[0].asnumpy()).max())


def test_the_dropout_columns_of_all_places_are_disjoint():
    columns = DropoutColumns(CONFIG)
    blocks = [(columns.hidden(i), CONFIG.hidden_size) for i in range(2 * 2 + 2)]
    blocks += [(columns.attention(i), 3 * 24) for i in range(2)]
    ends = [start + size for start, size in blocks]
    assert [start for start, _ in blocks] == [0, *ends[:-1]] and ends[-1] == columns.total


def test_half_precision_stays_near_full_precision(model, inputs):
    half = randomize(BertModel(CONFIG, Numerics(dtype="float16")))
    a, b = call(model, inputs)[0].asnumpy(), call(half, inputs)[0]
    assert b.dtype == ms.float16
    error = np.linalg.norm(a - b.asnumpy()) / np.linalg.norm(a)
    assert 1e-5 < error < 0.02


# Where MindSpore's own CPU operations are rough: the function, and how far it may be from float64.
FUNCTIONS = {
    "tanh": (np.tanh, 3e-7),
    "gelu": (lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / 2**0.5)), 1e-6),
    "gelu_new": (lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))), 2e-6),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_and_their_slopes_are_exact_to_rounding_from_end_to_end(name):
    exact, bound = FUNCTIONS[name]
    x = np.concatenate([np.linspace(-30, 30, 60001), [-90.0, 90.0]]).astype(np.float32)
    function = getattr(stock, name)

    class Value(nn.Cell):
        def construct(self, x):
            return function(x)

    wide, step = x.astype(np.float64), 1e-5
    scale = 1 + np.abs(exact(wide))
    assert (np.abs(Value()(Tensor(x)).asnumpy() - exact(wide)) / scale).max() < bound
    slope = ms.grad(Value())(Tensor(x)).asnumpy()
    assert np.abs(slope - (exact(wide + step) - exact(wide - step)) / (2 * step)).max() < 5e-6


def test_the_loss_of_few_classes_is_as_exact_as_that_of_many():
    rng = np.random.default_rng(0)
    for classes, bound in ((2, 2e-6), (97, 6e-6), (8192, 6e-6)):
        logits, labels = (3 * rng.normal(size=(64, classes))).astype(np.float32), rng.integers(0, classes, 64)
        wide = logits.astype(np.float64)
        exact = np.log(np.exp(wide).sum(1)) - wide[np.arange(64), labels]
        found = stock.cross_entropy(Tensor(logits), Tensor(labels.astype(np.int32))).asnumpy()
        assert np.abs(found - exact).max() < bound
        # Nor does it depend on the place in the array, so that whoever resumes a run repeats its bytes.
        for first, last in ((0, 1), (3, 10), (5, 64)):
            part = stock.cross_entropy(Tensor(logits[first:last]), Tensor(labels[first:last].astype(np.int32)))
            assert (part.asnumpy() == found[first:last]).all()


def test_bias_correction_is_exact_from_the_first_step_to_the_millionth():
    for beta in (0.0, 0.5, 0.9, 0.999, 0.9999):
        for t in (1, 2, 3, 10, 500, 5000, 10**6):
            found = float(one_minus_power(beta, Tensor(t, ms.float32)).asnumpy())
            assert found == pytest.approx(-math.expm1(t * math.log(beta)) if beta else 1.0, rel=1e-6), (beta, t)


def test_what_mindspore_cannot_compile_it_leaves_among_temporary_files(tmp_path, monkeypatch):
    """Also what it was compiling when a signal came."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("MS_OM_PATH", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    use_device("CPU")

    class Wrong(nn.Cell):
        def construct(self, x):
            return x.there_is_no_such_thing()

    with pytest.raises(AttributeError, match="there_is_no_such_thing"):
        Wrong()(Tensor(np.zeros(1, np.float32)))
    assert list(here.iterdir()) == [] and len(list(temporary.rglob("*.ir"))) == 1
