"""What pt_reference computes of a problem: the oracle in float64, the yardstick in float32 or half, and compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from conversion.parameters import ARCHITECTURES
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import learning_rate
from ms_bert.tasks.pretraining import PreTraining
from pt_reference import heads
from pt_reference.device import torch_device
from pt_reference.model import BertForPreTraining, Numerics, gather_positions, named_intermediates
from pt_reference.training.losses import PreTrainingLoss
from pt_reference.training.trainer import TorchTrainer


class Probe(nn.Module):
    """A model of a class of Hugging Face, that gives everything it computes.

    Args:
        model: of `heads.named(architecture)`.

    Returns:
        the intermediates of BertModel, and the outputs by the names of `cases.outputs`.
    """

    def __init__(self, model: nn.Module, architecture: str):
        super().__init__()
        self.model = model
        described = ARCHITECTURES[architecture]
        self.heads, self.slots, self.columns = len(described.heads), described.slots, described.columns

    def forward(self, input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, masked_positions):
        bert = self.model.bert if self.heads else self.model
        hidden, pooled, intermediates = bert(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions)
        outputs = () if isinstance(pooled, tuple) else (pooled,)
        if self.heads:
            tokens = input_ids.shape[1]
            rows = gather_positions(hidden, masked_positions, tokens) if self.slots else hidden
            given = self.model.head(rows, pooled, tokens)
            if self.columns:
                given = torch.stack(given, -1)
            given = given if isinstance(given, tuple) else (given,)
            outputs += tuple(value.reshape(-1, value.shape[-1]) for value in given)
        return intermediates, outputs or (hidden,)


class PyTorch:
    """A contender on a device; see `conversion.agreement.suite.Contender`. float64 on the CPU is the oracle.

    Args:
        fused: by the fused attention of a user's run, which gives no probabilities, as the compiled model has it too.
    """

    def __init__(
        self, precision: str = "float32", compiled: bool = False, device: str = "CPU", fused: bool | None = None
    ):
        self.fused = compiled if fused is None else fused
        self.name = "PyTorch compiled" if compiled else "PyTorch fused" if self.fused else "PyTorch"
        self.precision, self.compiled, self.device = precision, compiled, device
        self.own_dropout = self.fused and device == "GPU"  # of torch's generator
        self._modules: dict = {}

    def leaves_out(self, name: str) -> bool:
        return self.fused and name.endswith("probabilities")

    def forward(self, problem: Problem, batch: Batch) -> dict[str, np.ndarray]:
        with torch.no_grad():
            intermediates, outputs = self._probe(problem)(*self._tensors(batch, FIELDS[:6]))
        named = named_intermediates(intermediates) | dict(zip(cases.outputs(problem), outputs))
        return {name: _array(value) for name, value in named.items() if not isinstance(value, tuple)}

    def output_gradients(self, problem: Problem, batch: Batch, directions: list[np.ndarray]) -> dict[str, np.ndarray]:
        probe = self._probe(problem)
        _, outputs = probe(*self._tensors(batch, FIELDS[:6]))
        loss = sum((value.double() * self._tensor(d)).sum() for value, d in zip(outputs, directions))
        loss.backward()
        found = _gradients(probe.model, problem.architecture)
        probe.zero_grad()  # a kept module would keep them too
        return found

    def losses_and_gradients(self, problem: Problem, batch: Batch, dropout: bool) -> tuple[dict, dict]:
        loss = self._module(
            "loss", problem, lambda: PreTrainingLoss(BertForPreTraining(problem.config, self._numerics()))
        )
        keys = tuple(map(self._tensor, cases.keys(problem.config, batch))) if dropout else None
        scale = cases.scale(self.precision)
        numbers = [torch.tensor(value).to(torch_device(self.device)) for value in (*cases.totals(batch), scale)]
        value, sums, _ = loss(*self._tensors(batch, FIELDS), *numbers, keys)
        value.backward()
        gradients = {name: value / scale for name, value in _gradients(loss.model, problem.architecture).items()}
        return cases.losses(dict(zip(PreTraining.sums, sums.tolist())), batch), gradients

    def trainer(self, problem: Problem, options) -> TorchTrainer:
        if self.compiled:
            torch.compiler.reset()  # past a few graphs of one function torch would quietly run it uncompiled
            self._modules.clear()
        options = cases.with_changed(options, "training", precision=self.precision)
        options = cases.with_changed(options, "pytorch", compile=self.compiled)
        options = cases.with_changed(options, "run", device=self.device)
        return TorchTrainer(problem.config, options)

    def learning_rate(self, options: TrainingOptions, step: int) -> float:
        return learning_rate(options, step)

    def _numerics(self) -> Numerics:
        return Numerics(self.precision, probabilities=not self.fused)

    def _probe(self, problem: Problem) -> nn.Module:
        architecture, config, arguments = cases.cell(problem)
        make = heads.named(architecture)
        return self._module("probe", problem, lambda: Probe(make(config, self._numerics(), **arguments), architecture))

    def _module(self, kind: str, problem: Problem, make) -> nn.Module:
        """A module around a model with the problem's weights; compiled ones are kept, for compiling takes long."""
        architecture, config, arguments = cases.cell(problem)
        key = (kind, architecture, config.to_json(), *arguments.items())
        module = self._modules.get(key)
        if module is None:
            module = (make().double() if self.precision == "float64" else make()).to(torch_device(self.device))
            if self.compiled:
                torch.compiler.reset()
                self._modules = {key: module} | self._modules
                module.compile(dynamic=False)
        prefix = ARCHITECTURES[architecture].prefix
        module.model.load_state_dict(
            {name.removeprefix(prefix): torch.from_numpy(value) for name, value in problem.weights.items()}
        )
        module.zero_grad()
        return module

    def _tensors(self, batch: Batch, names) -> list[torch.Tensor]:
        return [self._tensor(batch[name]) for name in names]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(torch_device(self.device))


def _gradients(model: nn.Module, architecture: str) -> dict[str, np.ndarray]:
    """The gradient of each parameter of a model by its canonical name."""
    prefix = ARCHITECTURES[architecture].prefix
    return {
        prefix + name: np.zeros(p.shape) if p.grad is None else _array(p.grad) for name, p in model.named_parameters()
    }


def _array(value: torch.Tensor) -> np.ndarray:
    """In NumPy, which has no bfloat16, as float64."""
    return value.detach().double().cpu().numpy()
