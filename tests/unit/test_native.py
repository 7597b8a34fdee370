"""Every C++ kernel and its gradient against float64, for each instruction set, at sizes that are multiples of nothing.

Not through MindSpore: so that the same tests run under sanitizers, and no other operation is in the way.
"""

import ctypes
import math
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from ms_bert.kernels import native
from ms_bert.tiles import bounds

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}"),
    pytest.mark.usefixtures("computing"),
]

NO_KEYS = (np.ones((1, 1), np.int32), np.ones(1, np.int32))
EPSILON = 1e-12
TOLERANCE = 2e-6  # of the largest element
ROUNDED = {"float32": 0.0, "bfloat16": 2e-2}  # the least tolerance where products round what they multiply
in_use = ["float32"]


@pytest.fixture
def computing(precision):
    """What `call` computes with."""
    in_use[0] = precision
    yield
    in_use[0] = "float32"


def numbers(*shape, seed=0, scale=1.0) -> np.ndarray:
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


def keys(rows, columns):
    rng = np.random.default_rng(3)
    draw = [rng.integers(-(2**31), 2**31, shape).astype(np.int32) | 1 for shape in ((rows, 1), (columns,))]
    return tuple(draw)


def threshold(rate) -> int:
    return int(-(2**31) + rate * 2**32)


def dropout_settings(rate) -> tuple[int, int, float]:
    return threshold(rate) >> 16, threshold(rate) & 0xFFFF, 1.0 / (1.0 - rate)


def factors(row_keys, column_keys, rate) -> torch.Tensor:
    with np.errstate(over="ignore"):
        kept = row_keys * column_keys >= np.int32(threshold(rate))
    return torch.from_numpy(kept / (1.0 - rate))


class Kept(tuple):
    """The shape of what a kernel keeps for its gradient."""


def kept(array) -> np.ndarray:
    """What a kernel keeps of an array, as its gradient takes it: itself, or bfloat16 in int32 of half as many bits."""
    if in_use[0] == "float32":
        return array
    found = np.zeros((array.size + 1) // 2, np.int32)
    found.view(ml_dtypes.bfloat16)[: array.size] = array.reshape(-1)
    return found


def numbers_of(found, shape) -> np.ndarray:
    """The numbers of what is kept."""
    if in_use[0] == "float32":
        return found
    return found.view(ml_dtypes.bfloat16)[: math.prod(shape)].astype(np.float32).reshape(shape)


def call(name, inputs, *shapes, copies=()) -> list[np.ndarray]:
    """What a kernel gives; copies: of which inputs it keeps some of its own, where it does not keep them themselves."""
    copied = [inputs[i] for i in copies] if in_use[0] != "float32" else []
    outputs = []
    for shape in (*shapes, *(Kept(array.shape) for array in copied)):
        if isinstance(shape, Kept) and in_use[0] != "float32":
            outputs.append(np.zeros((math.prod(shape) + 1) // 2, np.int32))
        else:
            outputs.append(np.full(shape, np.nan, np.float32))
    native.call(name, inputs, outputs, in_use[0])
    for array, copy in zip(copied, outputs[len(shapes) :]):
        assert copy.tobytes() == kept(array).tobytes()
    return outputs[: len(shapes)]


def assert_close(found, expected, tolerance=TOLERANCE, exact=False):
    """exact: no product has rounded what it multiplied, or it needed no rounding."""
    tolerance = tolerance if exact else max(tolerance, ROUNDED[in_use[0]])
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        other = other.detach().numpy() if isinstance(other, torch.Tensor) else other
        assert one.shape == other.shape
        difference, scale = np.abs(one - other), np.abs(other).max(initial=1e-30)
        assert np.isfinite(one).all(), i
        assert difference.max(initial=0.0) <= tolerance * scale, (i, difference.max(initial=0.0) / scale)


def doubles(*arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float64)).requires_grad_() for array in arrays]


def gradients(output, direction, inputs) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output, inputs, torch.from_numpy(direction.astype(np.float64))))


SHAPES = [(1, 1, 1), (3, 5, 2), (37, 50, 33), (45, 270, 301), (130, 300, 70), (300, 33, 520)]  # rows, inputs, outputs


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_linear(rows, inputs, outputs):
    x, w, b, dy = numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs), numbers(rows, outputs, seed=1)
    exact = doubles(x, w, b)
    y = exact[0] @ exact[1].T + exact[2]
    assert_close(call("linear", [x, w, b], (rows, outputs)), [y])
    assert_close(call("linear_gradient", [dy, x, w], x.shape, w.shape, b.shape), gradients(y, dy, exact))


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_products_of_numbers_with_few_digits_are_exact_in_every_precision(rows, inputs, outputs):
    x, w, b, dy = (
        np.round(numbers(*shape, seed=i) * 16).clip(-100, 100)
        for i, shape in enumerate([(rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)])
    )
    exact = doubles(x, w, b)
    y = exact[0] @ exact[1].T + exact[2]
    assert_close(call("linear", [x, w, b], (rows, outputs)), [y], exact=True)
    found = call("linear_gradient", [dy, x, w], x.shape, w.shape, b.shape)
    assert_close(found, gradients(y, dy, exact), exact=True)


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_projections(rows, inputs, outputs):
    x, dys = numbers(rows, inputs), [numbers(rows, outputs, seed=i) for i in range(3)]
    layers = [(numbers(outputs, inputs, seed=i), numbers(outputs, seed=i)) for i in range(3)]
    exact, pairs = doubles(x)[0], [doubles(*layer) for layer in layers]
    ys = [exact @ w.T + b for w, b in pairs]
    flat = [array for layer in layers for array in layer]
    assert_close(call("projections", [x, *flat], *[(rows, outputs)] * 3, copies=[0]), ys)
    summed = sum((y * torch.from_numpy(dy.astype(np.float64))).sum() for y, dy in zip(ys, dys))
    expected = torch.autograd.grad(summed, [exact, *[t for pair in pairs for t in pair]])
    shapes = [x.shape, *[array.shape for array in flat]]
    assert_close(call("projections_gradient", [*dys, kept(x), *[w for w, _ in layers]], *shapes), expected)


ACTIVATIONS = {
    "gelu": torch.nn.functional.gelu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
}


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_linear_and_activation(name, rows, inputs, outputs):
    x, w, b, dy = numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs), numbers(rows, outputs, seed=1)
    w *= np.float32(inputs**-0.5)
    if name == "relu":  # whose slope jumps: with few digits all know on which side of it a number is
        x, w, b = (np.round(array * 16) / 16 for array in (x, w, b))
    exact = doubles(x, w, b)
    z = exact[0] @ exact[1].T + exact[2]
    y = ACTIVATIONS[name](z)
    value, before = call(f"linear_{name}", [x, w, b], (rows, outputs), Kept((rows, outputs)), copies=[0])
    assert_close([value, numbers_of(before, (rows, outputs))], [y, z])
    found = call(f"linear_{name}_gradient", [dy, before, kept(x), w], x.shape, w.shape, b.shape)
    assert_close(found, gradients(y, dy, exact))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_right_everywhere(name):
    x = np.append(np.linspace(-14, 14, 20_001), [1e-30, -1e-30, 0.0, 1e30, -1e30, 3e38]).astype(np.float32)[:, None]
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32) if in_use[0] == "bfloat16" else x
    one, none = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    exact = doubles(x)[0]
    y = ACTIVATIONS[name](exact)
    value, before = call(f"linear_{name}", [x, one, none], x.shape, Kept(x.shape), copies=[0])
    # Relative to x: where the function is tiny, so is what it adds to anything.
    assert (np.abs(value - y.detach().numpy()) <= 2.5e-7 * np.abs(x) + 1e-37).all()
    slope = call(f"linear_{name}_gradient", [np.ones_like(x), before, kept(x), one], x.shape, (1, 1), (1,))[0]
    away = np.abs(x) < 1e30
    expected = gradients(y, np.ones_like(x), [exact])[0].numpy()
    assert np.abs(slope - expected)[away & (x != 0)].max() <= max(5e-7, ROUNDED[in_use[0]])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_has_its_limits_and_keeps_nan(name):
    x = np.array([[np.inf], [-np.inf], [np.nan]], np.float32)
    one, none = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    value, before = call(f"linear_{name}", [x, one, none], x.shape, Kept(x.shape), copies=[0])
    assert value[0, 0] == np.inf and value[1, 0] == 0.0 and np.isnan(value[2, 0])
    slope = call(f"linear_{name}_gradient", [np.ones_like(x), before, kept(x), one], x.shape, (1, 1), (1,))[0]
    assert slope[0, 0] == 1.0 and slope[1, 0] == 0.0 and np.isnan(slope[2, 0])


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES[1:])
def test_linear_dropout_add_norm(rows, inputs, outputs, rate):
    x, w, b = numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs)
    residual, gamma, beta = numbers(rows, outputs, seed=2), 1 + numbers(outputs, seed=3, scale=0.1), numbers(outputs)
    dy = numbers(rows, outputs, seed=4)
    drawn = keys(rows, outputs) if rate else NO_KEYS
    exact = doubles(x, w, b, residual, gamma, beta)
    z = exact[0] @ exact[1].T + exact[2]
    z = exact[3] + (z * factors(*drawn, rate) if rate else z)
    y = torch.nn.functional.layer_norm(z, (outputs,), exact[4], exact[5], EPSILON)
    settings = np.array([*dropout_settings(rate), EPSILON], np.float32)
    wide, narrow = (rows, outputs), (rows,)
    inputs_ = [x, w, b, residual, gamma, beta, *drawn, settings]
    found = call("linear_dropout_add_norm", inputs_, wide, Kept(wide), narrow, copies=[0])
    assert_close(found[:1], [y], 2e-5 if outputs == 2 else TOLERANCE)  # of two numbers, which may be near each other
    if outputs == 2:
        return
    inputs_ = [dy, found[1], found[2], kept(x), w, gamma, *drawn, settings]
    found = call("linear_dropout_add_norm_gradient", inputs_, x.shape, w.shape, b.shape, wide, b.shape, b.shape)
    assert_close(found, gradients(y, dy, exact), 4e-6)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.99999999])
def test_dropout_keeps_to_its_threshold_exactly(rate):
    """With a column key of 1 the product is the row key: here those about the threshold, which float32 would mix up."""
    near = threshold(rate) + np.array([[-1], [0], [1], [8], [-8]])
    rows, ones, zeros = near.astype(np.int32), np.ones(8, np.float32), np.zeros(8, np.float32)
    x, w = np.ones((5, 8), np.float32), np.eye(8, dtype=np.float32)
    settings = np.array([*dropout_settings(rate), EPSILON], np.float32)
    inputs = [x, w, zeros, np.arange(40, dtype=np.float32).reshape(5, 8), ones, zeros, rows]
    columns = np.concatenate([np.ones(1, np.int32), np.full(7, 0, np.int32)])  # of 0 the product is 0
    inputs = [*inputs, columns, settings]
    normal, _, _ = call("linear_dropout_add_norm", inputs, (5, 8), Kept((5, 8)), (5,), copies=[0])
    z = inputs[3] + np.where(rows.astype(np.int64) * columns >= threshold(rate), 1.0 / (1.0 - rate), 0.0)
    exact = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    np.testing.assert_allclose(normal, exact, atol=2e-6 * max(1.0, np.abs(exact).max()))


def test_a_type_that_no_kernel_reads_is_refused(capfd):
    count, types = 2, (ctypes.c_char_p * 2)(b"int64", b"float32")
    assert ctypes.CDLL(str(native.LIBRARY)).ms_bert_sums_of_squares(count, None, None, None, types, None, None) == 2
    assert "sums_of_squares takes float32 and int32 only" in capfd.readouterr().err


def test_a_library_of_other_sources_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "kernels.h").write_text("// another")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    assert "built from other sources" in native.why_not()


def test_layer_norm_keeps_nothing_of_a_large_mean():
    x = numbers(40, 50) + 1e3
    gamma, beta = numbers(50), numbers(50, seed=1)
    exact = doubles(x, gamma, beta)
    y = torch.nn.functional.layer_norm(exact[0], (50,), exact[1], exact[2], EPSILON)
    found = call("layer_norm", [x, gamma, beta, np.array([EPSILON], np.float32)], x.shape, x.shape, (40,))
    assert_close(found[:1], [y], 1e-4)
    dy = numbers(40, 50, seed=5)
    found = call("layer_norm_gradient", [dy, found[1], found[2], gamma], x.shape, (50,), (50,))
    assert_close(found, gradients(y, dy, exact), 1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_embed(rate):
    rows, width, sizes = (4, 19), 50, (23, 2, 31)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, size, rows).astype(np.int32) for size in sizes]
    ids[0][0, :5] = 7  # many of one token
    tables = [numbers(size, width, seed=i) for i, size in enumerate(sizes)]
    gamma, beta, dy = 1 + numbers(width, scale=0.1), numbers(width, seed=6), numbers(4 * 19, width, seed=7)
    drawn = keys(4 * 19, width) if rate else NO_KEYS
    exact = doubles(*tables, gamma, beta)
    z = sum(table[torch.from_numpy(one.reshape(-1)).long()] for table, one in zip(exact, ids))
    y = torch.nn.functional.layer_norm(z, (width,), exact[3], exact[4], EPSILON)
    y = y * factors(*drawn, rate) if rate else y
    settings, wide = np.array([*dropout_settings(rate), EPSILON], np.float32), (4 * 19, width)
    found = call("embed", [*ids, *tables, gamma, beta, *drawn, settings], wide, wide, (4 * 19,))
    assert_close(found[:1], [y])
    inputs = [dy, found[1], found[2], *ids, gamma, *drawn, settings, *tables]
    found = call("embed_gradient", inputs, *[t.shape for t in tables], gamma.shape, beta.shape)
    assert_close(found, gradients(y, dy, exact))


@pytest.mark.parametrize(
    "which, ids, said",
    [
        (0, [0, 99, 1], "an id is 99, but its table has the entries 0 to 3"),
        (0, [0, 3, -1], "an id is -1,"),
        (1, [0, 1, 2], "a token type is 2, but its table has the entries 0 to 1"),
        (2, [0, 1, 2**31 - 1], "a position is 2147483647,"),
        (1, [0, 1], "token types: 2 where 3 were expected"),
        (2, [0, 1, 2, 0], "positions: 4 where 3 were expected"),
    ],
)
def test_an_id_that_a_table_has_not_is_refused(which, ids, said, capfd):
    all_ids = [np.zeros((1, 3), np.int32) for _ in range(3)]
    all_ids[which] = np.array([ids], np.int32)
    tables = [numbers(4, 8), numbers(2, 8, seed=1), numbers(3, 8, seed=2)]
    ones, settings = np.ones(8, np.float32), np.array([*dropout_settings(0.0), EPSILON], np.float32)
    with pytest.raises(ValueError, match="embed"):
        call("embed", [*all_ids, *tables, ones, ones * 0, *NO_KEYS, settings], (3, 8), (3, 8), (3,))
    assert f"ms_bert: embed: {said}" in capfd.readouterr().err


def test_arrays_that_do_not_fit_are_refused(capfd):
    """As a user's own head or model may give them; before anything is read or written."""
    x, w, b = numbers(6, 8), numbers(8, 8), numbers(8)
    settings = np.array([*dropout_settings(0.0), EPSILON], np.float32)
    wide, heads = numbers(6, 9), np.array([*dropout_settings(0.0), 2, 0], np.float32)
    for name, inputs, outputs, copies, said in (
        ("linear", [wide, w, b], [(6, 8)], [], "numbers in a row: 9 where 8"),
        ("linear", [x.reshape(2, 3, 8), w, b], [(2, 8)], [], "numbers in a row: 24 where 8"),
        ("linear_gelu", [wide, w, b], [(6, 8), Kept((6, 8))], [0], "numbers in a row: 9 where 8"),
        ("linear_cross_entropy", [x, w, b, np.zeros(5, np.int32)], [(5,), (5,), Kept((6, 8))], [], "labels: 5 where 6"),
        ("projections", [wide, *[w, b] * 3], [(6, 8)] * 3, [0], "numbers in a row: 9 where 8"),
        (
            "linear_dropout_add_norm",
            [x, w, b, numbers(5, 8), b, b, *NO_KEYS, settings],
            [(6, 8), Kept((6, 8)), (6,)],
            [0],
            "numbers of the residual: 40 where 48",
        ),
        *(
            ("attention", [x, key, value, ids, *NO_KEYS, heads], [(6, 8), (2, 2, 3, 2)], [0, 1, 2], said)
            for key, value, ids, said in (
                (x, x, np.ones((2, 50), np.int32), "sequence ids (the attention mask): 100 where 6"),
                (x[:5], x, np.ones((2, 3), np.int32), "numbers of the keys: 40 where 48"),
                (x, wide, np.ones((2, 3), np.int32), "numbers of the values: 54 where 48"),
            )
        ),
    ):
        with pytest.raises(ValueError, match=name):
            call(name, inputs, *outputs, copies=copies)
        assert f"ms_bert: {name}: {said}" in capfd.readouterr().err


def packed(batch, tokens):
    """Rows of several sequences, of one and of none, padding among them."""
    ids = np.zeros((batch, tokens), np.int32)
    for row, cuts in enumerate([(0, 1), (0, 0.3, 0.8), (0.2, 0.5, 0.9), (0, 0)][:batch]):
        for number, (begin, end) in enumerate(zip(cuts, cuts[1:])):
            ids[row, int(begin * tokens) : int(end * tokens)] = number + 1
    return ids


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens, heads, size", [(1, 1, 1), (5, 3, 7), (61, 2, 32), (530, 2, 33)])
def test_attention(tokens, heads, size, causal, rate):
    batch = 4
    ids, shape = packed(batch, tokens), (batch * tokens, heads * size)
    q, k, v, dc = (numbers(*shape, seed=i) for i in range(4))
    row_keys, column_keys = keys(batch * tokens, heads * tokens) if rate else NO_KEYS
    exact = doubles(q, k, v)
    split = [x.reshape(batch, tokens, heads, size).transpose(1, 2) for x in exact]
    mask = torch.from_numpy((ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] > 0))[:, None]
    mask = mask.tril() if causal else mask
    scores = (split[0] @ split[1].transpose(2, 3)) / size**0.5
    p = torch.where(mask, scores, -torch.inf).softmax(-1).nan_to_num(0.0)
    if rate:
        p = p * factors(row_keys.reshape(batch, 1, tokens, 1), column_keys.reshape(heads, 1, tokens), rate)
    context = (p @ split[2]).transpose(1, 2).reshape(shape)
    drawn, settings = (row_keys, column_keys), np.array([*dropout_settings(rate), heads, causal], np.float32)
    found = call("attention", [q, k, v, ids, *drawn, settings], shape, (batch, heads, tokens, 2), copies=[0, 1, 2])
    assert_close(found[:1], [context])
    assert not found[0][ids.reshape(-1) == 0].any()
    inside = torch.where(mask, scores, 0.0)
    p = torch.where(mask, torch.exp(inside - torch.where(mask, scores, -torch.inf).amax(-1, True).nan_to_num(0.0)), 0.0)
    p = p / p.sum(-1, keepdim=True).clamp(min=1e-300)
    if rate:
        p = p * factors(row_keys.reshape(batch, 1, tokens, 1), column_keys.reshape(heads, 1, tokens), rate)
    again = (p @ split[2]).transpose(1, 2).reshape(shape)
    expected = gradients(again, dc, exact)
    of_forward = [kept(x) for x in (q, k, v)]
    found = call("attention_gradient", [dc, *of_forward, ids, found[1], *drawn, settings], *[shape] * 3)
    if tokens == 1:  # the softmax of one score is 1 whatever it is
        assert not found[0].any() and not found[1].any()
        found, expected = found[2:], expected[2:]
    assert_close(found, expected, 5e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_sequence_is_attended_to_as_if_it_stood_alone(causal):
    heads, width, lengths = 3, 21, (1, 300, 7, 2, 33, 16)
    tokens = sum(lengths) + 5
    ids = np.zeros((1, tokens), np.int32)
    ids[0, : sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    q, k, v = (numbers(tokens, width, seed=i) for i in range(3))
    settings = np.array([*dropout_settings(0.0), heads, causal], np.float32)

    def context(first, last):
        rows = slice(first, last)
        shapes = (last - first, width), (1, heads, last - first, 2)
        inputs = [q[rows], k[rows], v[rows], ids[:, rows], *NO_KEYS, settings]
        return call("attention", inputs, *shapes, copies=[0, 1, 2])[0]

    together, ends = context(0, tokens), np.cumsum(lengths)
    for first, last in zip(ends - lengths, ends):
        assert together[first:last].tobytes() == context(first, last).tobytes()


def test_attention_hides_no_nan_and_gives_padding_none():
    ids = np.array([[1, 1, 2, 2, 2, 0]], np.int32)
    q, k, v = (numbers(6, 8, seed=i) for i in range(3))
    k[1, 0], v[1, 0] = np.nan, np.inf
    settings = np.array([*dropout_settings(0.0), 1, 0], np.float32)
    found = call("attention", [q, k, v, ids, *NO_KEYS, settings], (6, 8), (1, 1, 6, 2), copies=[0, 1, 2])[0]
    assert np.isnan(found[:2]).any(1).all() and not found[5].any()


@pytest.mark.parametrize("rows, inputs, outputs", [(1, 1, 1), (7, 5, 3), (50, 33, 1000), (29, 70, 611)])
def test_linear_cross_entropy(rows, inputs, outputs):
    x, w = (np.round(numbers(*shape) * 32) / 32 for shape in ((rows, inputs), (outputs, inputs)))  # exact products
    b = numbers(outputs)
    labels = np.random.default_rng(0).integers(0, outputs, rows).astype(np.int32)
    dy = np.abs(numbers(rows, seed=9))
    dy[::3] = 0.0  # ignored
    exact = doubles(x, w, b)
    scores = exact[0] @ exact[1].T + exact[2]
    right = scores.argmax(-1).numpy()
    labels[: rows // 2] = right[: rows // 2]
    losses = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels).long(), reduction="none")
    found = call("linear_cross_entropy", [x, w, b, labels], (rows,), (rows,), Kept((rows, outputs)))
    assert np.abs(found[0] - losses.detach().numpy()).max() <= 2e-6 * max(1.0, float(scores.detach().abs().max()))
    assert (found[1] == (right == labels)).all()
    found = call("linear_cross_entropy_gradient", [dy, found[2], x, w], x.shape, w.shape, b.shape)
    if outputs > 1:
        assert_close(found, gradients(losses, dy, exact), 4e-6)


def test_the_first_of_equal_scores_is_the_answer_and_a_label_that_is_none_gives_nan():
    x, w, b = np.ones((3, 1), np.float32), np.zeros((5, 1), np.float32), np.array([0, 1, 0, 1, 0], np.float32)
    labels = np.array([1, 3, 9], np.int32)
    losses, correct, _ = call("linear_cross_entropy", [x, w, b, labels], (3,), (3,), Kept((3, 5)))
    assert correct.tolist() == [1, 0, 0] and np.isfinite(losses[:2]).all() and np.isnan(losses[2])


@pytest.mark.parametrize("count", [1, 5, 16, 1000, 100_003])
def test_the_optimizer(count):
    p, m, g = numbers(count), numbers(count, seed=1, scale=0.1), numbers(count, seed=2)
    v = np.abs(numbers(count, seed=3, scale=0.01))
    settings = np.array([0.1, 0.9, 0.1, 0.99, 0.01, 1e-3, 0.02, 0.5], np.float32)
    r, b1, c1, b2, c2, epsilon, decay, factor = settings.astype(np.float64)
    gd = g.astype(np.float64) * factor
    new_m, new_v = b1 * m + c1 * gd, b2 * v + c2 * gd * gd
    new_p = p - r * (new_m / (np.sqrt(new_v) + epsilon) + decay * p)
    call("adam", [p, m, v, g, settings], (1,))
    assert_close([p, m, v], [new_p, new_m, new_v], 1e-6)
    exact = np.square(g.astype(np.float64)).sum()
    assert call("sums_of_squares", [g], (1,))[0][0] == pytest.approx(exact, rel=1e-6)
    g[count // 2] = np.nan
    assert np.isnan(call("sums_of_squares", [g], (1,))[0][0])


@pytest.mark.parametrize("shape", [(2**21 + 7,), (3000, 800), (2, 2**20 + 5), (9, 2**19)])
def test_the_squares_of_a_tile_are_the_same_beside_others_and_alone(shape):
    """So a worker that has some tiles of a parameter finds the summands of its norm that another one would."""
    g = numbers(*shape)
    parts = [g[begin:end] for begin, end in bounds(shape)]
    assert len(parts) > 1 and max(part.size for part in parts) <= max(2**20, g[0].size)
    whole = call("sums_of_squares", [g], (len(parts),))[0]
    alone = np.concatenate([call("sums_of_squares", [np.ascontiguousarray(part)], (1,))[0] for part in parts])
    assert whole.tobytes() == alone.tobytes()
    np.testing.assert_allclose(whole, [np.square(part.astype(np.float64)).sum() for part in parts], rtol=1e-6)


def lamb(p, m, v, g, settings):
    """Both kernels of it, on p, m and v in place."""
    (norms,) = call("lamb_moments", [p, m, v, g, settings], (len(bounds(p.shape)), 2))
    call("lamb_update", [p, m, v, norms, settings], (1,))


@pytest.mark.parametrize("adapted", [False, True])
def test_lamb_by_tiles_is_that_of_the_whole(adapted):
    """Given the norms of all tiles, each tile of a parameter moves as it does in the whole."""
    settings = np.array([0.1, 0.9, 0.1, 0.99, 0.01, 1e-3, 0.02, 0.5, 3.0, 5.0, adapted], np.float32)
    arrays = [numbers(3000, 800, seed=seed, scale=0.1) for seed in range(4)]
    arrays[2] = np.abs(arrays[2])
    tiles = [[array[begin:end].copy() for array in arrays] for begin, end in bounds(arrays[0].shape)]
    lamb(*arrays, settings)
    norms = [call("lamb_moments", [*tile, settings], (1, 2))[0] for tile in tiles]
    for p, m, v, _ in tiles:
        call("lamb_update", [p, m, v, np.concatenate(norms), settings], (1,))
    for whole, parts in zip(arrays[:3], zip(*tiles)):
        assert whole.tobytes() == np.concatenate(parts).tobytes()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("count", [1, 5, 1000, 100_003])
def test_lamb(count, adapted):
    p, m, g = numbers(count), numbers(count, seed=1, scale=0.1), numbers(count, seed=2)
    v = np.abs(numbers(count, seed=3, scale=0.01))
    settings = np.array([0.1, 0.9, 0.1, 0.99, 0.01, 1e-3, 0.02, 0.5, 3.0, 5.0, adapted], np.float32)
    r, b1, c1, b2, c2, epsilon, decay, factor, inverse1, root2, _ = settings.astype(np.float64)
    gd = g.astype(np.float64) * factor
    new_m, new_v = b1 * m + c1 * gd, b2 * v + c2 * gd * gd
    u = new_m * inverse1 / (np.sqrt(new_v) * root2 + epsilon) + decay * p
    ratio = np.linalg.norm(p.astype(np.float64)) / np.linalg.norm(u) if adapted else 1.0
    new_p = p - r * ratio * u
    states = []
    for threads in (1, 3):
        native.set_threads(threads)
        states.append([p.copy(), m.copy(), v.copy()])
        lamb(*states[-1], g, settings)
    assert_close(states[0], [new_p, new_m, new_v], 1e-6)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*states))
    # Where a norm is 0 the ratio is 1.
    p, m, v = np.zeros(count, np.float32), np.zeros(count, np.float32), np.ones(count, np.float32)
    lamb(p, m, v, g, settings)
    gd = g.astype(np.float64) * factor
    assert_close([p], [-r * c1 * gd * inverse1 / (np.sqrt(b2 + c2 * gd * gd) * root2 + epsilon)], 1e-6)


def test_many_may_call_at_once_and_change_the_number_of_threads():
    x, w, b = numbers(40, 33), numbers(70, 33), numbers(70)
    expected = call("linear", [x, w, b], (40, 70))[0].tobytes()

    def calls(number):
        for turn in range(200):
            if turn % 20 == number:
                native.set_threads(1 + (turn // 20 + number) % 4)
            if call("linear", [x, w, b], (40, 70))[0].tobytes() != expected:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(calls, range(4)))


def test_a_forked_process_has_threads_of_its_own():
    x, w, b = numbers(300, 64), numbers(300, 64), numbers(300)
    native.set_threads(3)
    expected = call("linear", [x, w, b], (300, 300))[0].tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if call("linear", [x, w, b], (300, 300))[0].tobytes() == expected else 1)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done and status == 0
    assert call("linear", [x, w, b], (300, 300))[0].tobytes() == expected


def in_a_process(script: str, stack: int = 8 << 20) -> str:
    def limit():
        resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=100, preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_as_many_threads_as_the_process_may_use():
    one = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from ms_bert.kernels import native; print(native.threads())"
    )
    assert in_a_process(script) == "1"


def test_where_no_more_threads_may_be_made_fewer_do():
    script = """
import os
import resource
import numpy as np
from ms_bert.kernels import native
native.set_threads(64)
before = resource.getrlimit(resource.RLIMIT_AS)
x, w, b, y = np.ones((300, 8), "f4"), np.ones((300, 8), "f4"), np.ones(300, "f4"), np.empty((300, 300), "f4")
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (700 << 20), before[1]))  # of addresses: two threads' stacks and a rest
for _ in range(3):
    native.call("linear", [x, w, b], [y])
resource.setrlimit(resource.RLIMIT_AS, before)
print((y == 9).all(), len(os.listdir("/proc/self/task")) < 64)
"""
    assert in_a_process(script, stack=256 << 20) == "True True"


def test_several_threads_share_what_is_packed_of_one_factor_in_parts():
    # The least rows for it, and more of the depth and of the columns than are packed at once.
    rows, inputs, outputs = 513, 16500, 24
    x, w, b, dy = numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs), numbers(rows, outputs, seed=1)
    found = []
    for threads in (1, 3):
        native.set_threads(threads)
        found.append(call("linear", [x, w, b], (rows, outputs)))
        found[-1] += call("linear_gradient", [dy, x, w], x.shape, w.shape, b.shape)
    assert all(one.tobytes() == other.tobytes() for one, other in zip(*found, strict=True))
    exact = doubles(x, w, b)
    y = exact[0] @ exact[1].T + exact[2]
    assert_close(found[1], [y, *gradients(y, dy, exact)])


def test_the_number_of_threads_changes_no_bit():
    x, w, b, dy = numbers(300, 200), numbers(530, 200), numbers(530), numbers(300, 530, seed=1)
    ids, settings = packed(4, 75), np.array([*dropout_settings(0.0), 4, 0], np.float32)
    labels = np.arange(300, dtype=np.int32)
    results = []
    for threads in (1, 2, 3, 7):
        native.set_threads(threads)
        assert native.threads() == threads
        found = call("linear_gelu", [x, w, b], dy.shape, Kept(dy.shape), copies=[0])
        found += call("linear_gelu_gradient", [dy, found[1], kept(x), w], x.shape, w.shape, b.shape)
        found += call("attention", [x, x, x, ids, *NO_KEYS, settings], x.shape, (4, 4, 75, 2), copies=[0, 1, 2])
        found += call("linear_cross_entropy", [x, w, b, labels], (300,), (300,), Kept(dy.shape))
        inputs = [labels.astype(np.float32), kept(dy), x, w]
        found += call("linear_cross_entropy_gradient", inputs, x.shape, w.shape, b.shape)
        found += call("sums_of_squares", [w], (1,))
        results.append([array.tobytes() for array in found])
    assert all(one == results[0] for one in results[1:])
