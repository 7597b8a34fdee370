"""A worker of data-parallel training, as msrun starts it: it computes its rows, and gradients are summed in the graph.

    msrun ... tests/parity/two_workers.py FOLDER

FOLDER holds config.json, options.json and batch-STEP.npz. For each of WAYS the worker trains a model from the beginning
and leaves WAY-RANK.npz there: the weights after all steps, and the gradients' `norms` (steps,).
"""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, Batch
from ms_bert.device import use_device
from ms_bert.options import Options, TrainingOptions
from ms_bert.run.leaves import leaves
from ms_bert.run.recipe import learning_rate
from ms_bert.run.workers import ALONE
from ms_bert.tasks.pretraining import PreTraining
from ms_bert.training.losses import PreTrainingLoss
from ms_bert.training.trainer import MindSporeTrainer


@dataclasses.dataclass(frozen=True)
class Way:
    """What a worker does: the right thing, or a fault.

    Attributes:
        reduce: the gradients are summed over the workers.
        own_totals: the losses are divided by the counts of the worker's rows, not of the whole batch.
        workers: what they are divided by besides; the number of workers makes of the sum of gradients their average.
        own_keys: dropout by the keys of the worker's rows, not by those of the first rows.
    """

    reduce: bool = True
    own_totals: bool = False
    workers: int = 1
    own_keys: bool = True


WAYS = {
    "right": Way(),
    "kept": Way(reduce=False),
    "averaged": Way(workers=2),
    "average-of-means": Way(own_totals=True, workers=2),
    "same-drops": Way(own_keys=False),
}


class ParallelStep(nn.Cell):
    """A whole step of one worker in one graph: `ms_bert.training.step.TrainStep` with the gradients of all workers."""

    def __init__(self, trainer: MindSporeTrainer, reduce: bool):
        super().__init__(auto_prefix=False)
        self.update = trainer.update
        parameters = ParameterTuple(trainer.model.trainable_params())
        self.gradients = ms.value_and_grad(PreTrainingLoss(trainer.model), None, weights=parameters, has_aux=True)
        self.reduce = reduce
        self.all_reduce = ops.AllReduce()
        self.map = ops.HyperMap()

    def construct(self, rate, row_keys, column_keys, *arrays):
        _, gradients = self.gradients(*arrays, self.update.loss_scale, (row_keys, column_keys))
        if self.reduce:
            gradients = self.map(self.all_reduce, gradients)
        return self.update(gradients, rate)


def step_inputs(batch: Batch, options: TrainingOptions, step: int, columns: int, way: Way) -> list[Tensor]:
    """What this worker's step takes."""
    shares = [part for (part,) in leaves(batch, PreTraining.weights, options, step, columns, ALONE)]
    mine = shares[get_rank()]
    totals = np.array(mine.totals)
    if way.own_totals:
        totals = np.array([mine.batch[name].sum() for name in PreTraining.weights])
    rate = np.float32(learning_rate(options, step + 1))
    row_keys = mine.row_keys if way.own_keys else shares[0].row_keys
    arrays = [mine.batch[name] for name in FIELDS]
    return [Tensor(value) for value in (rate, row_keys, mine.column_keys, *arrays, *(totals * np.float32(way.workers)))]


def main(folder: Path) -> None:
    use_device("CPU")
    init("mccl")
    options = Options.from_dict(json.loads((folder / "options.json").read_text()), "options.json")
    training = options.training
    if get_group_size() != training.leaves:
        raise SystemExit(f"{get_group_size()} workers cannot share {training.leaves} leaves")
    batches = [dict(np.load(folder / f"batch-{step}.npz")) for step in range(training.steps)]
    trainer = MindSporeTrainer(BertConfig.from_json(folder), options)
    beginning = copy.deepcopy(trainer.state())
    graphs = {reduce: ParallelStep(trainer, reduce) for reduce in (True, False)}
    for name, way in WAYS.items():
        trainer.load(*beginning)
        inputs = [step_inputs(batch, training, step, trainer.columns, way) for step, batch in enumerate(batches)]
        norms = np.array([graphs[way.reduce](*given).asnumpy()[0] for given in inputs])
        np.savez(folder / f"{name}-{get_rank()}.npz", norms=norms, **trainer.state()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
