"""PyTorch, as the commands see it."""

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.data.packing import ByRows
from ms_bert.errors import UserError
from ms_bert.options import TrainerOptions
from ms_bert.run.workers import ALONE, Workers
from ms_bert.tasks import Task


class PyTorch:
    """PyTorch as the framework of a command; it is imported when it is needed, not before."""

    name = "PyTorch"
    package = "pt_reference"
    without = "mindspore"

    def check(self, options: TrainerOptions) -> None:
        from pt_reference.device import use_device

        use_device(options.run.device, options.pytorch.compile, options.run.threads)

    def environments(self, count: int) -> list[dict[str, str]]:
        from ms_bert.run.supervisor import free_port

        # Those that torchrun sets too.
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]

    def rounds_by_threads(self, options: TrainerOptions) -> bool:
        return True

    def shares(self) -> bool:
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    def scheduled(self, options: TrainerOptions) -> bool:
        return False

    def workers(self, options: TrainerOptions) -> Workers:
        if not self.shares():
            return ALONE
        from pt_reference.collectives import TorchWorkers, check_launcher
        from pt_reference.device import torch_device

        check_launcher(os.environ)

        return TorchWorkers(torch_device(options.run.device))

    def check_rows(self, options: TrainerOptions, config: BertConfig, lengths: Collection[int]) -> None:
        """PyTorch has operations for rows of any length."""

    def trainer(self, config: BertConfig, options: TrainerOptions, task: Task, workers: Workers = ALONE):
        from pt_reference.training.trainer import TorchTrainer

        return TorchTrainer(config, options, task, workers=workers)

    def versions(self) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__}

    def kernels(self, options: TrainerOptions) -> str:
        return "torch.compile" if options.pytorch.compile else "eager kernels"

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
        from pt_reference.device import torch_device, use_device

        if precision == "int8":
            raise UserError("--precision int8 is computed by ms_bert alone; use ms_bert, or --precision bfloat16.")
        use_device(device, threads=threads)
        import torch

        from pt_reference.heads import named
        from pt_reference.model import Numerics
        from pt_reference.pretrained import load

        where = torch_device(device)
        model = load(named(architecture), found, Numerics(precision), **arguments).to(where)

        @torch.no_grad()
        def logits(batch: Batch) -> np.ndarray:
            found = model(*(torch.from_numpy(batch[name]).to(where) for name in fields))
            if isinstance(found, tuple):
                found = torch.stack(found, -1)
            return found.float().cpu().numpy()

        return ByRows(logits, device, head=architecture != "BertHiddenStates")

    def attention(self, found, device: str, threads: int | None):
        from pt_reference.device import torch_device, use_device

        use_device(device, threads=threads)
        import torch

        from pt_reference.model import BertModel, Numerics
        from pt_reference.pretrained import load

        where = torch_device(device)
        model = load(BertModel, found, Numerics(probabilities=True)).to(where)

        @torch.no_grad()
        def probabilities(ids: np.ndarray, types: np.ndarray) -> np.ndarray:
            ids, types = (torch.from_numpy(given[None]).to(where) for given in (ids, types))
            _, _, (_, layers) = model(ids, token_type_ids=types)
            return np.stack([layer[0].cpu().numpy()[0] for layer in layers])

        return probabilities
