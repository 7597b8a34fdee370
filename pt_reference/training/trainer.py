"""The trainer: a model, a task's loss and an optimizer, driven by `ms_bert.run.loop`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.options import TrainerOptions
from ms_bert.randomness import DROPOUT, DropoutColumns, generator
from ms_bert.run.checkpoints import Arrays
from ms_bert.run.leaves import Part, Tree, added, cut, leaves, own_leaves
from ms_bert.run.loop import StepResult
from ms_bert.run.recipe import all_moments, moments_of
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Sums, Task
from ms_bert.tasks.pretraining import PRETRAINING
from pt_reference.device import torch_device
from pt_reference.model import Numerics, initialize
from pt_reference.training import losses
from pt_reference.training.exchange import Sharded, Whole
from pt_reference.training.losses import Objective
from pt_reference.training.step import Update


class TorchTrainer:
    """See `ms_bert.run.loop.Trainer`.

    Args:
        objective: of the task; by default that of the losses. workers: with which each batch is computed.

    Attributes:
        model: of the objective. config: of the model. shapes: of its parameters, by name.
    """

    def __init__(
        self,
        config: BertConfig,
        options: TrainerOptions,
        task: Task = PRETRAINING,
        objective: Objective | None = None,
        workers: Workers = ALONE,
    ):
        training = options.training
        self.config, self.training, self.task, self.workers = config, training, task, workers
        objective = objective or losses.objective(task)
        self.device = torch_device(options.run.device)
        numerics = Numerics(training.precision, training.recompute)
        self.model = objective.model(config, numerics)
        initialize(self.model, config, training.seed, options.truncated_normal)
        if training.precision == "float64":
            self.model.double()
        self.model.to(self.device)
        parameters = dict(self.model.named_parameters())
        self.shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        shares = {name: training.rate_share(name, config.num_hidden_layers) for name in parameters}
        for name, p in parameters.items():
            p.requires_grad_(shares[name] > 0.0)
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        exchange = Sharded(trained, workers, training.reduction == "vendor") if workers.count > 1 else Whole(trained)
        self.update = Update(trained, training, numerics.operations, shares, exchange)
        self.columns = DropoutColumns(config)
        self.tree = Tree(own_leaves(training, workers), training.accumulate)
        self.evaluation = objective.loss(self.model)
        self.compiled = options.pytorch.compile
        self.loss = torch.compile(self.evaluation, dynamic=False) if self.compiled else self.evaluation

    def compile(self, batches: Sequence[Batch]) -> bool:
        if self.compiled or self.device.type == "cuda":
            # Beyond its limit, usually 8, torch would quietly compute the last shapes without what it has compiled.
            limits = torch._dynamo.config
            limits.recompile_limit = max(limits.recompile_limit, 2 * len(batches))
        for batch in batches if self.compiled else ():
            part = self.leaves(batch, 0)[0][0]
            self._loss(part)[0].backward()  # torch compiles what is called
            self.update.clear()
        return self.compiled

    def train_step(self, batch: Batch, step: int, rate: float) -> StepResult:
        sums, found = [], self.leaves(batch, step)
        for done, leaf in enumerate(found, 1):
            if self.device.type == "cuda":
                # The fused attention draws its dropout from torch's generator.
                rng = generator(self.training.seed, DROPOUT, step, leaf=self.workers.rank * len(found) + done - 1)
                torch.cuda.manual_seed(int(rng.integers(2**63)))
            of_leaf = 0.0
            for part in leaf:
                loss, part_sums, _ = self._loss(part)
                loss.backward()
                of_leaf = of_leaf + part_sums.double()
            sums.append(of_leaf)
            for level in self.tree.carried(done):
                self.update.carry(level)
        norm, skipped = self.update(rate)
        whole = added([of_leaf.cpu().numpy() for of_leaf in sums], self.workers)
        return StepResult(dict(zip(self.task.sums, whole.tolist())), norm, skipped, self.update.loss_scale)

    def leaves(self, batch: Batch, step: int) -> list[list[Part]]:
        """See `ms_bert.run.leaves.leaves`."""
        return leaves(batch, self.task.weights, self.training, step, self.columns, self.workers)

    def _loss(self, part: Part):
        # Numbers as tensors: torch.compile would make a graph for each value of a number.
        numbers = (*part.totals, np.float32(self.update.loss_scale))
        return self.loss(
            *self._tensors(part.batch),
            *(self._tensor(np.asarray(number)) for number in numbers),
            (self._tensor(part.row_keys), self._tensor(part.column_keys)),
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[Sums, tuple[np.ndarray, ...]]:
        ones = [1.0] * (len(self.task.weights) + 1)
        sums, outputs = 0.0, []
        for part in cut(batch, self.training):
            _, part_sums, part_outputs = self.evaluation(*self._tensors(part), *ones)
            sums = sums + part_sums.double()
            outputs.append([output.float().cpu().numpy() for output in part_outputs])
        return dict(zip(self.task.sums, sums.tolist())), tuple(map(np.concatenate, zip(*outputs)))

    def state(self) -> tuple[Arrays, Arrays, dict]:
        """Weights, moments and scalars; the arrays are views, valid until the next step."""
        optimizer, update = self.update.optimizer, self.update
        m, v = (update.exchange.whole(values) for values in (optimizer.m, optimizer.v))
        scalars = {"updates": optimizer.updates, "loss_scale": update.loss_scale, "good_steps": update.good_steps}
        weights = _arrays(dict(self.model.named_parameters()))
        return weights, all_moments(self.shapes, m, v), scalars

    def load(self, model: Arrays, optimizer: Arrays, scalars: dict) -> None:
        moments, update = self.update.optimizer, self.update
        self.load_weights(model)
        for letter, own in (("m", moments.m), ("v", moments.v)):
            _set(own, update.exchange.own(moments_of(letter, optimizer)))
        moments.updates = scalars["updates"]
        update.loss_scale, update.good_steps = scalars["loss_scale"], scalars["good_steps"]

    def load_weights(self, model: Arrays) -> None:
        _set(dict(self.model.named_parameters()), model)

    def _tensors(self, batch: Batch) -> list[torch.Tensor]:
        return [self._tensor(batch[name]) for name in self.task.fields]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


@torch.no_grad()
def _set(tensors: dict[str, torch.Tensor], arrays: Arrays) -> None:
    """Give tensors their values: to each its own, of its shape, and none left over."""
    if {name: tuple(value.shape) for name, value in tensors.items()} != {k: v.shape for k, v in arrays.items()}:
        raise ValueError("the arrays are not those of these parameters")
    for name, value in tensors.items():
        value.copy_(torch.from_numpy(arrays[name]))
