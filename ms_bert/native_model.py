"""The models of `ms_bert.heads` for inference by the C++ library alone: on the CPU, by no framework.

The encoder is `kernels.native.encoder`; a head is what the class of its name computes, on rows of hidden states. What a
model gives for a sequence depends neither on the other ones nor on the number of threads, to the last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.data.sequences import Sequences
from ms_bert.kernels import native
from ms_bert.kernels.native.encoder import Encoder
from ms_bert.process import own_threads

MASKED = "masked_positions"  # the field of a batch, or of sequences, by which tokens are asked about
POOLER = "pooler"
PARTS = {  # that a class has besides the backbone
    "BertForMaskedLM": ("mlm",),
    "BertForNextSentencePrediction": (POOLER, "nsp"),
    "BertForSequenceClassification": (POOLER, "classifier"),
    "BertForMultipleChoice": (POOLER, "classifier"),
    "BertForTokenClassification": ("classifier",),
    "BertForQuestionAnswering": ("qa",),
    "BertHiddenStates": (),
}


def load(
    architecture: str,
    found: Any,
    precision: str = "float32",
    threads: int | None = None,
    layers: Sequence[int] = (),
    pooled: bool = False,
) -> NativeModel:
    """A model with the weights of a checkpoint.

    Args:
        architecture: one of PARTS. found: a `conversion.pretrained.Pretrained`. precision, layers, pooled: as of
            `NativeModel`. threads: of the processor; None: all there are.

    Raises:
        UserError: a tensor of the checkpoint has another shape than the config says.
    """
    threads = own_threads(threads)
    if threads is not None:
        native.set_threads(threads)
    fit = found.of_parts((*PARTS[architecture], *([POOLER] if pooled else [])), architecture)
    if told := fit.told():
        logging.getLogger("ms_bert").warning("%s: %s", found.checkpoint.source.path, told)
    return NativeModel(architecture, found.config, fit.values(seed=1), precision, layers, pooled)


class NativeModel:
    """A BERT with a head, for inference.

    Args:
        architecture: one of PARTS. parameters: of that class, by their canonical names.
        precision: what the products of the encoder multiply, 'float32', 'bfloat16' or 'int8'; all else is float32, but
            that the MLM head multiplies bfloat16 too, as a model by the fused kernels does.
        layers, pooled: as of `BertHiddenStates`.
    """

    def __init__(
        self,
        architecture: str,
        config: BertConfig,
        parameters: Mapping[str, np.ndarray],
        precision: str = "float32",
        layers: Sequence[int] = (),
        pooled: bool = False,
    ):
        backbone = {name.removeprefix("bert."): value for name, value in parameters.items()}
        self._encoder = Encoder(config, backbone, precision)
        self._config, self._architecture, self._precision, self._layers = config, architecture, precision, layers
        self._pooled = pooled or POOLER in PARTS[architecture]
        kept = ("bert.pooler.", "cls.", "classifier.", "qa_outputs.")
        if architecture == "BertForMaskedLM":
            kept += ("bert.embeddings.word_embeddings.",)
        self._parameters = {
            name: np.ascontiguousarray(value, np.float32) for name, value in parameters.items() if name.startswith(kept)
        }

    def logits(self, sequences: Sequences, per_token: bool) -> np.ndarray:
        """(n, C) float32 of the sequences, or (T, C) of their tokens."""
        read = sequences.starts[:-1]
        if self._architecture == "BertForMaskedLM":
            read = read + sequences.of_sequences[MASKED]
        inputs = {"ids": sequences.ids, "types": sequences.types, "starts": sequences.starts}
        return self._computed(inputs, None if per_token else read)

    def __call__(self, batch: Batch) -> np.ndarray:
        """What the class gives for a packed batch, 0 where there is padding: of sequences (B * N, C), of tokens
        (B, S, C), of masked ones, at `MASKED` (B, P), (B * P, C)."""
        numbering = batch["sequence_ids"]
        rows, columns = there = np.nonzero(numbering)
        ids, types, positions, numbers = (
            batch[name][there] for name in ("input_ids", "token_type_ids", "position_ids", "sequence_ids")
        )
        first = np.flatnonzero((np.diff(rows, prepend=-1) != 0) | (np.diff(numbers, prepend=0) != 0))
        inputs = {"ids": ids, "types": types, "starts": np.append(first, len(ids)), "positions": positions}
        if self._architecture == "BertForMaskedLM":
            places = np.full(numbering.shape, -1)
            places[there] = np.arange(len(ids))
            asked = np.take_along_axis(places, batch[MASKED], 1)
            read, back = np.unique(asked[asked >= 0], return_inverse=True)
            found = _scattered(self._computed(inputs, read)[back], np.nonzero(asked >= 0), asked.shape)
            return found.reshape(asked.size, -1)
        if self._pooled:
            places = batch["cls_positions"].shape
            found = _scattered(self._computed(inputs, first), (rows[first], numbers[first] - 1), places)
            return found.reshape(-1, found.shape[-1])
        return _scattered(self._computed(inputs, None), there, numbering.shape)

    def _computed(self, inputs: Mapping[str, np.ndarray], read: np.ndarray | None) -> np.ndarray:
        """Of the tokens to be read, or without any of all."""
        if self._architecture == "BertHiddenStates" and not self._pooled:
            states, _ = self._encoder(**inputs, layers=self._layers)
            return states.transpose(1, 0, 2).reshape(len(inputs["ids"]), -1)
        if read is None:
            states, _ = self._encoder(**inputs, layers=[self._encoder.layers])
            return self._head(states[0])
        return self._head(self._encoder(**inputs, read=read)[1])

    def _head(self, hidden: np.ndarray) -> np.ndarray:
        """The logits (R, C) of hidden states (R, H)."""
        if self._pooled:
            hidden = np.tanh(self._linear("bert.pooler.dense", hidden))
        match self._architecture:
            case "BertForMaskedLM":
                transform = "cls.predictions.transform"
                activation = f"linear_{self._config.hidden_act}"
                precision = "float32" if self._precision == "int8" else self._precision
                wide = self._linear(f"{transform}.dense", hidden, activation, precision)
                word, bias = (
                    self._parameters[name]
                    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
                )
                return _linear(self._normalized(f"{transform}.LayerNorm", wide), word, bias, precision=precision)
            case "BertForNextSentencePrediction":
                return self._linear("cls.seq_relationship", hidden)
            case "BertForQuestionAnswering":
                return self._linear("qa_outputs", hidden)
            case "BertHiddenStates":
                return hidden
            case _:
                return self._linear("classifier", hidden)

    def _linear(self, module: str, x: np.ndarray, kernel: str = "linear", precision: str = "float32") -> np.ndarray:
        weight, bias = (self._parameters[f"{module}.{leaf}"] for leaf in ("weight", "bias"))
        return _linear(x, weight, bias, kernel, precision)

    def _normalized(self, module: str, x: np.ndarray) -> np.ndarray:
        made, scale = [np.empty_like(x) for _ in range(2)], np.empty(len(x), np.float32)
        epsilon = np.array([self._config.layer_norm_eps], np.float32)
        weight, bias = (self._parameters[f"{module}.{leaf}"] for leaf in ("weight", "bias"))
        native.call("layer_norm", [x, weight, bias, epsilon], [*made, scale])
        return made[0]


def _scattered(values: np.ndarray, places: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    """An array (*shape, C) with values (R, C) at R places, and 0 elsewhere."""
    made = np.zeros((*shape, values.shape[1]), np.float32)
    made[places] = values
    return made


def _linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, kernel: str = "linear", precision: str = "float32"
) -> np.ndarray:
    """A linear layer, or one that ends in an activation, whose kernel also gives what its gradient would read."""
    made = [np.empty((len(x), len(weight)), np.float32)]
    if kernel != "linear":
        made += native.kept_of([made[0]] if precision == "float32" else [made[0], x], precision)
    native.call(kernel, [x, weight, bias], made, precision)
    return made[0]
