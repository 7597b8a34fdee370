"""What ms_bert computes of a problem, in graph mode or in PyNative mode, on any device."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from conversion.parameters import ARCHITECTURES
from ms_bert import heads, kernels
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.device import use_device
from ms_bert.kernels import Operations
from ms_bert.model import BertForPreTraining, Numerics, gather_positions, named_intermediates
from ms_bert.options import TrainingOptions
from ms_bert.run.recipe import learning_rate
from ms_bert.tasks.pretraining import PreTraining
from ms_bert.training.losses import PreTrainingLoss
from ms_bert.training.step import Update
from ms_bert.training.trainer import MindSporeTrainer


class Probe(nn.Cell):
    """`conversion.agreement.in_torch.Probe` as a cell."""

    def __init__(self, model: nn.Cell, architecture: str):
        super().__init__(auto_prefix=False)
        self.model = model
        described = ARCHITECTURES[architecture]
        self.heads, self.slots, self.columns = len(described.heads), described.slots, described.columns

    def construct(self, input_ids, sequence_ids, token_type_ids, position_ids, cls_positions, masked_positions):
        bert = self.model.bert if self.heads else self.model
        hidden, pooled, intermediates = bert(input_ids, sequence_ids, token_type_ids, position_ids, cls_positions)
        outputs = () if isinstance(pooled, tuple) else (pooled,)
        if self.heads:
            tokens = input_ids.shape[1]
            rows = gather_positions(hidden, masked_positions, tokens) if self.slots else hidden
            given = self.model.head(rows, pooled, tokens)
            if self.columns:
                given = ops.stack(given, -1)
            given = given if isinstance(given, tuple) else (given,)
            for value in given:
                outputs += (ops.reshape(value, (-1, value.shape[-1])),)
        return intermediates, outputs or (hidden,)


class Along(nn.Cell):
    """The sum of the products of a Probe's outputs with directions of their shapes, () float32."""

    def __init__(self, probe: Probe):
        super().__init__(auto_prefix=False)
        self.probe = probe

    def construct(self, *arguments):
        _, outputs = self.probe(*arguments[:6])
        total = Tensor(0.0, ms.float32)
        for output, direction in zip(outputs, arguments[6:]):
            total = total + (ops.cast(output, ms.float32) * direction).sum()
        return total


class Gradients(nn.Cell):
    """The value of a loss cell, what it gives besides, and the gradient of each parameter.

    Args:
        dropout: whether the last two arguments of a call are dropout keys, which the loss takes as a pair. Tensors
            within a tuple are constants to the compiler: a call with such an argument would compile each time.
    """

    def __init__(self, loss: nn.Cell, has_aux: bool = False, dropout: bool = False):
        super().__init__(auto_prefix=False)
        weights = ParameterTuple(loss.trainable_params())
        self.function = ms.value_and_grad(loss, None, weights=weights, has_aux=has_aux)
        self.dropout = dropout

    def construct(self, *inputs):
        if self.dropout:
            return self.function(*inputs[:-2], (inputs[-2], inputs[-1]))
        return self.function(*inputs)


class MindSpore:
    """A contender; see `conversion.agreement.suite.Contender`.

    A compiled cell serves every problem of the same config and parts, with the weights of each.

    Args:
        operations: other ones than the device's, `fused` or stock. update: what clips and updates in its trainers.
    """

    def __init__(
        self,
        precision: str = "float32",
        device: str = "CPU",
        graph: bool = True,
        fused: bool = False,
        operations: Operations | None = None,
        update: type[Update] = Update,
    ):
        self.name = f"MindSpore{'' if graph else ' PyNative'}{' fused' if fused else ''}"
        self.precision, self.device, self.graph = precision, device, graph
        self.operations = operations or kernels.operations(device, precision, "fused" if fused else "stock")
        self.update = update
        self.own_dropout = self.operations.own_dropout
        self._cells: dict = {}

    def leaves_out(self, name: str) -> bool:
        return not self.operations.probabilities and name.endswith("probabilities")

    def forward(self, problem: Problem, batch: Batch) -> dict[str, np.ndarray]:
        intermediates, outputs = self._probe(problem)(*_tensors(batch, FIELDS[:6]))
        named = named_intermediates(intermediates) | dict(zip(cases.outputs(problem), outputs))
        return {name: _array(value) for name, value in named.items() if not isinstance(value, tuple)}

    def output_gradients(self, problem: Problem, batch: Batch, directions: list[np.ndarray]) -> dict[str, np.ndarray]:
        probe = self._probe(problem)
        cell = self._cell("along", problem, lambda: Gradients(Along(probe)))
        _, gradients = cell(*_tensors(batch, FIELDS[:6]), *[Tensor(d.astype(np.float32)) for d in directions])
        return {p.name: _array(g) for p, g in zip(probe.trainable_params(), gradients)}

    def losses_and_gradients(self, problem: Problem, batch: Batch, dropout: bool) -> tuple[dict, dict]:
        model = self._cell("pretraining", problem, lambda: BertForPreTraining(problem.config, self._numerics()))
        cell = self._cell(
            f"gradients, dropout {dropout}", problem, lambda: Gradients(PreTrainingLoss(model), True, dropout)
        )
        _set(model, problem.weights)
        scale = cases.scale(self.precision)
        numbers = [Tensor(np.float32(value)) for value in (*cases.totals(batch), scale)]
        keys = map(Tensor, cases.keys(problem.config, batch) if dropout else ())
        (_, sums, _), gradients = cell(*_tensors(batch, FIELDS), *numbers, *keys)
        named = {p.name: _array(g) / scale for p, g in zip(model.trainable_params(), gradients)}
        return cases.losses(dict(zip(PreTraining.sums, map(float, sums.asnumpy()))), batch), named

    def trainer(self, problem: Problem, options) -> MindSporeTrainer:
        self._use()
        options = cases.with_changed(options, "training", precision=self.precision)
        return MindSporeTrainer(problem.config, options, numerics=self._numerics(), update=self.update)

    def learning_rate(self, options: TrainingOptions, step: int) -> float:
        return learning_rate(options, step)

    def _use(self) -> None:
        use_device(self.device, self.precision)
        if not self.graph:
            ms.set_context(mode=ms.PYNATIVE_MODE)

    def _numerics(self) -> Numerics:
        return Numerics(self.device, self.precision, kernels=self.operations)

    def _probe(self, problem: Problem) -> nn.Cell:
        def make() -> Probe:
            architecture, config, arguments = cases.cell(problem)
            model = heads.named(architecture)(config, self._numerics(), **arguments)
            model.update_parameters_name(ARCHITECTURES[architecture].prefix)
            return Probe(model, architecture)

        probe = self._cell("probe", problem, make)
        _set(probe, problem.weights)
        return probe

    def _cell(self, kind: str, problem: Problem, make) -> nn.Cell:
        self._use()
        architecture, config, arguments = cases.cell(problem)
        key = (kind, architecture, config.to_json(), *arguments.items())
        if key not in self._cells:
            self._cells[key] = make()
        return self._cells[key]


def in_graph_mode(device: str, precision: str) -> list[MindSpore]:
    """The contenders by MindSpore's own operations and by fused ones, as far as there are any at this precision."""
    own = [] if kernels.only_fused(device, precision) else [MindSpore(precision, device)]
    fused = not kernels.why_not_fused(device, precision) and kernels.products(precision) == precision
    return [*own, *([MindSpore(precision, device, fused=True)] if fused else [])]


def _tensors(batch: Batch, names) -> list[Tensor]:
    return [Tensor(batch[name]) for name in names]


def _set(cell: nn.Cell, weights: dict[str, np.ndarray]) -> None:
    """Give a cell these weights: to each parameter its own, and none left over."""
    parameters = {p.name: p for p in cell.trainable_params()}
    if parameters.keys() != weights.keys():
        raise ValueError(f"weights and parameters differ: {sorted(parameters.keys() ^ weights.keys())}")
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(weights[name]))


def _array(value: Tensor) -> np.ndarray:
    """In NumPy, which has no bfloat16, as float64."""
    if value.dtype == ms.bfloat16:
        value = ops.cast(value, ms.float32)
    return value.asnumpy().astype(np.float64)
