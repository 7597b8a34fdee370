"""The fused C++ kernels of `native/` as MindSpore operations with gradients: CPU, float32.

Each computes in one pass, while the numbers are near, what the stock operations of the model do in several. What an
operation gives besides its result is kept for its gradient. Where dropout is off, no keys are needed.

Import this only where `native.why_not()` is None.
"""

import dataclasses

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_bert.kernels import native, stock
from ms_bert.kernels.operations import Operations

NO_ROW_KEYS = Tensor(np.ones((1, 1), np.int32))
NO_COLUMN_KEYS = Tensor(np.ones((1,), np.int32))


def _operation(name, outputs, shapes, bprop=None):
    """A kernel of the library; shapes: of its outputs, from those of its inputs."""
    dtypes = (ms.float32,) * outputs
    return ops.Custom(
        f"{native.LIBRARY}:ms_bert_{name}",
        out_shape=shapes,
        out_dtype=lambda *_: dtypes if outputs > 1 else ms.float32,
        func_type="aot",
        bprop=bprop,
    )


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


def linear(x, weight, bias):
    """See `stock.linear`; float32."""
    return _linear(x, weight, bias)


def _linear_bprop(x, weight, bias, out, dout):
    return _linear_gradient(dout, x, weight)


_linear = _operation("linear", 1, lambda x, w, b: (x[0], w[0]), _linear_bprop)
_linear_gradient = _operation("linear_gradient", 3, lambda dy, x, w: (x, w, (w[0],)))


def projections(x, query, query_bias, key, key_bias, value, value_bias):
    """Three linear layers of one input (N, in), each weight (out, in) -> three (N, out)."""
    return _projections(x, query, query_bias, key, key_bias, value, value_bias)


def _projections_bprop(x, query, query_bias, key, key_bias, value, value_bias, out, dout):
    return _projections_gradient(dout[0], dout[1], dout[2], x, query, key, value)


_projections = _operation("projections", 3, lambda x, w, *_: ((x[0], w[0]),) * 3, _projections_bprop)
_projections_gradient = _operation(
    "projections_gradient", 7, lambda dq, dk, dv, x, w, *_: (x, w, (w[0],), w, (w[0],), w, (w[0],))
)


def linear_gelu(x, weight, bias):
    """`stock.gelu` of a linear layer."""
    return _linear_gelu(x, weight, bias)[0]


def linear_gelu_new(x, weight, bias):
    """`stock.gelu_new` of a linear layer."""
    return _linear_gelu_new(x, weight, bias)[0]


def linear_relu(x, weight, bias):
    """`stock.relu` of a linear layer."""
    return _linear_relu(x, weight, bias)[0]


def _linear_gelu_bprop(x, weight, bias, out, dout):
    return _linear_gelu_gradient(dout[0], out[1], x, weight)


def _linear_gelu_new_bprop(x, weight, bias, out, dout):
    return _linear_gelu_new_gradient(dout[0], out[1], x, weight)


def _linear_relu_bprop(x, weight, bias, out, dout):
    return _linear_relu_gradient(dout[0], out[1], x, weight)


def _activation(name, bprop):
    forward = _operation(f"linear_{name}", 2, lambda x, w, b: ((x[0], w[0]), (x[0], w[0])), bprop)
    return forward, _operation(f"linear_{name}_gradient", 3, lambda dy, before, x, w: (x, w, (w[0],)))


_linear_gelu, _linear_gelu_gradient = _activation("gelu", _linear_gelu_bprop)
_linear_gelu_new, _linear_gelu_new_gradient = _activation("gelu_new", _linear_gelu_new_bprop)
_linear_relu, _linear_relu_gradient = _activation("relu", _linear_relu_bprop)


LINEAR_ACTIVATIONS = {"gelu": linear_gelu, "gelu_new": linear_gelu_new, "relu": linear_relu}


# Layer normalisation, and what stands before it


def layer_norm(x, weight, bias, epsilon):
    """See `stock.layer_norm`; x is (N, H) float32."""
    return _layer_norm(x, weight, bias, _settings(epsilon))[0]


def _layer_norm_bprop(x, weight, bias, settings, out, dout):
    gradients = _layer_norm_gradient(dout[0], out[1], out[2], weight)
    return gradients[0], gradients[1], gradients[2], ops.zeros_like(settings)


_layer_norm = _operation("layer_norm", 3, lambda x, *_: (x, x, (x[0],)), _layer_norm_bprop)
_layer_norm_gradient = _operation("layer_norm_gradient", 3, lambda dy, n, s, w: (dy, w, w))


def linear_dropout_add_norm(x, weight, bias, residual, gamma, beta, epsilon, rate, row_keys, column_keys):
    """layer_norm(residual + dropout(linear(x))): (N, in), (N, H) -> (N, H)."""
    row_keys, column_keys = _drawn(rate, row_keys, column_keys)
    settings = _settings(*dropout_settings(rate), epsilon)
    return _linear_dropout_add_norm(x, weight, bias, residual, gamma, beta, row_keys, column_keys, settings)[0]


def _linear_dropout_add_norm_bprop(x, weight, bias, residual, gamma, beta, row_keys, column_keys, settings, out, dout):
    g = _linear_dropout_add_norm_gradient(dout[0], out[1], out[2], x, weight, gamma, row_keys, column_keys, settings)
    rest = ops.zeros_like(row_keys), ops.zeros_like(column_keys), ops.zeros_like(settings)
    return g[0], g[1], g[2], g[3], g[4], g[5], rest[0], rest[1], rest[2]


_linear_dropout_add_norm = _operation(
    "linear_dropout_add_norm", 3, lambda x, w, b, r, *_: (r, r, (r[0],)), _linear_dropout_add_norm_bprop
)
_linear_dropout_add_norm_gradient = _operation(
    "linear_dropout_add_norm_gradient", 6, lambda dy, n, s, x, w, g, *_: (x, w, (w[0],), dy, g, g)
)


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


_embed = _operation("embed", 3, _embed_shapes, _embed_bprop)
_embed_gradient = _operation(
    "embed_gradient",
    5,
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

    def __init__(self, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        # The second output: two numbers of each row of scores.
        self.operation = _operation(
            "attention", 2, lambda q, k, v, ids, *_: (q, (ids[0], heads, ids[1], 2)), _attention_bprop
        )

    def construct(self, query, key, value, sequence_ids, rate, row_keys, column_keys):
        row_keys, column_keys = _drawn(rate, row_keys, column_keys)
        settings = _settings(*dropout_settings(rate), self.heads, self.causal)
        return self.operation(query, key, value, int32(sequence_ids), row_keys, column_keys, settings)[0], ()


def _attention_bprop(query, key, value, ids, row_keys, column_keys, settings, out, dout):
    g = _attention_gradient(dout[0], query, key, value, ids, out[1], row_keys, column_keys, settings)
    rest = ops.zeros_like(row_keys), ops.zeros_like(column_keys), ops.zeros_like(settings)
    return g[0], g[1], g[2], ops.zeros_like(ids), rest[0], rest[1], rest[2]


_attention_gradient = _operation("attention_gradient", 3, lambda dc, q, *_: (q, q, q))


# The MLM head's loss


def linear_cross_entropy(x, weight, bias, labels):
    """Cross-entropy of the scores of a linear layer: (N, in), labels (N,) int32 -> losses (N,), correct (N,) float32.

    The scores (N, out) turn into their gradient in place; no second buffer of that size exists.
    """
    losses, correct, _ = _linear_cross_entropy(x, weight, bias, labels)
    return losses, correct


def _linear_cross_entropy_bprop(x, weight, bias, labels, out, dout):
    g = _linear_cross_entropy_gradient(dout[0], out[2], x, weight)
    return g[0], g[1], g[2], ops.zeros_like(labels)


_linear_cross_entropy = _operation(
    "linear_cross_entropy", 3, lambda x, w, b, labels: (labels, labels, (x[0], w[0])), _linear_cross_entropy_bprop
)
_linear_cross_entropy_gradient = _operation("linear_cross_entropy_gradient", 3, lambda d, slopes, x, w: (x, w, (w[0],)))


# The optimizer


def sum_of_squares(x):
    """The sum of squares of any tensor -> (1,) float32."""
    return _sum_of_squares(x)


def adam_update(p, m, v, gradients, decayed, factor, rate, beta1, beta2, epsilon, decay):
    """See `Operations.adam_update`; one pass over each parameter, the factor included."""
    factor = ops.ones_like(rate) if factor is None else factor
    betas = (beta1, 1.0 - beta1, beta2, 1.0 - beta2)
    without = ops.stack((rate, *betas, epsilon, ops.zeros_like(decay), factor))
    with_decay = ops.stack((rate, *betas, epsilon, decay, factor))
    return _map(ops.partial(_adam_of, without, with_decay), p, m, v, gradients, decayed)


def _adam_of(without, with_decay, p, m, v, g, decayed):
    return _adam(p, m, v, g, with_decay if decayed else without)


def lamb_update(p, m, v, gradients, decayed, factor, rate, beta1, beta2, correction1, correction2, epsilon, decay):
    """See `Operations.lamb_update`; two passes over each parameter, the factor included."""
    factor = ops.ones_like(rate) if factor is None else factor
    betas = (beta1, 1.0 - beta1, beta2, 1.0 - beta2)
    corrections = (1.0 / correction1, ops.rsqrt(correction2))
    none = ops.zeros_like(decay)
    without = ops.stack((rate, *betas, epsilon, none, factor, *corrections, none))
    with_decay = ops.stack((rate, *betas, epsilon, decay, factor, *corrections, none + 1.0))
    return _map(ops.partial(_lamb_of, without, with_decay), p, m, v, gradients, decayed)


def _lamb_of(without, with_decay, p, m, v, g, decayed):
    return _lamb(p, m, v, g, with_decay if decayed else without)


_map = ops.HyperMap()
_sum_of_squares = _operation("sum_of_squares", 1, lambda x: (1,))
_adam = _operation("adam", 1, lambda *_: (1,))
_lamb = _operation("lamb", 1, lambda *_: (1,))
for _update in (_adam, _lamb):
    _update.add_prim_attr("side_effect_mem", True)  # it writes to parameters: what reads them is kept in order


def operations(stock_ones: Operations) -> Operations:
    """What the library has, and the stock operations for the rest."""
    return dataclasses.replace(
        stock_ones,
        name=f"fused kernels ({native.instructions()})",
        layer_norm=layer_norm,
        embed=embed,
        projections=projections,
        attention=Attention,
        linear_activation=LINEAR_ACTIVATIONS.__getitem__,
        linear_dropout_add_norm=linear_dropout_add_norm,
        scores=linear,
        linear_cross_entropy=linear_cross_entropy,
        sum_of_squares=sum_of_squares,
        adam_update=adam_update,
        lamb_update=lamb_update,
        probabilities=False,
    )
