"""Dropout inside the whole models, read off their outputs: rate, scale, independence, gradient, none in evaluation.

Weights are chosen so that an output shows the mask. The outputs of sublayers get constants of both signs, so large that
each unit of LayerNorm(residual + dropout(constant)) shows whether it was kept. For the probabilities, queries and keys
are 0, so that attention is uniform, positions are orthogonal codes, and the value of key j is the unit vector j in each
head: unit (head, j) of the context of a query is the probability of key j, kept or dropped.
"""

import dataclasses
import itertools
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn, ops

from ms_bert import heads
from ms_bert.config import BertConfig
from ms_bert.device import use_device
from ms_bert.kernels import stock
from ms_bert.model import Numerics
from ms_bert.randomness import DropoutColumns, dropout_keys
from pt_reference import heads as torch_heads
from pt_reference import kernels as torch_kernels
from pt_reference.model import Numerics as TorchNumerics

pytestmark = pytest.mark.usefixtures("one_thread")

torch = pytest.importorskip("torch")

B, S, HEADS, LAYERS = 32, 32, 2, 2
ROWS, H = B * S, HEADS * S  # every mask is (ROWS, H): a unit of a hidden state, or a key of a head
HIDDEN, ATTENTION, CLASSIFIER = 0.1, 0.25, 0.4
CONFIG = BertConfig(
    vocab_size=3,
    hidden_size=H,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=16,
    max_position_embeddings=S + 8,
    hidden_dropout_prob=HIDDEN,
    attention_probs_dropout_prob=ATTENTION,
    id2label={str(i): str(i) for i in range(H)},
)
# Hidden dropout would hide the probabilities' from view; the classifier's has here a rate of its own.
IN_ATTENTION = CONFIG.replace(hidden_dropout_prob=0.0, classifier_dropout=CLASSIFIER)
WITHOUT = CONFIG.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
DRAWS = [(1, 0), (1, 1), (1, 2), (2, 0)]  # seed and step

SUBLAYERS = [f"layer.{i}.{part}output" for i in range(LAYERS) for part in ("attention.", "")]
PROBABILITIES = [f"layer.{i}.attention.probabilities" for i in range(LAYERS)]
OUTPUTS = ["embeddings", *SUBLAYERS, "classifier"]
RATES = {**dict.fromkeys(OUTPUTS, HIDDEN), **dict.fromkeys(PROBABILITIES, ATTENTION), "classifier, own": CLASSIFIER}

SIGNS = np.where(np.arange(H) % 2, 1.0, -1.0)
SIZE = 30.0  # of the constants; residuals are near 1
INPUTS = [
    np.ones((B, S), np.int32),
    np.ones((B, S), np.int32),
    np.zeros((B, S), np.int32),
    np.tile(np.arange(S, dtype=np.int32), (B, 1)),
    np.tile(np.arange(S, dtype=np.int32), (B, 1)),  # a [CLS] at every token: as many rows for the classifier
]
# The loss is the sum of the outputs times these: the gradient that comes to each output.
PULLS = dict(zip(OUTPUTS, np.random.default_rng(0).standard_normal((len(OUTPUTS), ROWS, H), np.float32)))


def codes() -> np.ndarray:
    """(S, H) of +-1: orthogonal rows of mean 0, which LayerNorm leaves as they are."""
    signs = np.ones((1, 1))
    while len(signs) < H:
        signs = np.block([[signs, signs], [signs, -signs]])
    return signs[1 : S + 1]  # the first row is all ones


def weights_of_hidden_states() -> dict[str, np.ndarray]:
    """Under which every output but the probabilities shows its mask; those not named are 0, LayerNorm's 1."""
    return {
        "bert.embeddings.LayerNorm.weight": np.zeros(H),
        "bert.embeddings.LayerNorm.bias": SIGNS,
        **{f"bert.encoder.{name}.dense.bias": SIZE * SIGNS for name in SUBLAYERS},
        "bert.pooler.dense.bias": SIGNS,
        "classifier.weight": np.eye(H),
    }


def weights_of_attention(layer: int) -> dict[str, np.ndarray]:
    """Under which the attention output of a layer shows the mask of its probabilities."""
    positions = np.zeros((CONFIG.max_position_embeddings, H))
    positions[:S] = codes()
    attention = f"bert.encoder.layer.{layer}.attention"
    return {
        "bert.embeddings.position_embeddings.weight": positions,
        f"{attention}.self.value.weight": np.tile(codes() / H, (HEADS, 1)),
        f"{attention}.output.dense.weight": np.diag(SIZE * S * SIGNS),
        "bert.pooler.dense.bias": SIGNS,
        "classifier.weight": np.eye(H),
    }


GRADIENTS = [
    "bert.embeddings.LayerNorm.bias",
    *(f"bert.encoder.{name}.dense.bias" for name in SUBLAYERS),
    *(f"bert.encoder.layer.{i}.attention.self.value.weight" for i in range(LAYERS)),
    "bert.pooler.dense.bias",
]


# The two frameworks: outputs and gradients by name, under weights and dropout keys (none in evaluation)


class Pulled(nn.Cell):
    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model
        self.first, self.end = len(PULLS), len(PULLS) + len(INPUTS)

    def construct(self, *values):
        pulls, inputs = values[: self.first], values[self.first : self.end]
        keys = values[self.end :] if len(values) > self.end else None
        _, _, (embeddings, layers) = self.model.bert(*inputs, keys)
        outputs = (embeddings,)
        for _, attended, output in layers:
            outputs += (attended, output)
        outputs += (self.model(*inputs, keys),)
        loss = 0.0
        for output, pull in zip(outputs, pulls):
            loss = loss + (output * pull).sum()
        return loss, outputs


class Differentiated(nn.Cell):
    def __init__(self, model, parameters):
        super().__init__(auto_prefix=False)
        self.gradients = ms.value_and_grad(Pulled(model), None, weights=ParameterTuple(parameters), has_aux=True)

    def construct(self, *values):
        # One by one: tensors in a tuple are constants of the graph, which is then compiled anew for every call.
        (_, outputs), gradients = self.gradients(*values)
        return outputs, gradients


class InMindSpore:
    dropout, without_gradient = staticmethod(stock.dropout), staticmethod(ops.stop_gradient)

    def __init__(self, config, dropout=stock.dropout):
        use_device("CPU")
        numerics = Numerics(kernels=stock.composed("float32", dropout=dropout))
        model = heads.BertForSequenceClassification(config, numerics)
        self.parameters = {p.name: p for p in model.get_parameters()}
        self.graph = Differentiated(model, [self.parameters[name] for name in GRADIENTS])

    def __call__(self, weights, keys=()):
        for name, value in complete(weights, {name: p.shape for name, p in self.parameters.items()}).items():
            self.parameters[name].set_data(Tensor(value))
        outputs, gradients = self.graph(*map(Tensor, (*PULLS.values(), *INPUTS, *keys)))
        return named([x.asnumpy() for x in outputs], [x.asnumpy() for x in gradients])


class InTorch:
    dropout, without_gradient = staticmethod(torch_kernels.dropout), staticmethod(torch.Tensor.detach)

    def __init__(self, config, dropout=torch_kernels.dropout):
        numerics = TorchNumerics(kernels=torch_kernels.composed("float32", dropout=dropout))
        self.model = torch_heads.BertForSequenceClassification(config, numerics)

    def __call__(self, weights, keys=()):
        parameters = dict(self.model.named_parameters())
        values = complete(weights, {name: tuple(p.shape) for name, p in parameters.items()})
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
        inputs, keys = list(map(torch.from_numpy, INPUTS)), tuple(map(torch.from_numpy, keys)) or None
        _, _, (embeddings, layers) = self.model.bert(*inputs, keys)
        outputs = [embeddings, *(x for layer in layers for x in layer[1:]), self.model(*inputs, keys)]
        loss = sum((output * torch.from_numpy(pull)).sum() for output, pull in zip(outputs, PULLS.values()))
        gradients = torch.autograd.grad(loss, [parameters[name] for name in GRADIENTS])
        return named([x.detach().numpy() for x in outputs], [x.numpy() for x in gradients])


def complete(weights, shapes):
    """Weights for all parameters, float32: 0 where nothing is said, LayerNorm's 1."""
    assert weights.keys() <= shapes.keys()
    rest = {name: np.full(shape, name.endswith("LayerNorm.weight")) for name, shape in shapes.items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in (rest | weights).items()}


def named(outputs, gradients):
    return dict(zip(OUTPUTS, outputs)), dict(zip(GRADIENTS, gradients))


# What is seen


@dataclasses.dataclass
class Seen:
    """One forward and backward pass: which sublayers got their constants, and what came out.

    Attributes:
        exposed: place of the mask, by the output that shows it. outputs, gradients: by name.
        masks: (ROWS, H) bool, True where a unit was kept; by place.
    """

    exposed: dict[str, str]
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]

    def __post_init__(self):
        self.masks = {place: kept(self.outputs[output]) for output, place in self.exposed.items()}


def kept(output: np.ndarray) -> np.ndarray:
    """Which units of the constants stand in an output: the extremes of a row are kept ones, of either sign."""
    low, high = output.min(1, keepdims=True), output.max(1, keepdims=True)
    distance = np.abs(output - (high + low) / 2) / ((high - low) / 2)
    assert ((distance < 0.2) | (distance > 0.8)).all(), "an output that is neither dropped nor kept"
    return distance > 0.5


def hidden_states(model, keys=()) -> Seen:
    return Seen({name: name for name in OUTPUTS}, *model(weights_of_hidden_states(), keys))


def probabilities(model, layer: int, keys=()) -> Seen:
    exposed = {f"layer.{layer}.attention.output": PROBABILITIES[layer], "classifier": "classifier, own"}
    return Seen(exposed, *model(weights_of_attention(layer), keys))


def draw(seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    return dropout_keys(seed, step, ROWS, DropoutColumns(CONFIG).total)


def all_places(model, in_attention, keys) -> list[Seen]:
    return [hidden_states(model, keys), *(probabilities(in_attention, layer, keys) for layer in range(LAYERS))]


def masks(seen: list[Seen]) -> dict[str, np.ndarray]:
    return {place: mask for one in seen for place, mask in one.masks.items()}


class Measured:
    """A framework, its models, and what is seen in them under the keys of each seed and step."""

    def __init__(self, framework):
        self.framework, self.model, self.in_attention = framework, framework(CONFIG), framework(IN_ATTENTION)
        self.drawn = {at: self.under(draw(*at)) for at in DRAWS}

    def under(self, keys) -> list[Seen]:
        return all_places(self.model, self.in_attention, keys)


@pytest.fixture(scope="module")
def in_mindspore():
    return Measured(InMindSpore)


@pytest.fixture(scope="module")
def in_torch():
    return Measured(InTorch)


@pytest.fixture(params=["in_mindspore", "in_torch"])
def measured(request):
    return request.getfixturevalue(request.param)


# The checks, of what was drawn at each seed and step


# Of outputs near 1, and relative to the largest of a gradient. Seen: 4e-7 and 1.2e-6; with the faults planted
# below at least 4e-3 at every place, and 0.4 of every gradient.
SCALE_TOLERANCE, GRADIENT_TOLERANCE = 4e-6, 1.2e-5
CHANCE = 1e-4  # that a check fails on masks that are as they should be


def most(terms: int, largest: float, comparisons: int) -> float:
    """What no sum of so many independent terms reaches in any of the comparisons, but with CHANCE.

    Bernstein's inequality, for terms of mean 0 and variance 1, none above `largest`: unlike so many standard errors it
    holds for sums of few and skewed terms too. It comes to 5 of them for sums over a whole mask, where the largest seen
    is 2.8, and to 9 and 11 for sums over the rows of two units and over the units of two rows, where it is 5.1 and 5.9.
    """
    x = math.log(2 * comparisons / CHANCE)
    return x * largest / 3 + math.sqrt((x * largest / 3) ** 2 + 2 * x * terms)


def standardized(mask: np.ndarray, rate: float) -> np.ndarray:
    """The drops as numbers of mean 0 and variance 1, if they are made at this rate."""
    return (~mask - np.float32(rate)) / np.float32(math.sqrt(rate * (1 - rate)))


LARGEST = (1 - HIDDEN) / math.sqrt(HIDDEN * (1 - HIDDEN))  # standardized, at the lowest of the rates


def check_rates(drawn):
    """Every share of drops lies within 5 standard errors, 0.006 at a rate of 0.1, of the rate."""
    for seen in drawn.values():
        for place, mask in masks(seen).items():
            total = standardized(mask, RATES[place]).sum(dtype=np.float64)
            assert abs(total) < most(mask.size, LARGEST, len(drawn) * len(RATES)), f"the rate of {place}"


def check_units(seen):
    """No two units, of one place or of two, are dropped together more or less often than chance has it.

    For two that are always dropped together the sum is ROWS = 1024, and the most allowed is 286; of whole places, where
    each unit of one is held against the same of the other, the most is 0.02 of what it is for two that are the same.
    """
    # The own rate of the classifier changes its threshold, not its draw.
    places = {place: standardized(mask, RATES[place]) for place, mask in masks(seen).items() if "own" not in place}
    together = np.concatenate(list(places.values()), 1)
    sums = np.abs(together.T @ together)
    np.fill_diagonal(sums, 0)
    a, b = np.unravel_index(sums.argmax(), sums.shape)
    names = [place for place in places for _ in range(H)]
    assert sums.max() < most(ROWS, LARGEST**2, sums.size // 2), f"units of {names[a]} and {names[b]}"
    pairs = list(itertools.combinations(places, 2))
    for one, other in pairs:
        total = (places[one] * places[other]).sum(dtype=np.float64)
        assert abs(total) < most(ROWS * H, LARGEST**2, len(pairs)), f"{one} and {other}"
    for place in PROBABILITIES:
        total = (places[place][:, :S] * places[place][:, S:]).sum(dtype=np.float64)
        assert abs(total) < most(ROWS * S, LARGEST**2, LAYERS), f"the heads of {place}"


def check_rows(seen):
    """No two tokens, of one sequence or of two, lose the same units more or less often than chance has it.

    For two that lose the same the sum is near 512, the units of all places, and the most allowed is 238.
    """
    places = [standardized(mask, RATES[place]) for place, mask in masks(seen).items() if "own" not in place]
    together = np.concatenate(places, 1)
    sums = np.abs(together @ together.T)
    np.fill_diagonal(sums, 0)
    a, b = np.unravel_index(sums.argmax(), sums.shape)
    assert sums.max() < most(together.shape[1], LARGEST**2, sums.size // 2), f"rows {a} and {b}"
    for name, distance in (("tokens", 1), ("sequences", S)):
        total = (together[distance:] * together[:-distance]).sum(dtype=np.float64)
        assert abs(total) < most(together.size, LARGEST**2, 2), f"neighbouring {name}"


def check_draws(drawn):
    """No place loses the same units at two steps, or under two seeds, more or less often than chance has it."""
    pairs = list(itertools.combinations(drawn, 2))
    for one, other in pairs:
        for (place, a), b in zip(masks(drawn[one]).items(), masks(drawn[other]).values()):
            total = (standardized(a, RATES[place]) * standardized(b, RATES[place])).sum(dtype=np.float64)
            most_here = most(a.size, LARGEST**2, len(pairs) * len(RATES))
            assert abs(total) < most_here, f"{place} at seed and step {one} and {other}"


def check_scales(seen: Seen, rates=RATES):
    """Every output is what comes of the constants where they were kept, divided by 1 - rate, and of 0 elsewhere."""
    before, wrong = None, []
    for name, output in seen.outputs.items():
        expected = constants(seen, name, rates)
        if name in SUBLAYERS:
            expected = normalized(before + expected)[0]
        elif name == "classifier":
            expected = np.tanh(1.0) * expected
        elif name not in seen.exposed:
            expected = np.tile(codes(), (B, 1))
        if np.abs(output - expected).max() > SCALE_TOLERANCE:
            wrong.append(seen.exposed.get(name, name))
        before = output
    assert not wrong, f"the scale at {', '.join(wrong)}"


def constants(seen: Seen, output: str, rates) -> np.ndarray:
    """(ROWS, H): what dropout makes of the constants that lead to an output."""
    if output not in seen.exposed:
        return np.zeros((ROWS, H))
    size = SIZE if output in SUBLAYERS else 1.0
    place = seen.exposed[output]
    return size * SIGNS * seen.masks[place] / (1.0 - rates[place])


def normalized(x):
    centred = x - x.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True))
    return centred / deviation, deviation


def check_gradients(seen: Seen):
    """The gradients of what was dropped are those of the mask that the outputs show."""
    expected = {"bert.pooler.dense.bias": (PULLS["classifier"] * constants(seen, "classifier", RATES)).sum(0)}
    expected["bert.pooler.dense.bias"] *= SIGNS * (1 - np.tanh(1.0) ** 2)
    pull = 0.0
    for before, output in reversed(list(zip(OUTPUTS, SUBLAYERS))):
        pull = pull + PULLS[output]
        normal, deviation = normalized(seen.outputs[before] + constants(seen, output, RATES))
        # Through LayerNorm, to the constants and along the residual.
        pull = pull - pull.mean(1, keepdims=True) - normal * (pull * normal).mean(1, keepdims=True)
        pull = pull / deviation
        if seen.exposed.get(output) == output:
            scaled = seen.masks[output] / (1.0 - RATES[output])
            expected[f"bert.encoder.{output}.dense.bias"] = (pull * scaled).sum(0)
        elif output in seen.exposed:
            place = seen.exposed[output]
            scaled = (seen.masks[place] / (1.0 - RATES[place]) / S).reshape(B, S, HEADS, S)
            pulled = (pull * SIZE * S * SIGNS).reshape(B, S, HEADS, S)
            values = np.einsum("bqhk,bqhd->bkhd", scaled, pulled).reshape(ROWS, H)
            name = f"bert.encoder.{output.removesuffix('output')}self.value.weight"
            expected[name] = values.T @ np.tile(codes(), (B, 1))
    if "embeddings" in seen.exposed:
        scaled = seen.masks["embeddings"] / (1.0 - RATES["embeddings"])
        expected["bert.embeddings.LayerNorm.bias"] = ((pull + PULLS["embeddings"]) * scaled).sum(0)
    assert len(expected) == len(seen.exposed)
    errors = {n: np.abs(seen.gradients[n] - value).max() / np.abs(value).max() for n, value in expected.items()}
    wrong = [name for name, error in errors.items() if error > GRADIENT_TOLERANCE]
    assert not wrong, f"the gradients of {', '.join(wrong)}"


def check_nothing_is_dropped(seen: list[Seen]):
    for place, mask in masks(seen).items():
        assert mask.all(), f"dropout at {place}"
    for one in seen:
        check_scales(one, dict.fromkeys(RATES, 0.0))


# The tests


def test_every_place_drops_at_its_own_rate(measured):
    check_rates(measured.drawn)


def test_survivors_are_divided_by_one_less_the_rate_at_every_place(measured):
    for seen in measured.drawn.values():
        for one in seen:
            check_scales(one)
        # Where nothing follows the dropout it can be told to the last bit.
        assert set(np.unique(np.abs(seen[0].outputs["embeddings"]))) == {np.float32(0), np.float32(1 / (1 - HIDDEN))}


def test_no_unit_layer_head_or_place_shares_its_drops_with_another(measured):
    for seen in measured.drawn.values():
        check_units(seen)


def test_no_token_or_sequence_shares_its_drops_with_another(measured):
    for seen in measured.drawn.values():
        check_rows(seen)


def test_every_step_and_every_seed_drops_anew(measured):
    check_draws(measured.drawn)


def test_nothing_is_dropped_in_evaluation(measured):
    first, again = (all_places(measured.model, measured.model, keys=()) for _ in range(2))
    check_nothing_is_dropped(first)
    for one, other in zip(first, again):
        assert all((output == other.outputs[name]).all() for name, output in one.outputs.items())


def test_nothing_is_dropped_at_rate_0(measured):
    model = measured.framework(WITHOUT)
    check_nothing_is_dropped(all_places(model, model, draw(1, 0)))


def test_the_gradient_passes_through_the_mask_of_the_forward_pass(measured):
    for seen in measured.drawn.values():
        for one in seen:
            check_gradients(one)


def test_both_frameworks_drop_the_very_same_units_at_every_place(in_mindspore, in_torch):
    for at in DRAWS:
        ours, theirs = masks(in_mindspore.drawn[at]), masks(in_torch.drawn[at])
        assert list(ours) == list(theirs) and len(ours) == len(RATES)
        assert [place for place, mask in ours.items() if (mask != theirs[place]).any()] == []


# Faults, each planted and caught by the check that a test above rests on


def test_fault_a_rate_of_a_tenth_more_is_caught(measured):
    model = measured.framework(CONFIG.replace(hidden_dropout_prob=1.1 * HIDDEN))
    with pytest.raises(AssertionError, match="the rate of embeddings"):
        check_rates({(1, 0): [hidden_states(model, draw(1, 0))]})


@pytest.mark.parametrize(
    "layout, index, shift, words",
    [
        ("hidden", 3, -2 * H, "units of layer.0.attention.output and layer.1.attention.output"),
        ("hidden", 2 * LAYERS + 1, -1, "units of layer.1.output and classifier"),
        ("attention", 1, -HEADS * CONFIG.max_position_embeddings, "units of .*0.*probabilities and .*1.*probabilities"),
    ],
)
def test_fault_two_places_on_the_same_columns_are_caught(measured, monkeypatch, layout, index, shift, words):
    right = getattr(DropoutColumns, layout)
    monkeypatch.setattr(DropoutColumns, layout, lambda self, i: right(self, i) + (shift if i == index else 0))
    # The probabilities' columns come after those of the hidden blocks, whose number this does not change.
    models = {"hidden": measured.model, "attention": measured.in_attention}
    models[layout] = measured.framework({"hidden": CONFIG, "attention": IN_ATTENTION}[layout])
    with pytest.raises(AssertionError, match=words):
        check_units(all_places(*models.values(), draw(1, 0)))


def test_fault_two_heads_with_the_same_drops_are_caught(measured):
    row_keys, column_keys = draw(1, 0)
    first = DropoutColumns(CONFIG).attention(1)
    column_keys[first + S : first + 2 * S] = column_keys[first : first + S]
    with pytest.raises(AssertionError, match=f"units of {PROBABILITIES[1]} and {PROBABILITIES[1]}"):
        check_units(measured.under((row_keys, column_keys)))


def test_fault_the_same_drops_in_every_sequence_are_caught(measured):
    row_keys, column_keys = draw(1, 0)
    with pytest.raises(AssertionError, match="rows"):
        check_rows(measured.under((np.tile(row_keys[:S], (B, 1)), column_keys)))


def test_fault_the_same_drops_at_two_steps_are_caught(measured):
    with pytest.raises(AssertionError, match=r"embeddings at seed and step \(1, 1\) and \(1, 2\)"):
        check_draws(measured.drawn | {(1, 2): measured.under(draw(1, 1))})


def test_fault_a_missing_scale_is_caught(measured):
    right = measured.framework.dropout

    def unscaled(x, rate, row_keys, column_keys):
        return right(x, rate, row_keys, column_keys) * (1.0 - rate)

    seen = hidden_states(measured.framework(CONFIG, unscaled), draw(1, 0))
    with pytest.raises(AssertionError, match=f"the scale at {', '.join(OUTPUTS)}"):
        check_scales(seen)


def test_fault_dropout_in_evaluation_is_caught(measured):
    with pytest.raises(AssertionError, match="dropout at embeddings"):
        check_nothing_is_dropped(measured.drawn[1, 0])


def test_fault_another_mask_in_the_backward_pass_is_caught(measured):
    right, without_gradient = measured.framework.dropout, measured.framework.without_gradient

    def two_masks(x, rate, row_keys, column_keys):
        backward = right(x, rate, row_keys, column_keys * 3)
        return backward + without_gradient(right(x, rate, row_keys, column_keys) - backward)

    seen = hidden_states(measured.framework(CONFIG, two_masks), draw(1, 0))
    check_scales(seen)
    with pytest.raises(AssertionError) as caught:
        check_gradients(seen)
    assert all(name in str(caught.value) for name in GRADIENTS if not name.endswith("value.weight"))
