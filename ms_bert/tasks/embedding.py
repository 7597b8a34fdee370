"""The vector of a text: how the hidden states of its tokens become one, and how alike two vectors are.

The strategies are those of bert-as-service and of sentence-transformers. All is computed text by text in float64, so
that a vector does not depend on the texts beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy import special

ARCHITECTURE = "BertHiddenStates"
TOKENS, POOLER = "tokens", "pooler"  # a vector for each token; what the model's own pooler makes of [CLS]


def _weighted(states: np.ndarray, positions: np.ndarray) -> np.ndarray:
    weights = positions + 1.0
    return (states * weights[:, None]).sum(0) / weights.sum()


# From the hidden states (S, D) of a text's tokens, at least one, and their positions (S,) to (D,). The last three only
# a folder of sentence-transformers asks for, by these names.
STRATEGIES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cls": lambda states, positions: states[0],
    "mean": lambda states, positions: states.mean(0),
    "max": lambda states, positions: states.max(0),
    "mean_sqrt_len_tokens": lambda states, positions: states.sum(0) / np.sqrt(len(states)),
    "weightedmean": _weighted,
    "lasttoken": lambda states, positions: states[-1],
}


@dataclasses.dataclass(frozen=True)
class Pooling:
    """From the hidden states of a text to its vector.

    Attributes:
        strategies: keys of STRATEGIES, whose vectors are put one after the other, or TOKENS or POOLER alone.
        special_tokens: whether [CLS] and [SEP] are among the tokens. skipped: how many tokens at the beginning, [CLS]
            included, are not among them: those of a prompt.
    """

    strategies: tuple[str, ...] = ("mean",)
    special_tokens: bool = True
    skipped: int = 0

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """(S, D) float32 of a text -> (strategies * D,) float64, or of TOKENS (kept tokens, D).

        What is made of no token at all, such as the words of an empty text, is 0.
        """
        begin, end = self.kept(len(states))
        chosen, positions = states[begin:end].astype(np.float64), np.arange(begin, end)
        if self.strategies == (TOKENS,):
            return chosen
        if not len(chosen):
            return np.zeros(len(self.strategies) * states.shape[1])
        return np.concatenate([STRATEGIES[name](chosen, positions) for name in self.strategies])

    def kept(self, count: int) -> tuple[int, int]:
        """The first of a text's tokens that counts, and the end of those that do."""
        return (min(self.skipped, count - 1), count) if self.special_tokens else (max(1, self.skipped), count - 1)


class Step(Protocol):
    """What is done with vectors after pooling."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(..., D) float64 -> (..., E) float64."""


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Divides a vector by its length; what is 0 stays 0."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True)
class Truncate:
    """Keeps the first numbers of a vector, as of Matryoshka embeddings (Kusupati et al., 2022).

    Attributes:
        width: how many; a shorter vector stays as it is.
    """

    width: int

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return vectors[..., : self.width]


@dataclasses.dataclass(frozen=True)
class Dense:
    """activation(weight x + bias), and x or residual x besides, as in sentence-transformers.

    Attributes:
        weight: (E, D). bias: (E,). residual: (E, D); None: there is none.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: Callable[[np.ndarray], np.ndarray]
    residual: np.ndarray | None = None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        made = self.activation(_product(self.weight, vectors) + self.bias)
        return made if self.residual is None else made + _product(self.residual, vectors)


def _product(weight: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vector by vector: how a product of matrices rounds depends on how many there are."""
    return np.stack([weight @ vector for vector in vectors]) if vectors.ndim > 1 else weight @ vectors


# Of a Dense, by the class of torch.nn.
ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "Sigmoid": special.expit,
}


def cosines(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosines (n,) float64 of (D,) with each of (n, D), which depend on the two vectors alone; of 0 they are 0."""
    unit = Normalize()
    return (unit(others.astype(np.float64)) * unit(one.astype(np.float64))).sum(-1)


def layers_from_the_input(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """Layers as 0 (the embeddings) to `count`; -1 is the last one.

    Raises:
        ValueError: there is no such layer.
    """
    if wrong := [layer for layer in layers if not -count - 1 <= layer <= count]:
        raise ValueError(f"{wrong[0]} is not a layer")
    return tuple(layer % (count + 1) for layer in layers)
