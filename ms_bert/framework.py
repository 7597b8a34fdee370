"""MindSpore, as the commands see it."""

import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.data.packing import ROW, ByRows
from ms_bert.errors import UserError
from ms_bert.options import TrainerOptions
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Task

# How MindSpore's launcher and its documented variables say what a process is.
ROLE, COUNT, SCHEDULER = "MS_ROLE", "MS_WORKER_NUM", "MS_SCHED"


class MindSpore:
    """MindSpore as the framework of a command; it is imported when it is needed, not before."""

    name = "MindSpore"
    package = "ms_bert"
    without = "pytorch"

    def check(self, options: TrainerOptions) -> None:
        from ms_bert.device import use_device

        use_device(options.run.device, options.training.precision, options.training.recompute, options.run.threads)

    def environments(self, count: int) -> list[dict[str, str]]:
        from ms_bert.run.supervisor import free_port

        # The documented variables, those that msrun sets too.
        shared = {COUNT: str(count), "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(free_port())}
        workers = [{**shared, ROLE: "MS_WORKER", "MS_NODE_ID": str(rank)} for rank in range(count)]
        return [*workers, {**shared, ROLE: SCHEDULER}]

    def rounds_by_threads(self, options: TrainerOptions) -> bool:
        from ms_bert.kernels import native

        return options.mindspore.kernels != "fused" or native.why_not() is not None

    def shares(self) -> bool:
        return int(os.environ.get(COUNT, "1")) > 1

    def scheduled(self, options: TrainerOptions) -> bool:
        if os.environ.get(ROLE) != SCHEDULER:
            return False
        self.check(options)
        from ms_bert.collectives import schedule

        schedule(options.run.device)
        return True

    def workers(self, options: TrainerOptions) -> Workers:
        if not self.shares():
            return ALONE
        from ms_bert.collectives import MindSporeWorkers

        return MindSporeWorkers(options.run.device)

    def check_rows(self, options: TrainerOptions, config: BertConfig, lengths: Collection[int]) -> None:
        from ms_bert import kernels

        for tokens in lengths:
            kernels.check(options.run.device, options.training.precision, config.head_size, tokens)

    def trainer(self, config: BertConfig, options: TrainerOptions, task: Task, workers: Workers = ALONE):
        from ms_bert.training.trainer import MindSporeTrainer

        # A graph that exchanges something belongs to the groups of its process.
        kept = options.mindspore.graph_cache and workers.count == 1
        return MindSporeTrainer(config, options, task, options.cache / "graphs" if kept else None, workers=workers)

    def versions(self) -> dict[str, str]:
        import mindspore

        return {"mindspore": mindspore.__version__}

    def kernels(self, options: TrainerOptions) -> str:
        from ms_bert import kernels

        device, precision = options.run.device, options.training.precision
        return kernels.operations(device, precision, options.mindspore.kernels).description

    def compute(
        self,
        architecture: str,
        found,
        device: str,
        precision: str,
        threads: int | None,
        fields: tuple[str, ...],
        arguments: Mapping[str, Any],
    ):
        from ms_bert import native_model
        from ms_bert.kernels import check, native, products

        reason = "it is on the CPU only" if device != "CPU" else native.why_not()
        if reason is None and precision in native.PRECISIONS:
            used = products(precision)
            if used != precision:
                log = logging.getLogger("ms_bert")
                log.warning("Products are computed in %s, not in %s: %s.", used, precision, native.why_not(precision))
            return native_model.load(architecture, found, used, threads, **arguments)
        if precision == "int8":
            raise UserError(f"--precision int8 needs the fused kernels ({reason}); use --precision float32.")
        from ms_bert.device import use_device

        use_device(device, precision, threads=threads)
        check(device, precision, found.config.head_size, ROW)
        from mindspore import Tensor

        from ms_bert.heads import named
        from ms_bert.model import Numerics
        from ms_bert.pretrained import load

        model = load(named(architecture), found, Numerics(device, precision, kernels="fused"), **arguments)

        def logits(batch: Batch) -> np.ndarray:
            found = model(*(Tensor(batch[name]) for name in fields))
            if isinstance(found, tuple):
                return np.stack([part.asnumpy().astype(np.float32) for part in found], -1)
            return found.asnumpy().astype(np.float32)

        return ByRows(logits, device, head=architecture != "BertHiddenStates")

    def attention(self, found, device: str, threads: int | None):
        from ms_bert.device import use_device, without_graphs

        use_device(device, threads=threads)
        from mindspore import Tensor

        from ms_bert.model import BertModel, Numerics
        from ms_bert.pretrained import load

        model = load(BertModel, found, Numerics(device))

        def probabilities(ids: np.ndarray, types: np.ndarray) -> np.ndarray:
            with without_graphs():  # each length of a text would be another graph
                _, _, (_, layers) = model(Tensor(ids[None]), token_type_ids=Tensor(types[None]))
            return np.stack([layer[0].asnumpy()[0] for layer in layers])

        return probabilities
