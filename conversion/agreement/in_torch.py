"""What pt_reference computes of a problem: the oracle in float64, the yardstick in float32 or half, and compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from conversion.parameters import BACKBONE
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.options import TrainingOptions
from ms_bert.run.loop import SUMS
from ms_bert.run.recipe import learning_rate
from pt_reference.model import (
    BertForPreTraining,
    BertLMPredictionHead,
    BertModel,
    Linear,
    Numerics,
    gather_positions,
    named_intermediates,
)
from pt_reference.training.step import PreTrainingLoss
from pt_reference.training.trainer import TorchTrainer


class Heads(nn.Module):
    """The MLM head, the NSP head, or both, by Hugging Face's names."""

    def __init__(self, config: BertConfig, numerics: Numerics, parts: tuple[str, ...]):
        super().__init__()
        if "mlm" in parts:
            self.predictions = BertLMPredictionHead(config, numerics)
        if "nsp" in parts:
            self.seq_relationship = Linear(config.hidden_size, 2, numerics)


class Probe(nn.Module):
    """A BERT with any heads, that gives everything it computes.

    Args:
        parts: of the model. labels: of its classifier; tokens: whether that classifies tokens, not sequences.

    Returns:
        what BertModel gives, and the outputs of the heads by the names of `cases.outputs`.
    """

    def __init__(self, config: BertConfig, numerics: Numerics, parts: tuple[str, ...], labels: int, tokens: bool):
        super().__init__()
        self.bert = BertModel(config, numerics, "pooler" in parts)
        self.parts, self.tokens = parts, tokens
        self.headless = set(parts) <= set(BACKBONE)
        if "mlm" in parts or "nsp" in parts:
            self.cls = Heads(config, numerics, parts)
        if "classifier" in parts:
            self.classifier = Linear(config.hidden_size, labels, numerics)
        if "qa" in parts:
            self.qa_outputs = Linear(config.hidden_size, 2, numerics)

    def forward(self, input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, masked_positions):
        inputs = (input_ids, sequence_ids, token_type_ids, position_ids, cls_positions)
        hidden, pooled, intermediates = self.bert(*inputs)
        outputs = ()
        if "pooler" in self.parts:
            outputs += (pooled,)
        if "mlm" in self.parts:
            masked = gather_positions(hidden, masked_positions, input_ids.shape[1])
            outputs += (self.cls.predictions(masked, self.bert.embeddings.word_embeddings.weight),)
        if "nsp" in self.parts:
            outputs += (self.cls.seq_relationship(pooled),)
        if "classifier" in self.parts:
            outputs += (self.classifier(hidden if self.tokens else pooled),)
        if "qa" in self.parts:
            outputs += (self.qa_outputs(hidden),)
        return intermediates, (hidden,) if self.headless else outputs


class PyTorch:
    """A contender; see `conversion.agreement.suite.Contender`. float64 is the oracle."""

    def __init__(self, precision: str = "float32", compiled: bool = False):
        self.name = "PyTorch compiled" if compiled else "PyTorch"
        self.precision, self.compiled, self.own_dropout = precision, compiled, False
        self._modules: dict = {}

    def leaves_out(self, name: str) -> bool:
        return self.compiled and name.endswith("probabilities")

    def forward(self, problem: Problem, batch: Batch) -> dict[str, np.ndarray]:
        with torch.no_grad():
            intermediates, outputs = self._probe(problem)(*_tensors(batch, FIELDS[:6]))
        named = named_intermediates(intermediates) | dict(zip(cases.outputs(problem), outputs))
        return {name: _array(value) for name, value in named.items() if not isinstance(value, tuple)}

    def output_gradients(self, problem: Problem, batch: Batch, directions: list[np.ndarray]) -> dict[str, np.ndarray]:
        model = self._probe(problem)
        _, outputs = model(*_tensors(batch, FIELDS[:6]))
        loss = sum((value.double() * torch.from_numpy(d)).sum() for value, d in zip(outputs, directions))
        loss.backward()
        found = _gradients(model)
        model.zero_grad()  # a kept module would keep them too
        return found

    def losses_and_gradients(self, problem: Problem, batch: Batch, dropout: bool) -> tuple[dict, dict]:
        loss = self._module(
            "loss", problem, lambda: PreTrainingLoss(BertForPreTraining(problem.config, self._numerics()))
        )
        keys = tuple(map(torch.from_numpy, cases.keys(problem.config, batch))) if dropout else None
        scale = cases.scale(self.precision)
        numbers = [torch.tensor(value) for value in (*cases.totals(batch), scale)]
        value, sums = loss(*_tensors(batch, FIELDS), *numbers, keys)
        value.backward()
        gradients = {name: value / scale for name, value in _gradients(loss).items()}
        return cases.losses(dict(zip(SUMS, sums.tolist())), batch), gradients

    def trainer(self, problem: Problem, options) -> TorchTrainer:
        if self.compiled:
            torch.compiler.reset()  # past a few graphs of one function torch would quietly run it uncompiled
            self._modules.clear()
        options = cases.with_training(options, precision=self.precision, compile=self.compiled)
        return TorchTrainer(problem.config, options)

    def learning_rate(self, options: TrainingOptions, step: int) -> float:
        return learning_rate(options, step)

    def _numerics(self) -> Numerics:
        # The compiled model has the fused attention of a user's run, which gives no probabilities.
        return Numerics(self.precision, probabilities=not self.compiled)

    def _probe(self, problem: Problem) -> nn.Module:
        arguments = problem.config, self._numerics(), problem.parts, *cases.classifier(problem)
        return self._module("probe", problem, lambda: Probe(*arguments))

    def _module(self, kind: str, problem: Problem, make) -> nn.Module:
        """A module with the problem's weights; compiled ones are kept, for compiling takes long."""
        key = (kind, problem.config.to_json(), problem.parts, cases.classifier(problem))
        module = self._modules.get(key)
        if module is None:
            module = make().double() if self.precision == "float64" else make()
            if self.compiled:
                torch.compiler.reset()
                self._modules = {key: module} | self._modules
                module.compile(dynamic=False)
        weights = {name: torch.from_numpy(value) for name, value in problem.weights.items()}
        (module.model if kind == "loss" else module).load_state_dict(weights)
        module.zero_grad()
        return module


def _tensors(batch: Batch, names) -> list[torch.Tensor]:
    return [torch.from_numpy(batch[name]) for name in names]


def _gradients(model: nn.Module) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("model."): np.zeros(p.shape) if p.grad is None else _array(p.grad)
        for name, p in model.named_parameters()
    }


def _array(value: torch.Tensor) -> np.ndarray:
    """In NumPy, which has no bfloat16, as float64."""
    return value.detach().double().numpy()
