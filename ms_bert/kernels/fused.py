"""The fused C++ kernels of `native/` as MindSpore operations with gradients, on the CPU.

Each computes in one pass, while the numbers are near, what the stock operations of the model do in several. What an
operation gives besides its result is kept for its gradient. Where dropout is off, no keys are needed. Tensors are
float32; those operations that multiply matrices are made for a precision, 'float32' or 'bfloat16', to which they round
what products multiply and what they keep.

Import this only where `native.why_not()` is None.
"""

import dataclasses
import functools

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_bert.kernels import native, stock
from ms_bert.kernels.operations import Operations
from ms_bert.tiles import bounds

NO_ROW_KEYS = Tensor(np.ones((1, 1), np.int32))
NO_COLUMN_KEYS = Tensor(np.ones((1,), np.int32))


def _operation(name, dtypes, shapes, bprop=None, precision="float32"):
    """A kernel of the library.

    Args:
        dtypes: of its outputs, or one. shapes: of its outputs, from those of its inputs; or one.
    """
    return ops.Custom(
        f"{native.LIBRARY}:{native.kernel(name, precision)}",
        out_shape=shapes,
        out_dtype=lambda *_: dtypes,
        func_type="aot",
        bprop=bprop,
    )


def _kept(*shapes):
    """Of what a kernel in bfloat16 keeps of arrays of these shapes for its gradient.

    MindSpore has no operation on bfloat16 on the CPU; these pass from a kernel to its gradient as they are.
    """
    return tuple(native.kept_shape(shape) for shape in shapes)


FLOAT, KEPT = ms.float32, ms.int32


def _settings(*values):
    return Tensor(values, ms.float32)


def dropout_settings(rate):
    """The numbers of dropout for a kernel: the two halves of its threshold, which float32 holds, and the scale."""
    threshold = stock.dropout_threshold(rate)
    return threshold // 2**16, threshold % 2**16, 1.0 / (1.0 - rate)


def int32(ids):
    """The kernels' type of integer; a Tensor that was made of a list has another."""
    return ops.cast(ids, ms.int32)


def _drawn(rate, row_keys, column_keys):
    """The keys of dropout; where there is none, some that no kernel reads."""
    if rate == 0.0:
        return NO_ROW_KEYS, NO_COLUMN_KEYS
    return row_keys, column_keys


# Linear layers


def linear(precision):
    """See `stock.linear`."""
    gradient = _operation("linear_gradient", (FLOAT,) * 3, lambda dy, x, w: (x, w, (w[0],)), None, precision)

    def bprop(x, weight, bias, out, dout):
        return gradient(dout, x, weight)

    operation = _operation("linear", FLOAT, lambda x, w, b: (x[0], w[0]), bprop, precision)

    def linear(x, weight, bias):
        return operation(x, weight, bias)

    return linear


def projections(precision):
    """Three linear layers of one input (N, in), each weight (out, in) -> three (N, out)."""
    rounds = precision != "float32"
    gradient = _operation(
        "projections_gradient",
        (FLOAT,) * 7,
        lambda dq, dk, dv, x, w, *_: ((dq[0], w[1]), w, (w[0],), w, (w[0],), w, (w[0],)),
        None,
        precision,
    )

    def bprop(x, query, query_bias, key, key_bias, value, value_bias, out, dout):
        return gradient(dout[0], dout[1], dout[2], out[3] if rounds else x, query, key, value)

    operation = _operation(
        "projections",
        (*(FLOAT,) * 3, *(KEPT,) * rounds),
        lambda x, w, *_: (*((x[0], w[0]),) * 3, *_kept(x)[:rounds]),
        bprop,
        precision,
    )

    def projections(x, query, query_bias, key, key_bias, value, value_bias):
        return operation(x, query, query_bias, key, key_bias, value, value_bias)[:3]

    return projections


def linear_activation(precision, name):
    """`stock.gelu`, `stock.gelu_new` or `stock.relu`, by its name, of a linear layer."""
    rounds = precision != "float32"
    gradient = _operation(
        f"linear_{name}_gradient",
        (FLOAT,) * 3,
        lambda dy, before, x, w: ((dy[0], w[1]), w, (w[0],)),
        None,
        precision,
    )

    def bprop(x, weight, bias, out, dout):
        return gradient(dout[0], out[1], out[2] if rounds else x, weight)

    def shapes(x, w, b):
        y = (x[0], w[0])
        return (y, *_kept(y, x)) if rounds else (y, y)

    dtypes = (FLOAT, KEPT, KEPT) if rounds else (FLOAT, FLOAT)
    operation = _operation(f"linear_{name}", dtypes, shapes, bprop, precision)

    def linear_activation(x, weight, bias):
        return operation(x, weight, bias)[0]

    return linear_activation


# Layer normalisation, and what stands before it


def layer_norm(x, weight, bias, epsilon):
    """See `stock.layer_norm`; x is (N, H) float32."""
    return _layer_norm(x, weight, bias, _settings(epsilon))[0]


def _layer_norm_bprop(x, weight, bias, settings, out, dout):
    gradients = _layer_norm_gradient(dout[0], out[1], out[2], weight)
    return gradients[0], gradients[1], gradients[2], ops.zeros_like(settings)


_layer_norm = _operation("layer_norm", (FLOAT,) * 3, lambda x, *_: (x, x, (x[0],)), _layer_norm_bprop)
_layer_norm_gradient = _operation("layer_norm_gradient", (FLOAT,) * 3, lambda dy, n, s, w: (dy, w, w))


def linear_dropout_add_norm(precision):
    """layer_norm(residual + dropout(linear(x))): (N, in), (N, H) -> (N, H)."""
    rounds = precision != "float32"
    gradient = _operation(
        "linear_dropout_add_norm_gradient",
        (FLOAT,) * 6,
        lambda dy, n, s, x, w, g, *_: ((dy[0], w[1]), w, (w[0],), dy, g, g),
        None,
        precision,
    )

    def bprop(x, weight, bias, residual, gamma, beta, row_keys, column_keys, settings, out, dout):
        kept = out[3] if rounds else x
        g = gradient(dout[0], out[1], out[2], kept, weight, gamma, row_keys, column_keys, settings)
        rest = ops.zeros_like(row_keys), ops.zeros_like(column_keys), ops.zeros_like(settings)
        return g[0], g[1], g[2], g[3], g[4], g[5], rest[0], rest[1], rest[2]

    def shapes(x, w, b, r, *_):
        if not rounds:
            return r, r, (r[0],)
        normalized, kept = _kept(r, x)
        return r, normalized, (r[0],), kept

    dtypes = (FLOAT, KEPT, FLOAT, KEPT) if rounds else (FLOAT,) * 3
    operation = _operation("linear_dropout_add_norm", dtypes, shapes, bprop, precision)

    def linear_dropout_add_norm(x, weight, bias, residual, gamma, beta, epsilon, rate, row_keys, column_keys):
        row_keys, column_keys = _drawn(rate, row_keys, column_keys)
        settings = _settings(*dropout_settings(rate), epsilon)
        return operation(x, weight, bias, residual, gamma, beta, row_keys, column_keys, settings)[0]

    return linear_dropout_add_norm


def embed(
    input_ids,
    token_type_ids,
    position_ids,
    word,
    token_type,
    position,
    gamma,
    beta,
    epsilon,
    rate,
    row_keys,
    column_keys,
):
    """dropout(layer_norm(word + token_type + position)): ids (B, S), tables (entries, H) -> (B * S, H) float32."""
    row_keys, column_keys = _drawn(rate, row_keys, column_keys)
    return _embed(
        int32(input_ids),
        int32(token_type_ids),
        int32(position_ids),
        word,
        token_type,
        position,
        gamma,
        beta,
        row_keys,
        column_keys,
        _settings(*dropout_settings(rate), epsilon),
    )[0]


def _embed_bprop(ids, types, places, word, token_type, position, gamma, beta, rows, columns, settings, out, dout):
    g = _embed_gradient(
        dout[0], out[1], out[2], ids, types, places, gamma, rows, columns, settings, word, token_type, position
    )
    none = ops.zeros_like
    return (
        none(ids), none(types), none(places), g[0], g[1], g[2], g[3], g[4], none(rows), none(columns), none(settings)
    )  # fmt: skip


def _embed_shapes(ids, types, places, word, *_):
    rows = ids[0] * ids[1]
    return (rows, word[1]), (rows, word[1]), (rows,)


_embed = _operation("embed", (FLOAT,) * 3, _embed_shapes, _embed_bprop)
_embed_gradient = _operation(
    "embed_gradient",
    (FLOAT,) * 5,
    lambda dy, n, s, i, t, p, gamma, r, c, settings, word, token_type, position: (
        word,
        token_type,
        position,
        gamma,
        gamma,
    ),  # fmt: skip
)


# Attention


class Attention(nn.Cell):
    """`stock.attention` for a number of heads; the probabilities are never all there, so () stands for them.

    Padding gets a context of 0.
    """

    def __init__(self, heads: int, causal: bool = False, precision: str = "float32"):
        super().__init__()
        self.heads, self.causal = heads, causal
        rounds = precision != "float32"
        gradient = _operation("attention_gradient", (FLOAT,) * 3, lambda dc, *_: (dc,) * 3, None, precision)

        def bprop(query, key, value, ids, row_keys, column_keys, settings, out, dout):
            q, k, v = (out[2], out[3], out[4]) if rounds else (query, key, value)
            g = gradient(dout[0], q, k, v, ids, out[1], row_keys, column_keys, settings)
            rest = ops.zeros_like(row_keys), ops.zeros_like(column_keys), ops.zeros_like(settings)
            return g[0], g[1], g[2], ops.zeros_like(ids), rest[0], rest[1], rest[2]

        # The second output: two numbers of each row of scores.
        self.operation = _operation(
            "attention",
            (FLOAT, FLOAT, *(KEPT,) * 3 * rounds),
            lambda q, k, v, ids, *_: (q, (ids[0], heads, ids[1], 2), *_kept(q, k, v)[: 3 * rounds]),
            bprop,
            precision,
        )

    def construct(self, query, key, value, sequence_ids, rate, row_keys, column_keys):
        row_keys, column_keys = _drawn(rate, row_keys, column_keys)
        settings = _settings(*dropout_settings(rate), self.heads, self.causal)
        return self.operation(query, key, value, int32(sequence_ids), row_keys, column_keys, settings)[0], ()


# The MLM head's loss


def linear_cross_entropy(precision):
    """Cross-entropy of the scores of a linear layer: (N, in), labels (N,) int32 -> losses (N,), correct (N,) float32.

    The scores (N, out) turn into their gradient in place; no second buffer of that size exists.
    """
    gradient = _operation(
        "linear_cross_entropy_gradient", (FLOAT,) * 3, lambda d, slopes, x, w: (x, w, (w[0],)), None, precision
    )

    def bprop(x, weight, bias, labels, out, dout):
        g = gradient(dout[0], out[2], x, weight)
        return g[0], g[1], g[2], ops.zeros_like(labels)

    def shapes(x, w, b, labels):
        slopes = (x[0], w[0])
        return labels, labels, _kept(slopes)[0] if precision != "float32" else slopes

    dtypes = (FLOAT, FLOAT, FLOAT if precision == "float32" else KEPT)
    operation = _operation("linear_cross_entropy", dtypes, shapes, bprop, precision)

    def linear_cross_entropy(x, weight, bias, labels):
        losses, correct, _ = operation(x, weight, bias, labels)
        return losses, correct

    return linear_cross_entropy


# The optimizer


def sums_of_squares(x):
    """See `Operations.sums_of_squares`."""
    return _sums_of_squares(x)


def adam_update(p, m, v, gradients, decayed, factor, rate, beta1, beta2, epsilon, decay):
    """See `Operations.adam_update`; one pass over each parameter, the factor included."""
    factor = ops.ones_like(rate) if factor is None else factor
    betas = (beta1, 1.0 - beta1, beta2, 1.0 - beta2)
    without = ops.stack((rate, *betas, epsilon, ops.zeros_like(decay), factor))
    with_decay = ops.stack((rate, *betas, epsilon, decay, factor))
    return _map(ops.partial(_adam_of, without, with_decay), p, m, v, gradients, decayed)


def _adam_of(without, with_decay, p, m, v, g, decayed):
    return _adam(p, m, v, g, with_decay if decayed else without)


def lamb_moments(p, m, v, gradients, decayed, factor, beta1, beta2, correction1, correction2, epsilon, decay):
    """See `Operations.lamb_moments`; one pass over each parameter, the factor included."""
    factor = ops.ones_like(decay) if factor is None else factor
    betas = (beta1, 1.0 - beta1, beta2, 1.0 - beta2)
    none, each = _lamb_settings(ops.ones_like(decay), betas, epsilon, decay, factor, correction1, correction2)
    return _map(ops.partial(_moments_of, none, each), p, m, v, gradients, decayed)


def _moments_of(without, with_decay, p, m, v, g, decayed):
    return _lamb_moments(p, m, v, g, with_decay if decayed else without)


def lamb_update(p, m, v, norms, decayed, rate, correction1, correction2, epsilon, decay):
    """See `Operations.lamb_update`; one pass over each parameter."""
    one = ops.ones_like(decay)
    none, each = _lamb_settings(rate, (one, one, one, one), epsilon, decay, one, correction1, correction2)
    return _map(ops.partial(_lamb_of, none, each), p, m, v, norms, decayed)


def _lamb_of(without, with_decay, p, m, v, norms, decayed):
    return _lamb_update(p, m, v, norms, with_decay if decayed else without)


def _lamb_settings(rate, betas, epsilon, decay, factor, correction1, correction2):
    """What a kernel of LAMB is told of a parameter that does not decay, and of one that does."""
    none, corrections = ops.zeros_like(decay), (1.0 / correction1, ops.rsqrt(correction2))
    without = ops.stack((rate, *betas, epsilon, none, factor, *corrections, none))
    return without, ops.stack((rate, *betas, epsilon, decay, factor, *corrections, none + 1.0))


_map = ops.HyperMap()
_sums_of_squares = _operation("sums_of_squares", FLOAT, lambda x: (len(bounds(x)),))
_adam = _operation("adam", FLOAT, lambda *_: (1,))
_lamb_moments = _operation("lamb_moments", FLOAT, lambda p, *_: (len(bounds(p)), 2))
_lamb_update = _operation("lamb_update", FLOAT, lambda *_: (1,))
for _update in (_adam, _lamb_moments, _lamb_update):
    _update.add_prim_attr("side_effect_mem", True)  # it writes to parameters: what reads them is kept in order


@functools.lru_cache
def _with_products(precision: str) -> dict:
    return {
        "projections": projections(precision),
        "attention": functools.partial(Attention, precision=precision),
        "linear_activation": functools.lru_cache(functools.partial(linear_activation, precision)),
        "linear_dropout_add_norm": linear_dropout_add_norm(precision),
        "scores": linear(precision),
        "linear_cross_entropy": linear_cross_entropy(precision),
    }


def operations(stock_ones: Operations, precision: str = "float32") -> Operations:
    """What the library has, for products of a precision, and the stock operations, in float32, for the rest."""
    return dataclasses.replace(
        stock_ones,
        **_with_products(precision),
        name=f"fused kernels ({native.instructions(precision)})",
        layer_norm=layer_norm,
        embed=embed,
        sums_of_squares=sums_of_squares,
        adam_update=adam_update,
        lamb_moments=lamb_moments,
        lamb_update=lamb_update,
        probabilities=False,
    )
