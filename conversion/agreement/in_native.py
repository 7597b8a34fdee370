"""What the C++ library computes of a problem by itself, as predictions on the CPU are made."""

from __future__ import annotations

import numpy as np

from conversion.agreement.cases import Problem, Tensors
from conversion.parameters import ARCHITECTURES
from ms_bert.data.batches import Batch
from ms_bert.native_model import PARTS, NativeModel


class Native:
    """A contender for the forward pass; see `conversion.agreement.suite.Contender`."""

    name, own_dropout = "C++ library", False

    def __init__(self, precision: str = "float32"):
        self.precision = precision

    def leaves_out(self, name: str) -> bool:
        return ".attention." in name  # an encoder gives hidden states

    def forward(self, problem: Problem, batch: Batch) -> Tensors:
        layers = range(problem.config.num_hidden_layers + 1)
        states = self._model(problem, "BertHiddenStates", layers=layers)(batch)
        names = ["embeddings", *(f"layer.{i}.output" for i in layers[:-1])]
        found = dict(zip(names, np.split(states.reshape(-1, states.shape[-1]), len(layers), -1)))
        if problem.pooler:
            found["pooled_output"] = self._model(problem, "BertHiddenStates", layers=layers[-1:], pooled=True)(batch)
        for head in ARCHITECTURES[problem.architecture].heads:
            alone = {"mlm": "BertForMaskedLM", "nsp": "BertForNextSentencePrediction"}
            logits = self._model(problem, alone.get(head.part, problem.architecture))(batch)
            found[head.tensor] = logits.reshape(-1, logits.shape[-1])
        return {name: value.astype(np.float64) for name, value in found.items()}

    def _model(self, problem: Problem, architecture: str, **arguments) -> NativeModel:
        assert architecture in PARTS
        return NativeModel(architecture, problem.config, problem.weights, self.precision, **arguments)
