"""What a model and a step compute with: one set of functions for each way to compute them.

Rows are tokens: an activation is (rows, width) with rows = B * S, in the compute dtype; what needs range (softmax,
LayerNorm, GELU, losses) is computed in float32 inside. B rows of S tokens, H hidden, V vocabulary; a weight is
(out, in). Dropout of a place of the model is its rate, row keys (rows, 1) and column keys (columns,), odd int32 (see
`stock.dropout`); at rate 0 the keys may be None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Operations:
    """The functions of one way to compute. `kernels.operations` chooses a set; `dataclasses.replace` changes one."""

    name: str
    """In words that stand after "by", as in "by fused kernels (avx512)"."""

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
    (B, heads, S, S) float32, or () where they are never formed. Causal: a token attends to none after it."""

    linear_activation: Callable
    """'gelu', 'gelu_new' or 'relu' -> the linear layer that ends in it: (x (N, in), weight, bias) -> (N, out)."""

    linear_dropout_add_norm: Callable
    """(x (N, in), weight, bias, residual (N, H), gamma, beta, epsilon, rate, row_keys, column_keys) ->
    layer_norm(residual + dropout(linear(x))) (N, H): the end of both sublayers."""

    scores: Callable
    """(x (N, H), word embeddings (V, H), bias (V,)) -> the linear layer over the vocabulary (N, V)."""

    linear_cross_entropy: Callable
    """(x (N, H), word embeddings (V, H), bias (V,), labels (N,) int32) -> cross-entropy of the scores, and whether the
    label has the highest: (N,), (N,) float32."""

    cross_entropy: Callable
    """(logits (N, C), labels (N,) int32) -> -log softmax(logits)[label] (N,) float32."""

    sums_of_squares: Callable
    """A tensor -> the sums of the squares of its T tiles (see `ms_bert.tiles`), (T,) float32 or float64."""

    adam_update: Callable
    """(p, m, v, gradients, decayed, factor, rate, beta1, beta2, epsilon, decay): update all parameters and their
    moments in place, float32, after g = factor * gradient (factor None: 1), by

        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2,   p = p - rate (m / (sqrt(v) + epsilon) + decay p)

    p, m, v, gradients and decayed are tuples of equal length; where decayed is False the decay is 0. The others are ()
    float32. Returns what depends on it."""

    lamb_moments: Callable
    """(p, m, v, gradients, decayed, factor, beta1, beta2, correction1, correction2, epsilon, decay): update the moments
    in place, as before -> for each parameter the squares of its T tiles, of p and of

        u = (m / correction1) / (sqrt(v / correction2) + epsilon) + decay p

    (T, 2) float32. Where decayed is False they may be anything."""

    lamb_update: Callable
    """(p, m, v, norms, decayed, rate, correction1, correction2, epsilon, decay): update all parameters in place by
    p = p - rate u, where decayed is True by p = p - rate (|p| / |u|) u, unless a norm is 0; m, v and u are those after
    `lamb_moments`, norms what it gave of all tiles of the whole parameter, of which p may be one."""

    probabilities: bool = True
    """Whether `attention` gives its probabilities."""

    own_dropout: bool = False
    """Whether `attention` drops other units than the keys say: it draws its bits itself, from the keys."""

    instead: str = ""
    """What these are not, of what was asked for, and why; "": they are what was asked for."""

    @property
    def description(self) -> str:
        """The name and, where other ones were asked for, why these compute instead."""
        return f"{self.name} ({self.instead})" if self.instead else self.name
