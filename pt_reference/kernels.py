"""The operations of `ms_bert.kernels`, in torch's best stock parts, as a set with the same interface.

Rows are tokens: an activation is (rows, width) with rows = B * S, in the compute dtype; what needs range (softmax,
LayerNorm, losses) is computed in float32 inside, or in float64 where the activations are.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import shutil
from collections.abc import Callable

import torch
from torch.nn import functional
from torch.nn.attention import flex_attention as flex

from ms_bert.tiles import bounds


@dataclasses.dataclass(frozen=True)
class Operations:
    """The functions of one way to compute: `ms_bert.kernels.Operations` without updates, which are torch.optim's."""

    linear: Callable
    """(x (N, in), weight, bias (out,)) -> x weight^T + bias (N, out): the pooler's and the heads', of few rows."""

    tanh: Callable
    """x -> sinh(x) / cosh(x)."""

    layer_norm: Callable
    """(x (N, H), weight (H,), bias (H,), epsilon) -> (x - mean) / sqrt(var + epsilon) * weight + bias (N, H)."""

    dropout: Callable
    """(x (rows, columns), rate, row_keys, column_keys) -> x, of which each element is 0 or divided by 1 - rate."""

    embed: Callable
    """(input_ids, token_type_ids, position_ids (B, S), word, token_type and position table (entries, H), gamma, beta,
    epsilon, rate, row_keys, column_keys) -> dropout(layer_norm(word + token_type + position)) (B * S, H)."""

    projections: Callable
    """(x (N, in), and weight and bias of query, key and value) -> three linear layers of x, each (N, out)."""

    attention: Callable
    """(heads, causal) -> the attention of so many: (query, key, value (B * S, H), sequence_ids (B, S), rate, row_keys,
    column_keys (heads * S,)) -> softmax(Q K^T / sqrt(d) + mask) V (B * S, H), and the probabilities before dropout
    (B, heads, S, S), or () where they are never formed. Causal: a token attends to none after it."""

    linear_activation: Callable
    """'gelu', 'gelu_new' or 'relu' -> the linear layer that ends in it: (x (N, in), weight, bias) -> (N, out)."""

    linear_dropout_add_norm: Callable
    """(x (N, in), weight, bias, residual (N, H), gamma, beta, epsilon, rate, row_keys, column_keys) ->
    layer_norm(residual + dropout(linear(x))) (N, H): the end of both sublayers."""

    scores: Callable
    """(x (N, H), word embeddings (V, H), bias (V,)) -> the linear layer over the vocabulary (N, V)."""

    linear_cross_entropy: Callable
    """(x (N, H), word embeddings (V, H), bias (V,), labels (N,) int32) -> cross-entropy of the scores, and whether the
    label has the highest: (N,), (N,), float32 or float64."""

    cross_entropy: Callable
    """(logits (N, C), labels (N,) int32) -> -log softmax(logits)[label] (N,), float32 or float64."""

    sums_of_squares: Callable
    """A tensor -> the sums of the squares of its T tiles (see `ms_bert.tiles`), (T,) float64."""

    probabilities: bool = True
    """Whether `attention` gives its probabilities."""


def wide(x):
    """x in float32, or as it is where it has no less."""
    return x if x.dtype == torch.float64 else x.float()


LEAST_OUTPUTS = 4  # of a product on the CPU whose rows all round alike


def linear(x, weight, bias):
    """x (N, in) times weight (out, in) transposed, plus bias (out,), in the dtype of x -> (N, out)."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if (missing := LEAST_OUTPUTS - len(weight)) > 0:
        # Of fewer outputs some processors round a row by its place; what is said of a text must not depend on it.
        weight, bias = functional.pad(weight, (0, 0, 0, missing)), functional.pad(bias, (0, missing))
        return functional.linear(x, weight, bias)[:, :-missing]
    return functional.linear(x, weight, bias)


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


def attention_mask(sequence_ids, causal=False):
    """(B, S) int32 -> (B, 1, S, S) bool: True within a sequence; if causal, not to the later tokens of it."""
    same = (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]
    return same.tril() if causal else same


def attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal=False):
    """softmax(Q K^T / sqrt(d) + mask) V, a token attending to its own sequence only (Vaswani et al., 2017, 3.2.1).

    Args:
        query, key, value: (B * S, H). sequence_ids: (B, S) int32, 0 = padding.
        heads: number of heads. rate: dropout of the probabilities. causal: a token attends to no later one.
        row_keys: (B * S, 1) int32. column_keys: (heads * S,) int32. See `dropout`.

    Returns:
        context (B * S, H) in the dtype of query, probabilities before dropout (B, heads, S, S) in float32 or float64.
    """
    b, s = sequence_ids.shape
    q, k, v = _by_head(query, b, heads), _by_head(key, b, heads), _by_head(value, b, heads)
    scores = wide(q * (1.0 / q.shape[-1] ** 0.5) @ k.transpose(2, 3))  # (B, heads, S, S)
    probabilities = torch.softmax(scores.masked_fill(~attention_mask(sequence_ids, causal), -1e9), -1)
    kept = probabilities
    if rate > 0.0:
        kept = dropout(kept, rate, row_keys.view(b, 1, s, 1), column_keys.view(heads, 1, s))
    return _by_row(kept.to(query.dtype) @ v), probabilities


def fused_attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal=False):
    """`attention` as torch's scaled_dot_product_attention; the probabilities are not given, so () stands for them.

    On a GPU the fused kernel draws its dropout bits from torch's generator, which the trainer seeds for each step: as
    repeatable as `dropout`, though not the same. Torch has no such kernel for the CPU: there, `attention` drops.
    Where `goes_by_blocks` says so it is `block_attention`.
    """
    if rate > 0.0 and query.device.type == "cpu":
        return attention(query, key, value, sequence_ids, heads, rate, row_keys, column_keys, causal)[0], ()
    if goes_by_blocks(query.device.type, query.dtype, query.shape[-1] // heads, rate, query.requires_grad):
        return block_attention(query, key, value, sequence_ids, heads, causal, compiled=True), ()
    b = len(sequence_ids)
    context = functional.scaled_dot_product_attention(
        _by_head(query, b, heads),
        _by_head(key, b, heads),
        _by_head(value, b, heads),
        attn_mask=attention_mask(sequence_ids, causal),
        dropout_p=rate,
    )
    return _by_row(context), ()


def goes_by_blocks(device: str, dtype: torch.dtype, size: int, rate: float, training: bool) -> bool:
    """Whether attention is FlexAttention's fused kernel: on a GPU, where it exists and can be compiled.

    It has no dropout and no float64, and is compiled for each shape of a batch, of which prediction has many.

    Args:
        size: of a head.
    """
    return device == "cuda" and training and rate == 0.0 and dtype != torch.float64 and size >= 16 and _can_compile()


@functools.cache
def _can_compile() -> bool:
    """Whether torch can compile kernels for a GPU here: by Triton, which needs a C compiler."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def block_attention(query, key, value, sequence_ids, heads, causal=False, compiled=False):
    """`attention` without dropout that passes over the blocks of a packed row in which no token sees another.

    No mask of all tokens by all tokens is made (FlexAttention, Dong et al., 2024).

    Args:
        compiled: as a fused kernel, which torch has for GPUs; otherwise as plain operations, to compare with.

    Returns:
        context (B * S, H) in the dtype of query.
    """
    b, s = sequence_ids.shape

    def sees(row, head, of, other):
        same = sequence_ids[row, of] == sequence_ids[row, other]
        return same & (of >= other) if causal else same

    plain = flex.create_block_mask, flex.flex_attention
    make, attend = _compiled() if compiled and not torch.compiler.is_compiling() else plain
    mask = make(sees, b, None, s, s, device=sequence_ids.device)
    parts = (_by_head(x, b, heads) for x in (query, key, value))
    return _by_row(attend(*parts, block_mask=mask))


@functools.cache
def _compiled() -> tuple[Callable, Callable]:
    return torch.compile(flex.create_block_mask), torch.compile(flex.flex_attention, dynamic=False)


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


def correct(logits, labels):
    """Whether the label has the highest score: (N, C), (N,) int32 -> (N,) float32 or float64, 0 or 1."""
    right = logits.argmax(-1) == labels
    return right.double() if logits.dtype == torch.float64 else right.float()


def own_tokens(sequence_ids, count):
    """(B, S) int32 -> (B, count, S) float32, 1 where a token is of the first, second, ... sequence of its row."""
    numbers = torch.arange(1, count + 1, device=sequence_ids.device)[:, None]
    return wide(sequence_ids[:, None] == numbers)


def means(values, sequence_ids, count):
    """The mean of values (B, S, C) over the tokens of each of `count` = N sequences of a row -> (B * N, C) float32."""
    values = wide(values)
    inside = own_tokens(sequence_ids, count).to(values.dtype)
    sizes = inside.sum(-1, keepdim=True).clamp(min=1.0)
    return ((inside / sizes) @ values).view(-1, values.shape[-1])


def unit(x):
    """Vectors (..., H) divided by their length, in float32 or float64; what is 0 stays 0."""
    x = wide(x)
    return x / torch.sqrt(torch.square(x).sum(-1, keepdim=True) + 1e-24)


def share_correct(logits, labels):
    """The share of labels whose logit has the right sign: (N, C), (N, C) 0 or 1 -> (N,) float32 or float64."""
    right = (logits > 0.0) == (labels > 0.5)
    return (right.double() if logits.dtype == torch.float64 else right.float()).mean(-1)


def sums_of_squares(x):
    """The sums of squares of the tiles of any tensor -> (T,) float64, the rows' norms added up in it.

    Over a whole matrix torch adds up in float32 on the CPU: for the embeddings of BERT-mini that is 2e-4 too little.
    """
    tiles = [torch.linalg.vector_norm(x[begin:end], dim=-1).double().square().sum() for begin, end in bounds(x.shape)]
    return torch.stack(tiles)


def composed(
    dtype: str,
    linear=linear,
    layer_norm=layer_norm,
    dropout=dropout,
    attention=attention,
    activations=ACTIVATIONS,
    scores=linear,
    **others,
) -> Operations:
    """A set of operations, the larger ones composed of these smaller ones.

    Args:
        dtype: of the activations. linear, layer_norm, dropout, scores: as the fields of Operations. attention: as
        `attention`, which takes the number of heads. activations: by name, each x -> x.
        others: further fields of Operations.
    """
    dtype = getattr(torch, dtype)

    def embed(input_ids, token_type_ids, position_ids, word, token_type, position, gamma, beta, epsilon, *drawn):
        summed = (
            functional.embedding(input_ids.flatten(), word)
            + functional.embedding(token_type_ids.flatten(), token_type)
            + functional.embedding(position_ids.flatten(), position)
        )  # (B * S, H) in the parameters' dtype
        return dropout(layer_norm(summed, gamma, beta, epsilon).to(dtype), *drawn)

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
    }
    return Operations(**{**fields, **others})


def operations(dtype: str = "float32", probabilities: bool = False) -> Operations:
    """The operations for a compute dtype; with the probabilities of the attention, or by torch's fused one."""
    return composed(dtype, attention=attention if probabilities else fused_attention, probabilities=probabilities)
