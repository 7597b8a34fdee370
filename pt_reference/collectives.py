"""Workers by torch.distributed: gloo on the CPU, NCCL on GPUs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import distributed

from ms_bert.errors import UserError

WAIT = datetime.timedelta(minutes=30)  # for another worker, which may write a checkpoint meanwhile
# The later name of the same; the earlier one warns there.
_all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor


class TorchWorkers:
    """See `ms_bert.run.workers.Workers`. The environment says which one this is, as torchrun sets it.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays travel as bytes, so that of any dtype none changes."""
        own = torch.from_numpy(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy())
        found = self.all_gather(own.to(self.device))
        return np.frombuffer(found.cpu().numpy().tobytes(), array.dtype).reshape(self.count, *array.shape)

    def all_gather(self, segment: torch.Tensor) -> torch.Tensor:
        """(n, ...) of each worker -> (count, n, ...)."""
        found = segment.new_empty((self.count * len(segment), *segment.shape[1:]))
        _all_gather(found, segment)
        return found.view(self.count, *segment.shape)

    def all_to_all(self, segments: torch.Tensor) -> torch.Tensor:
        """(count, n): for each worker a row -> (count, n), the rows that the workers have for this one."""
        found = segments.new_empty(segments.numel())
        distributed.all_to_all_single(found, segments.flatten())
        return found.view(segments.shape)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the workers, in the order of the library, in place."""
        distributed.all_reduce(values)
        return values

    def close(self) -> None:
        distributed.barrier()
        distributed.destroy_process_group()


def check_launcher(environment: Mapping[str, str]) -> None:
    """Raise UserError where workers that torchrun starts again may wait for each other for ever.

    It gives them the store of those before, in which they find addresses of processes that have ended (as in
    https://github.com/pytorch/pytorch/issues/135712).
    """
    restarts = environment.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            f"torchrun was given --max-restarts {restarts}, but workers that it starts again may wait for those that "
            "have ended; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment."
        )
