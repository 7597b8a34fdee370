"""Random numbers as pure functions of (seed, purpose, step): no generator state is kept anywhere.

Philox (Salmon et al., 2011) is counter-based: the seed and the purpose are its key, the step its counter.
"""

import hashlib

import numpy as np

from ms_bert.config import BertConfig

# One stream a purpose; a new purpose takes a new number, for a number's meaning is part of every saved run.
PAIRS, MASKING, DROPOUT, ORDER, WEIGHTS, AUGMENTATION = range(1, 7)
HELD_OUT = 16  # added to PAIRS, MASKING and ORDER for evaluation
BOOTSTRAP = 32  # samples for confidence intervals


def generator(seed: int, stream: int, step: int, turn: int = 0, leaf: int = 0) -> np.random.Generator:
    """The generator for one purpose at one step.

    Args:
        turn: where a step draws several times for one purpose. leaf: of the batch, where each has a stream of its own.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, leaf, step, turn]))


def permuted(index: np.ndarray, size: int, seed: int, stream: int, epoch: np.ndarray) -> np.ndarray:
    """Where a pseudo-random permutation of range(size), one for each epoch, sends index; all int64, elementwise.

    A four-round Feistel network on the next even number of bits, walked until the result is in range
    (Black & Rogaway, 2002): any entry is had without the others, so no shuffled list is stored.
    """
    half = np.uint64(max(1, (max(1, size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = generator(seed, stream, 0).integers(0, 2**64, size=4, dtype=np.uint64)
    epoch_key = _mix(np.asarray(epoch, np.uint64) + np.uint64(1))
    value = np.asarray(index, np.uint64).copy()
    outside = np.ones(value.shape, bool)
    while outside.any():
        left, right = value >> half, value & low
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key ^ epoch_key) & low)
        value = np.where(outside, (left << half) | right, value)
        outside = value >= size
    return value.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014) on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def dropout_keys(seed: int, step: int, rows: int, columns: int, leaf: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row keys (rows, 1) and column keys (columns,), odd int32, from which every dropout mask of a step follows.

    See `ms_bert.kernels.stock.dropout` for how, and `DropoutColumns` for which columns are whose.

    Args:
        leaf: of the batch. Each has row keys of its own; the column keys of all are those of leaf 0.
    """
    rng = generator(seed, DROPOUT, step, leaf=leaf)
    keys = rng.integers(-(2**31), 2**31, size=rows + columns, dtype=np.int32) | np.int32(1)
    return keys[:rows, None], keys[rows:]


class DropoutColumns:
    """Which columns of the dropout keys belong to which place of the model.

    A layout that both frameworks share: 2 L + 2 blocks of H columns (after the embeddings, then two a layer, then
    the input of a downstream head), then for each layer heads * S columns, S being at most the position table.
    """

    def __init__(self, config: BertConfig):
        self.config = config

    def hidden(self, block: int) -> int:
        """First column of the hidden block: 0 embeddings, 2 i + 1 and 2 i + 2 layer i, 2 L + 1 a downstream head."""
        return block * self.config.hidden_size

    def attention(self, layer: int) -> int:
        """First column of the probabilities of a layer."""
        width = self.config.num_attention_heads * self.config.max_position_embeddings
        return self.hidden(2 * self.config.num_hidden_layers + 2) + layer * width

    @property
    def total(self) -> int:
        """C, the number of columns."""
        return self.attention(self.config.num_hidden_layers)


def initial_weights(name: str, shape: tuple, scale: float, seed: int, truncated: bool) -> np.ndarray:
    """The first value of a parameter, float32: biases 0, LayerNorm weights 1, others normal(0, scale).

    Args:
        name: Hugging Face's name; each has its own stream.
        truncated: redraw what lies beyond two standard deviations.
    """
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if name.endswith("LayerNorm.weight"):
        return np.ones(shape, np.float32)
    rng = generator(seed, WEIGHTS, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    value = rng.standard_normal(shape, np.float32)
    while truncated and (beyond := np.abs(value) > 2.0).any():
        value[beyond] = rng.standard_normal(int(beyond.sum()), np.float32)
    return value * np.float32(scale)
