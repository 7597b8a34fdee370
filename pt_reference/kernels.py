"""The few operations of `ms_bert.kernels`, in torch's best stock parts.

Rows are tokens: an activation is (rows, width) with rows = B * S, in the compute dtype; what needs range (softmax,
LayerNorm, losses) is computed in float32 inside, or in float64 where the activations are.
"""

import torch
from torch.nn import functional


def wide(x):
    """x in float32, or as it is where it has no less."""
    return x if x.dtype == torch.float64 else x.float()


def linear(x, weight, bias):
    """x (N, in) times weight (out, in) transposed, plus bias (out,), in the dtype of x -> (N, out)."""
    return functional.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def gelu(x):
    """x * Phi(x) with the error function (Hendrycks & Gimpel, 2016; the form of the BERT paper)."""
    return functional.gelu(x)


def gelu_new(x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the tanh form of Google's code."""
    return functional.gelu(x, approximate="tanh")


def relu(x):
    """max(x, 0)."""
    return functional.relu(x)


def tanh(x):
    """(e^x - e^-x) / (e^x + e^-x)."""
    return torch.tanh(x)


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


def layer_norm(x, weight, bias, epsilon):
    """(x - mean) / sqrt(var + epsilon) * weight + bias over the last axis, biased variance (Ba et al., 2016)."""
    return functional.layer_norm(wide(x), weight.shape, weight, bias, epsilon).to(x.dtype)


def dropout(x, rate, row_keys, column_keys):
    """x (rows, columns) with each element zeroed with probability `rate`, the others divided by 1 - rate.

    The mask is the one of `ms_bert.kernels.stock.dropout`: the same keys drop the very same units.

    Args:
        row_keys: (rows, 1) int32, odd. column_keys: (columns,) int32, odd.
    """
    if rate == 0.0:
        return x
    threshold = int(-(2**31) + rate * 2**32)
    keep = (row_keys * column_keys >= threshold).to(x.dtype)
    return x * (keep * (1.0 / (1.0 - rate)))


def attention_mask(sequence_ids):
    """(B, S) int32 -> (B, 1, S, S) bool: True within a sequence."""
    return (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]


def attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys):
    """softmax(Q K^T / sqrt(d) + mask) V, a token attending to its own sequence only (Vaswani et al., 2017, 3.2.1).

    Args:
        query, key, value: (B * S, H). sequence_ids: (B, S) int32, 0 = padding.
        heads: number of heads. rate: dropout of the probabilities.
        row_keys: (B * S, 1) int32. column_keys: (heads * S,) int32. See `dropout`.

    Returns:
        context (B * S, H) in the dtype of query, probabilities before dropout (B, heads, S, S) in float32 or float64.
    """
    b, s = sequence_ids.shape
    q, k, v = _by_head(query, b, heads), _by_head(key, b, heads), _by_head(value, b, heads)
    scores = wide(q * (1.0 / q.shape[-1] ** 0.5) @ k.transpose(2, 3))  # (B, heads, S, S)
    probabilities = torch.softmax(scores.masked_fill(~attention_mask(sequence_ids), -1e9), -1)
    kept = probabilities
    if rate > 0.0:
        kept = dropout(kept, rate, row_keys.view(b, 1, s, 1), column_keys.view(heads, 1, s))
    return _by_row(kept.to(query.dtype) @ v), probabilities


def fused_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys):
    """`attention` as torch's scaled_dot_product_attention; the probabilities are not given, so () stands for them.

    On a GPU the fused kernel draws its dropout bits from torch's generator, which the trainer seeds for each step: as
    repeatable as `dropout`, though not the same. Torch has no such kernel for the CPU: there, `attention` drops.
    """
    if rate > 0.0 and query.device.type == "cpu":
        return attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys)[0], ()
    b = len(sequence_ids)
    context = functional.scaled_dot_product_attention(
        _by_head(query, b, heads),
        _by_head(key, b, heads),
        _by_head(value, b, heads),
        attn_mask=attention_mask(sequence_ids),
        dropout_p=rate,
    )
    return _by_row(context), ()


def _by_head(x, b, heads):
    """(B * S, H) -> (B, heads, S, d)."""
    return x.view(b, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def _by_row(x):
    """(B, heads, S, d) -> (B * S, H)."""
    b, heads, s, d = x.shape
    return x.transpose(1, 2).reshape(b * s, heads * d)


def cross_entropy(logits, labels):
    """-log softmax(logits)[label] for each row, in float32 or float64: (N, C), (N,) int32 -> (N,)."""
    return functional.cross_entropy(wide(logits), labels.long(), reduction="none")
