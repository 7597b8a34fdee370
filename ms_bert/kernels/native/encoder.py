"""A whole BERT encoder on the CPU, by the C++ library alone: no framework is imported or called."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.kernels.native import PRECISIONS, library

ACTIVATIONS = ("gelu", "gelu_new", "relu")  # in the order that the library counts them


def shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Of the parameters, in the order in which the library takes them; by Hugging Face's names, without prefix."""
    width, inner = config.hidden_size, config.intermediate_size
    found: dict[str, tuple[int, ...]] = {}

    def module(name: str, *weight: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, weight[:1]

    for table, entries in (
        ("word", config.vocab_size),
        ("token_type", config.type_vocab_size),
        ("position", config.max_position_embeddings),
    ):
        found[f"embeddings.{table}_embeddings.weight"] = entries, width
    module("embeddings.LayerNorm", width)
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        for projection in ("query", "key", "value"):
            module(f"{layer}.attention.self.{projection}", width, width)
        module(f"{layer}.attention.output.dense", width, width)
        module(f"{layer}.attention.output.LayerNorm", width)
        module(f"{layer}.intermediate.dense", inner, width)
        module(f"{layer}.output.dense", width, inner)
        module(f"{layer}.output.LayerNorm", width)
    return found


class Encoder:
    """Embeddings and layers of a BERT for inference.

    What it gives for a sequence depends neither on the other ones nor on the number of threads, to the last bit. An id
    that the vocabulary has not, and a place beyond the positions, count as embeddings of 0.

    Args:
        parameters: those that `shapes` names, and maybe others.
        precision: what products multiply, 'float32', 'bfloat16' or 'int8'; all else is float32. In int8 a weight has a
            scale for each output, and what it is multiplied with for each token, of 128 numbers at a time.

    Attributes:
        layers: how many. width: H.

    Raises:
        ValueError: a parameter has another shape. MemoryError: there is too little.
    """

    def __init__(self, config: BertConfig, parameters: Mapping[str, np.ndarray], precision: str = "float32"):
        expected = shapes(config)
        arrays = {name: np.ascontiguousarray(parameters[name], np.float32) for name in expected}
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise ValueError(f"{name} is {array.shape}; the config says {expected[name]}")
        self.layers, self.width = config.num_hidden_layers, config.hidden_size
        sizes = (
            *(self.layers, config.num_attention_heads, self.width, config.intermediate_size),
            *(config.vocab_size, config.type_vocab_size, config.max_position_embeddings),
            *(ACTIVATIONS.index(config.hidden_act), config.is_decoder),
        )
        self._library = library()
        make = self._library.ms_bert_encoder
        make.restype = ctypes.c_void_p
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays.values()))
        sizes_of = (ctypes.c_int64 * len(sizes))(*sizes)
        made = make(PRECISIONS.index(precision), sizes_of, ctypes.c_float(config.layer_norm_eps), pointers)
        if made is None:
            raise MemoryError("there is too little memory for an encoder")
        self._made = ctypes.c_void_p(made)
        # The library has its own copies of what is multiplied with; tables and norms it reads here.
        self._read = [array for name, array in arrays.items() if "embeddings." in name or ".LayerNorm." in name]

    def __del__(self):
        if hasattr(self, "_made"):
            self._library.ms_bert_free_encoder(self._made)

    def __call__(
        self,
        ids: np.ndarray,
        types: np.ndarray,
        starts: np.ndarray,
        layers: Sequence[int] = (),
        read: Sequence[int] | np.ndarray = (),
        positions: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The hidden states of n sequences that stand one after the other, T tokens in all.

        Args:
            ids, types: (T,) int32. starts: (n + 1,), where each begins, and T.
            layers: which layers' hidden states are wanted of all tokens, 0 being the embeddings.
            read: (R,) tokens, ascending, of which only those of the last layer are wanted; that is less work.
            positions: (T,) int32; None: 0, 1, ... in each sequence.

        Returns:
            (len(layers), T, H) and (R, H), float32.

        Raises:
            ValueError: these do not fit together. MemoryError: there is too little.
        """
        ids, types = (np.ascontiguousarray(x, np.int32) for x in (ids, types))
        places = ids[:0] if positions is None else np.ascontiguousarray(positions, np.int32)
        starts, read = (np.ascontiguousarray(x, np.int64) for x in (starts, read))
        if not len(starts):
            raise ValueError("there are no starts; of no sequences they are [0]")
        whole = len(ids) == len(types) == starts[-1] and (positions is None or len(places) == len(ids))
        if not (whole and starts[0] == 0 and (np.diff(starts) >= 0).all()):
            raise ValueError(f"{len(ids)} ids, {len(types)} types and starts to {starts[-1]} do not fit together")
        if len(read) and not (0 <= read[0] and read[-1] < len(ids) and (np.diff(read) > 0).all()):
            raise ValueError(f"the tokens to read must ascend between 0 and {len(ids) - 1}")
        if wrong := [layer for layer in layers if not 0 <= layer <= self.layers]:
            raise ValueError(f"layer {wrong[0]} was asked of {self.layers}")
        distinct = sorted(set(layers))
        states = np.empty((len(distinct), len(ids), self.width), np.float32)
        found = np.empty((len(read), self.width), np.float32)
        wanted: list[int | None] = [None] * (self.layers + 1)
        for layer, of_layer in zip(distinct, states):
            wanted[layer] = of_layer.ctypes.data
        failed = self._library.ms_bert_encode(
            self._made,
            ctypes.c_int64(len(starts) - 1),
            *(ctypes.c_void_p(x.ctypes.data) for x in (starts, ids, types)),
            ctypes.c_void_p(None if positions is None else places.ctypes.data),
            (ctypes.c_void_p * len(wanted))(*wanted),
            ctypes.c_int64(len(read)),
            *(ctypes.c_void_p(x.ctypes.data) for x in (read, found)),
        )
        if failed:
            raise MemoryError(f"there is too little memory to encode {len(ids)} tokens at once")
        return states if list(layers) == distinct else states[[distinct.index(layer) for layer in layers]], found
