"""The PyTorch BERT computes what transformers computes, to 1e-10 in float64, and is ms_bert's twin."""

import mindspore as ms
import numpy as np
import pytest

from conversion.parameters import ARCHITECTURES
from ms_bert import heads as ms_heads
from ms_bert import model as ms_model
from ms_bert.config import PRESETS
from ms_bert.device import use_device
from ms_bert.kernels import stock
from ms_bert.randomness import DropoutColumns, dropout_keys
from pt_reference import heads, kernels
from pt_reference.model import (
    BertForPreTraining,
    BertModel,
    Numerics,
    gather_positions,
    initialize,
    named_intermediates,
)

from .bert import CONFIG, LENGTHS, MASKED_POSITIONS, B, S, ragged_inputs, random_weights

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ORACLE = Numerics("float64")


@pytest.fixture(scope="module")
def inputs():
    return {name: torch.from_numpy(value) for name, value in ragged_inputs().items()}


def randomize(model):
    weights = random_weights({name: tuple(p.shape) for name, p in model.named_parameters()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def oracle(kind, *more, config=CONFIG, numerics=ORACLE):
    return randomize(kind(config, numerics, *more)).double()


def twin(model, kind, config=CONFIG):
    """transformers' model with the same weights, float64; every one of its parameters must be given."""
    other = kind(transformers.BertConfig(**config.to_dict(), attn_implementation="eager")).double().eval()
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    other.tie_weights()
    return other


@torch.no_grad()
def call(model, inputs, *more):
    return model(*inputs.values(), *more)


@torch.no_grad()
def reference(other, inputs, **arguments):
    return other(
        **{name: inputs[name].long() for name in ("input_ids", "token_type_ids")},
        attention_mask=inputs["sequence_ids"].long(),
        **arguments,
    )


def assert_equal(ours, theirs):
    """To 1e-10, relative to the largest value."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float64
    assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize("probabilities", [False, True])
def test_pretraining_outputs_equal_transformers(inputs, probabilities):
    ours = oracle(BertForPreTraining, numerics=Numerics("float64", probabilities=probabilities))
    theirs = reference(twin(ours, transformers.BertForPreTraining), inputs)
    masked, next_sentence = call(ours, inputs, torch.from_numpy(MASKED_POSITIONS))
    expected = theirs.prediction_logits[torch.arange(B)[:, None], torch.from_numpy(MASKED_POSITIONS).long()]
    assert_equal(masked, expected.reshape(-1, 97))
    assert_equal(next_sentence, theirs.seq_relationship_logits)


def by_name(inputs, *names):
    """Inputs as transformers calls them."""
    ours = {"attention_mask": "sequence_ids"}
    return {name: inputs[ours.get(name, name)] for name in names}


@torch.no_grad()
@pytest.mark.parametrize("names", [("attention_mask", "token_type_ids"), ("token_type_ids",), ()])
def test_a_call_as_of_transformers_gives_what_transformers_gives(inputs, names):
    model = oracle(BertModel)
    given = by_name(inputs, "input_ids", *names)
    theirs = twin(model, transformers.BertModel)(**{name: value.long() for name, value in given.items()})
    hidden, pooled, _ = model(**given)
    inside = inputs["sequence_ids"].reshape(-1) > 0 if "attention_mask" in names else slice(None)
    assert_equal(hidden[inside], theirs.last_hidden_state.reshape(B * S, -1)[inside])
    assert_equal(pooled, theirs.pooler_output)


@torch.no_grad()
def test_masks_and_ids_in_transformers_order_are_taken_for_what_they_are(inputs):
    model = oracle(BertModel)
    given = by_name(inputs, "input_ids", "attention_mask", "token_type_ids", "position_ids")
    assert torch.equal(model(*given.values())[1], call(model, inputs)[1])


@pytest.mark.parametrize(
    "name, shape",
    [
        ("attention_mask", (B, S + 2)),
        ("token_type_ids", (B, 1)),
        ("position_ids", (1, S)),
        ("cls_positions", (B + 1, 1)),
    ],
)
def test_inputs_of_other_shapes_are_refused(inputs, name, shape):
    with pytest.raises(ValueError, match=f"{name} begins with the shape .* but input_ids with"):
        oracle(BertModel)(inputs["input_ids"], **{name: torch.zeros(shape, dtype=torch.int32)})


@torch.no_grad()
def test_without_masked_positions_every_token_is_predicted(inputs):
    model = oracle(BertForPreTraining)
    every, _ = model(**by_name(inputs, "input_ids", "attention_mask", "token_type_ids"))
    some, _ = call(model, inputs, torch.from_numpy(MASKED_POSITIONS))
    picked = every.view(B, S, 97)[torch.arange(B)[:, None], torch.from_numpy(MASKED_POSITIONS).long()]
    assert_equal(picked.reshape(-1, 97), some)


@pytest.mark.parametrize("act", ["gelu_new", "relu"])
def test_the_other_activations_equal_transformers(inputs, act):
    config = CONFIG.replace(hidden_act=act, num_hidden_layers=1)
    ours = oracle(BertModel, config=config)
    assert_equal(call(ours, inputs)[1], reference(twin(ours, transformers.BertModel, config), inputs)["pooler_output"])


def test_named_intermediates_equal_transformers(inputs):
    ours = oracle(BertModel, numerics=Numerics("float64", probabilities=True))
    named = named_intermediates(call(ours, inputs)[2])
    theirs = reference(twin(ours, transformers.BertModel), inputs, output_hidden_states=True, output_attentions=True)
    inside = inputs["sequence_ids"] > 0  # what padding computes is nobody's business, and differs
    assert list(named) == [
        "embeddings",
        *(f"layer.{i}.{part}" for i in range(2) for part in ("attention.probabilities", "attention.output", "output")),
    ]
    assert_equal(named["embeddings"], theirs.hidden_states[0].reshape(B * S, -1))
    for i in range(2):
        assert_equal(named[f"layer.{i}.output"].view(B, S, -1)[inside], theirs.hidden_states[i + 1][inside])
        for row, length in enumerate(LENGTHS):
            probabilities = named[f"layer.{i}.attention.probabilities"][row, :, :length]
            assert_equal(probabilities, theirs.attentions[i][row, :, :length])


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
    config = CONFIG.replace(id2label={str(i): str(i) for i in range(labels)})
    ours = oracle(getattr(heads, kind), config=config)
    output = call(ours, inputs)
    theirs = reference(twin(ours, getattr(transformers, kind), config), inputs)
    inside = inputs["sequence_ids"] > 0
    if kind in ("BertForNextSentencePrediction", "BertForSequenceClassification"):
        assert_equal(output, theirs.logits)
    elif kind == "BertForTokenClassification":
        assert_equal(output[inside], theirs.logits[inside])
    else:
        assert_equal(output[0][inside], theirs.start_logits[inside])
        assert_equal(output[1][inside], theirs.end_logits[inside])


def test_masked_words_equal_transformers_and_without_positions_every_token_is_predicted(inputs):
    ours = oracle(heads.BertForMaskedLM)
    expected = reference(twin(ours, transformers.BertForMaskedLM), inputs).logits
    picked = expected[torch.arange(B)[:, None], torch.from_numpy(MASKED_POSITIONS).long()]
    assert_equal(call(ours, inputs, torch.from_numpy(MASKED_POSITIONS)), picked.reshape(-1, 97))
    inside = inputs["sequence_ids"].flatten() > 0
    assert_equal(call(ours, inputs)[inside], expected.reshape(B * S, 97)[inside])


def test_multiple_choice_equals_transformers(inputs):
    ours = oracle(heads.BertForMultipleChoice, 2)
    paired = {name: value.view(2, 2, S) for name, value in inputs.items() if name != "cls_positions"}
    assert_equal(call(ours, inputs), reference(twin(ours, transformers.BertForMultipleChoice), paired).logits)


def test_packed_sequences_compute_what_they_compute_alone(inputs):
    model = oracle(BertModel)
    alone = call(model, inputs)[1]
    packed = {name: torch.zeros((1, S), dtype=torch.int32) for name in list(inputs)[:4]}
    for number, (row, start, length) in enumerate(((1, 0, 13), (2, 13, 7)), 1):
        for name in ("input_ids", "token_type_ids", "position_ids"):
            packed[name][0, start : start + length] = inputs[name][row, :length]
        packed["sequence_ids"][0, start : start + length] = number
    pooled = call(model, {**packed, "cls_positions": torch.tensor([[0, 13]], dtype=torch.int32)})[1]
    assert_equal(pooled, alone[1:3])


def named(cell):
    return [(p.name, tuple(p.shape)) for p in cell.get_parameters()]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_twins_have_the_same_parameters_in_the_same_order(kind):
    more = (2,) if kind == "BertForMultipleChoice" else ()
    cells = {module: module.named(kind) for module in (ms_heads, heads)}
    assert all(cell.__name__ == kind for cell in cells.values())
    assert named(cells[ms_heads](CONFIG, ms_model.Numerics(), *more)) == [
        (name, tuple(p.shape)) for name, p in cells[heads](CONFIG, Numerics(), *more).named_parameters()
    ]


@pytest.mark.parametrize("preset, expected", [("base", 109_482_240), ("large", 335_141_888)])
def test_parameter_counts_are_the_published_ones(preset, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in BertModel(PRESETS[preset], Numerics()).parameters()) == expected


def test_the_twins_begin_with_the_same_bytes():
    ours, theirs = BertForPreTraining(CONFIG, Numerics()), ms_model.BertForPreTraining(CONFIG, ms_model.Numerics())
    initialize(ours, CONFIG, seed=4)
    ms_model.initialize(theirs, CONFIG, seed=4)
    for (name, p), other in zip(ours.named_parameters(), theirs.get_parameters()):
        assert name == other.name and p.detach().numpy().tobytes() == other.asnumpy().tobytes()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_twins_drop_the_same_units(compiled):
    use_device("CPU")
    row_keys, column_keys = dropout_keys(3, 9, 101, 203)
    ones = np.ones((101, 203), np.float32)
    drop = torch.compile(kernels.dropout) if compiled else kernels.dropout
    ours = drop(torch.from_numpy(ones), 0.1, torch.from_numpy(row_keys), torch.from_numpy(column_keys)).numpy()
    theirs = stock.dropout(ms.Tensor(ones), 0.1, ms.Tensor(row_keys), ms.Tensor(column_keys)).asnumpy()
    assert (ours == theirs).all() and 0.05 < (ours == 0).mean() < 0.15


def keys(step):
    return tuple(map(torch.from_numpy, dropout_keys(1, step, B * S, DropoutColumns(CONFIG).total)))


def test_dropout_is_on_with_keys_and_off_without(inputs):
    model = oracle(BertModel)
    train = [call(model, inputs, keys(step))[0] for step in (0, 0, 1)]
    evaluated = call(model, inputs)[0]
    assert torch.equal(train[0], train[1])
    assert (train[0] - train[2]).abs().max() > 0.1 and (train[0] - evaluated).abs().max() > 0.1


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("positions", [MASKED_POSITIONS, None])
def test_a_last_layer_of_what_is_read_computes_and_learns_the_same(inputs, positions, recompute):
    """Against the rows of the whole last layer, or, where nothing is read, against the pooled output alone."""
    read = () if positions is None else torch.from_numpy(positions)
    found = []
    for chosen in (False, True):
        model = randomize(BertModel(CONFIG, Numerics("float64", recompute=recompute))).double()
        hidden, pooled, (_, layers) = model(*inputs.values(), keys(0), read if chosen else None)
        values = [pooled]
        if positions is not None:
            values.append(hidden if chosen else gather_positions(hidden, read, S))
        sum(value.square().sum() for value in values).backward()
        found.append([*values, *(p.grad for p in model.parameters())])
        rows = B * S if not chosen else len(pooled) + (0 if positions is None else positions.size)
        assert len(layers[-1][2]) == rows and len(layers[0][2]) == B * S
    for whole, part in zip(*found):
        assert torch.allclose(part, whole, rtol=1e-10, atol=1e-12)


def test_recomputation_changes_no_gradient(inputs):
    gradients = []
    for recompute in (False, True):
        model = randomize(BertModel(CONFIG, Numerics("float64", recompute=recompute))).double()
        model(*inputs.values(), keys(0))[1].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("dtype, least, most", [("float16", 1e-5, 0.01), ("bfloat16", 1e-4, 0.08)])
def test_half_precision_stays_near_full_precision(inputs, dtype, least, most):
    full = call(oracle(BertModel), inputs)[0]
    half = call(randomize(BertModel(CONFIG, Numerics(dtype))), inputs)[0]
    assert half.dtype == getattr(torch, dtype)
    assert least < (half.double() - full).norm() / full.norm() < most


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_row_of_a_head_rounds_alike_wherever_it_stands(outputs):
    """Predictions of one text must not depend on the texts beside it."""
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        for rows in (2, 3, 4):
            x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((rows, 48), (outputs, 48), (outputs,)))
            found = kernels.linear(x, weight, bias)
            assert torch.equal(kernels.linear(x.flip(0), weight, bias), found.flip(0))
            assert torch.allclose(found, x @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_by_blocks_is_attention(causal, compiled):
    """As training without dropout on a GPU has it; packed rows, padding at either end."""
    ids = torch.tensor([[1] * 20 + [2] * 20 + [0] * 8, [1] * 48, [0] * 3 + [1] * 10 + [2] * 5 + [3] * 30])
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(3 * 48, 2 * 16, generator=generator) for _ in range(3)]
    found = kernels.block_attention(*parts, ids, 2, causal, compiled)
    assert found == pytest.approx(kernels.attention(*parts, ids, 2, 0.0, None, None, causal)[0], abs=1e-5)


def test_attention_goes_by_blocks_where_its_kernel_exists(monkeypatch):
    monkeypatch.setattr(kernels, "_can_compile", lambda: True)
    usual = {"device": "cuda", "dtype": torch.bfloat16, "size": 64, "rate": 0.0, "training": True}
    assert kernels.goes_by_blocks(**usual)
    for name, value in (("device", "cpu"), ("dtype", torch.float64), ("size", 8), ("rate", 0.1), ("training", False)):
        assert not kernels.goes_by_blocks(**{**usual, name: value}), name
    monkeypatch.setattr(kernels, "_can_compile", lambda: False)
    assert not kernels.goes_by_blocks(**usual)
