"""The operations in MindSpore's stock primitives: they run on every device.

`composed` makes a whole set of them, its larger operations of its smaller ones. Where several stock forms compute the
same, the one that is fast on MindSpore's CPU backend is used; the times are for one core pair at float32, in ns an
element.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ms_bert.errors import UserError
from ms_bert.kernels.operations import Operations
from ms_bert.tiles import bounds

_matmul = ops.MatMul(transpose_b=True)
_bias_add = ops.BiasAdd()
_scores = ops.BatchMatMul(transpose_b=True)
_context = ops.BatchMatMul()
_softmax = ops.Softmax(axis=-1)
_log_softmax = ops.LogSoftmax(axis=-1)
_adam_update = ops.AdamWeightDecay()
_row_mean = ops.ReduceMean(keep_dims=True)
_row_max = ops.ReduceMax(keep_dims=True)
_row_sum = ops.ReduceSum(keep_dims=True)
_sum = ops.ReduceSum()
_map = ops.HyperMap()  # over parameters: the compiler unrolls a loop by recursion, too deep for those of BERT-base


def linear(x, weight, bias):
    """x (N, in) times weight (out, in) transposed, plus bias (out,), in the dtype of x -> (N, out)."""
    # BiasAdd: 0.5 ns; a broadcasting add: 1.1 ns, and its gradient is slower still.
    return _bias_add(_matmul(x, ops.cast(weight, x.dtype)), ops.cast(bias, x.dtype))


def gelu(x):
    """x * Phi(x) with the error function (Hendrycks & Gimpel, 2016; the form of the BERT paper)."""
    y = ops.cast(x, ms.float32)
    return ops.cast(0.5 * y * (1.0 + ops.erf(y * 0.7071067811865476)), x.dtype)


def gelu_new(x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the tanh form of Google's code."""
    # The same by 1 + tanh(z) = 2 sigmoid(2 z), for ops.tanh is rough: see tanh. ops.gelu(approximate='tanh') takes
    # 18 ns, this composition 2.4 ns.
    y = ops.cast(x, ms.float32)
    return ops.cast(y * ops.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y)), x.dtype)


def tanh(x):
    """sinh(x) / cosh(x), in float32 inside."""
    # On CPU ops.tanh is off by up to 1e-4 where 4 < |x| < 6. Beyond 10 the quotient is 1 to the last bit.
    y = ops.clamp(ops.cast(x, ms.float32), -10.0, 10.0)
    return ops.cast(ops.sinh(y) / ops.cosh(y), x.dtype)


def relu(x):
    """max(x, 0)."""
    return ops.relu(x)


def layer_norm(x, weight, bias, epsilon):
    """(x - mean) / sqrt(var + epsilon) * weight + bias over the last axis, biased variance (Ba et al., 2016)."""
    # ops.LayerNorm: 2.9 ns forward, 16 ns with its gradient on one thread; this composition 5 and 12.
    y = ops.cast(x, ms.float32)
    centred = y - _row_mean(y, -1)
    scale = ops.rsqrt(_row_mean(ops.square(centred), -1) + epsilon)
    return ops.cast(centred * scale * weight + bias, x.dtype)


def dropout(x, rate, row_keys, column_keys):
    """x (rows, columns) with each element zeroed with probability `rate`, the others divided by 1 - rate.

    The mask is a pure function of the keys, so that a resumed run, the recomputed forward pass and another
    framework drop the very same units: element (r, c) is dropped when row_keys[r] * column_keys[c], both odd
    int32, wraps modulo 2^32 to a value in the lowest `rate` of the int32 range. Multiplication by an odd number
    permutes the residues, so that any two elements of a row or of a column are independent.

    Args:
        row_keys: (rows, 1) int32, odd. column_keys: (columns,) int32, odd.
    """
    if rate == 0.0:
        return x
    keep = ops.cast(row_keys * column_keys >= dropout_threshold(rate), x.dtype)
    return x * (keep * (1.0 / (1.0 - rate)))


def dropout_threshold(rate):
    """The least product of keys with which an element is kept."""
    return int(-(2**31) + rate * 2**32)


def check_dropout(device: str) -> None:
    """Raise UserError where the device drops other units than `dropout` says.

    Products of int32 wrap modulo 2^32 on the CPU; where they saturate, half of all units would be dropped.
    """
    rate = 0.1
    rows, columns = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 256), np.int64).astype(np.int32) | 1
    kept = rows[:, None] * columns >= dropout_threshold(rate)
    found = dropout(Tensor(np.ones_like(kept, np.float32)), rate, Tensor(rows[:, None]), Tensor(columns))
    if not np.array_equal(found.asnumpy() > 0.0, kept):
        raise UserError(
            f"MindSpore on {device} drops other units than the CPU, because products of int32 do not wrap there; use "
            "--dropout 0."
        )


def attended(sequence_ids, causal=False):
    """(B, S) int32 -> (B, S, S) bool: True within a sequence; if causal, not to the later tokens of it."""
    same = ops.equal(ops.expand_dims(sequence_ids, 2), ops.expand_dims(sequence_ids, 1))
    if not causal:
        return same
    places = ops.arange(0, sequence_ids.shape[1], 1, dtype=ms.int32)
    return ops.logical_and(same, ops.expand_dims(places, 1) >= ops.expand_dims(places, 0))


def attention_mask(sequence_ids, causal=False):
    """The additive mask (B, 1, S, S) float32: 0 where a token attends to another, else -1e9; see `attended`."""
    return ops.expand_dims((1.0 - ops.cast(attended(sequence_ids, causal), ms.float32)) * -1e9, 1)


def attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal=False):
    """softmax(Q K^T / sqrt(d) + mask) V, a token attending to its own sequence only (Vaswani et al., 2017, 3.2.1).

    Args:
        query, key, value: (B * S, H). sequence_ids: (B, S) int32, 0 = padding.
        heads: number of heads. rate: dropout of the probabilities. causal: a token attends to no later one.
        row_keys: (B * S, 1) int32. column_keys: (heads * S,) int32. See `dropout`.

    Returns:
        context (B * S, H) in the dtype of query, probabilities before dropout (B, heads, S, S) float32.
    """
    b, s = sequence_ids.shape
    d = query.shape[-1] // heads
    q = ops.transpose(ops.reshape(query, (b, s, heads, d)), (0, 2, 1, 3))
    k = ops.transpose(ops.reshape(key, (b, s, heads, d)), (0, 2, 1, 3))
    v = ops.transpose(ops.reshape(value, (b, s, heads, d)), (0, 2, 1, 3))
    scores = ops.cast(_scores(q * (1.0 / d**0.5), k), ms.float32)  # (B, heads, S, S)
    probabilities = _softmax(scores + attention_mask(sequence_ids, causal))
    kept = probabilities
    if rate > 0.0:
        kept = dropout(kept, rate, ops.reshape(row_keys, (b, 1, s, 1)), ops.reshape(column_keys, (heads, 1, s)))
    context = _context(ops.cast(kept, query.dtype), v)  # (B, heads, S, d)
    return ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (b * s, heads * d)), probabilities


def log_softmax(logits):
    """Over the last axis, of few classes: float32 -> float32.

    On CPU LogSoftmax is off by up to 4e-6, 15 times PyTorch's error over the two classes of next-sentence prediction.
    ops.log, unlike log1p, rounds by the place in the array, so that a resumed run would not repeat the bytes.
    """
    centred = logits - ops.stop_gradient(_row_max(logits, -1))
    return centred - ops.log1p(_row_sum(ops.exp(centred), -1) - 1.0)


def cross_entropy(logits, labels):
    """-log softmax(logits)[label] for each row, in float32: (N, C), (N,) int32 -> (N,)."""
    logits = ops.cast(logits, ms.float32)
    # Over a vocabulary `log_softmax` takes four times as long, and what it gains is nothing beside the loss.
    log_probabilities = log_softmax(logits) if logits.shape[-1] < 64 else _log_softmax(logits)
    return -ops.squeeze(ops.gather_elements(log_probabilities, 1, ops.expand_dims(labels, 1)), 1)


def correct(logits, labels):
    """Whether the label has the highest score: (N, C), (N,) int32 -> (N,) float32, 0 or 1."""
    return ops.cast(ops.equal(ops.argmax(logits, -1), labels), ms.float32)


def own_tokens(sequence_ids, count):
    """(B, S) int32 -> (B, count, S) float32, 1 where a token is of the first, second, ... sequence of its row."""
    numbers = ops.reshape(ops.arange(1, count + 1, 1, dtype=ms.int32), (1, count, 1))
    return wide(ops.equal(ops.expand_dims(sequence_ids, 1), numbers))


def means(values, sequence_ids, count):
    """The mean of values (B, S, C) over the tokens of each of `count` = N sequences of a row -> (B * N, C) float32."""
    inside = own_tokens(sequence_ids, count)
    sizes = ops.maximum(inside.sum(-1, keepdims=True), ms.Tensor(1.0, ms.float32))
    return ops.reshape(ops.matmul(inside / sizes, wide(values)), (-1, values.shape[-1]))


def unit(x):
    """Vectors (..., H) divided by their length, in float32; what is 0 stays 0."""
    x = wide(x)
    return x / ops.sqrt(ops.square(x).sum(-1, keepdims=True) + 1e-24)


def share_correct(logits, labels):
    """The share of labels whose logit has the right sign: (N, C) float32, (N, C) 0 or 1 -> (N,) float32."""
    return ops.cast(ops.equal(logits > 0.0, labels > 0.5), ms.float32).mean(-1)


def wide(x):
    """x in float32."""
    return ops.cast(x, ms.float32)


def sums_of_squares(x):
    """See `Operations.sums_of_squares`."""
    made = ()
    for begin, end in bounds(x.shape):
        made += (_sum(ops.square(x[begin:end])),)
    return ops.stack(made)


def multiplied(factor, x):
    return x * factor


def adam_update(p, m, v, gradients, decayed, factor, rate, beta1, beta2, epsilon, decay):
    """See `Operations.adam_update`."""
    if factor is not None:
        gradients = _map(ops.partial(multiplied, factor), gradients)
    return _map(ops.partial(_adam, rate, beta1, beta2, epsilon, decay), p, m, v, gradients, decayed)


def _adam(rate, beta1, beta2, epsilon, decay, p, m, v, g, decayed):
    # One pass without temporaries, 3.4 ns; as single operations 5.6 ns, and each holds a copy of the parameter.
    return _adam_update(p, m, v, rate, beta1, beta2, epsilon, decay if decayed else ops.zeros_like(decay), g)


def lamb_moments(p, m, v, gradients, decayed, factor, beta1, beta2, correction1, correction2, epsilon, decay):
    """See `Operations.lamb_moments`."""
    if factor is not None:
        gradients = _map(ops.partial(multiplied, factor), gradients)
    numbers = beta1, beta2, correction1, ops.rsqrt(correction2), epsilon, decay
    return _map(ops.partial(_lamb_moments, numbers), p, m, v, gradients, decayed)


def _lamb_moments(numbers, p, m, v, g, decayed):
    beta1, beta2, correction1, root2, epsilon, decay = numbers
    rest = correction1, root2, epsilon, decay
    new_m, new_v = beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * ops.square(g)
    norms = ops.stack((sums_of_squares(p), sums_of_squares(_direction(rest, p, new_m, new_v, decayed))), -1)
    return ops.depend(norms, (ops.assign(m, new_m), ops.assign(v, new_v)))


def _direction(numbers, p, m, v, decayed):
    correction1, root2, epsilon, decay = numbers
    u = (m / correction1) / (ops.sqrt(v) * root2 + epsilon)
    return u + decay * p if decayed else u


def lamb_update(p, m, v, norms, decayed, rate, correction1, correction2, epsilon, decay):
    """See `Operations.lamb_update`."""
    numbers = correction1, ops.rsqrt(correction2), epsilon, decay
    return _map(ops.partial(_lamb_update, rate, numbers), p, m, v, norms, decayed)


def _lamb_update(rate, numbers, p, m, v, norms, decayed):
    # What is read of m and v is what `lamb_moments` has written: the norms depend on it.
    u = _direction(numbers, p, ops.depend(m, norms), ops.depend(v, norms), decayed)
    return ops.assign(p, p - (rate * trust_ratio(norms) if decayed else rate) * u)


def trust_ratio(norms):
    """|p| / |u| () float32, or 1 where either is 0; norms: their squares by tile (T, 2)."""
    found = ops.sqrt(norms.sum(0))
    p_norm, u_norm = found[0], found[1]
    both = ops.logical_and(p_norm > 0.0, u_norm > 0.0)
    return ops.select(both, p_norm / ops.select(both, u_norm, ops.ones_like(u_norm)), ops.ones_like(p_norm))


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


def rows(table, numbers):
    """(V, H), int32 of any shape -> the rows of these numbers (N, H)."""
    return ops.gather(table, ops.reshape(numbers, (-1,)), 0)


def composed(
    dtype: str,
    linear=linear,
    layer_norm=layer_norm,
    dropout=dropout,
    rows_of_few=rows,
    attention=attention,
    activations=ACTIVATIONS,
    scores=linear,
    **others,
) -> Operations:
    """The stock operations, the larger ones composed of these smaller ones.

    Args:
        dtype: of the activations. linear, layer_norm, dropout, scores: as the fields of Operations. rows_of_few: as
        `stock.rows`, of a table with few. attention: as `stock.attention`, which takes the number of heads.
        activations: by name, each x -> x.
        others: further fields of Operations.
    """
    dtype = getattr(ms, dtype)

    def embed(input_ids, token_type_ids, position_ids, word, token_type, position, gamma, beta, epsilon, *drawn):
        summed = (
            rows(word, input_ids) + rows_of_few(token_type, token_type_ids) + rows(position, position_ids)
        )  # (B * S, H) float32
        return dropout(ops.cast(layer_norm(summed, gamma, beta, epsilon), dtype), *drawn)

    def projections(x, query, query_bias, key, key_bias, value, value_bias):
        return linear(x, query, query_bias), linear(x, key, key_bias), linear(x, value, value_bias)

    def attention_of(heads, causal=False):
        def attend(query, key, value, sequence_ids, rate, row_keys, column_keys):
            return attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal)

        return attend

    def linear_activation(name):
        activation = activations[name]

        def activated(x, weight, bias):
            return activation(linear(x, weight, bias))

        return activated

    def linear_dropout_add_norm(x, weight, bias, residual, gamma, beta, epsilon, rate, row_keys, column_keys):
        return layer_norm(
            residual + dropout(linear(x, weight, bias), rate, row_keys, column_keys), gamma, beta, epsilon
        )

    def linear_cross_entropy(x, weight, bias, labels):
        logits = scores(x, weight, bias)
        return cross_entropy(logits, labels), correct(logits, labels)

    fields = {
        "name": "stock kernels",
        "linear": linear,
        "tanh": tanh,
        "layer_norm": layer_norm,
        "dropout": dropout,
        "embed": embed,
        "projections": projections,
        "attention": attention_of,
        "linear_activation": linear_activation,
        "linear_dropout_add_norm": linear_dropout_add_norm,
        "scores": scores,
        "linear_cross_entropy": linear_cross_entropy,
        "cross_entropy": cross_entropy,
        "sums_of_squares": sums_of_squares,
        "adam_update": adam_update,
        "lamb_moments": lamb_moments,
        "lamb_update": lamb_update,
    }
    return Operations(**{**fields, **others})
