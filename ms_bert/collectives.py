"""Workers by MindSpore's collectives: MCCL on the CPU, NCCL on GPUs, HCCL on Ascend."""

from __future__ import annotations

import atexit
import os
import sys

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import create_group, get_group_size, get_rank, init, release

from ms_bert.errors import UserError

BACKENDS = {"CPU": "mccl", "GPU": "nccl", "Ascend": "hccl"}
# For another worker, which may write a checkpoint or compile meanwhile; MindSpore waits 30 s, HCCL 120.
WAIT = "1800"  # seconds
TIMEOUTS = ("MS_CPU_COMM_OP_TIMEOUT", "HCCL_CONNECT_TIMEOUT")


class MindSporeWorkers:
    """See `ms_bert.run.workers.Workers`. The environment says which one this is, as msrun sets it.

    Attributes:
        pairs: for each level of the tree over workers the group of this one and its partner.
    """

    def __init__(self, device: str):
        for name in TIMEOUTS:
            os.environ.setdefault(name, WAIT)
        _join(device)
        self.rank, self.count = get_rank(), get_group_size()
        self.pairs: list[str] = []
        for level in range(self.count.bit_length() - 1):
            partners = sorted((self.rank, self.rank ^ (1 << level)))
            self.pairs.append(f"pair-{partners[0]}-{partners[1]}")
            create_group(self.pairs[-1], partners)
        self._gather = _Gather()
        atexit.register(_end_quietly)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays travel as the bytes of float32, so that of any dtype none changes; filled up to a few sizes, for
        each is a graph to compile."""
        content = np.ascontiguousarray(array).tobytes()
        words = np.zeros(max(16, 1 << (len(content) // 4).bit_length()), np.float32)
        words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
        found = self._gather(Tensor(words)).asnumpy().reshape(self.count, -1).view(np.uint8)
        return np.frombuffer(found[:, : len(content)].tobytes(), array.dtype).reshape(self.count, *array.shape)

    def close(self) -> None:
        self.gather(np.zeros(1))
        release()


def _join(device: str) -> None:
    """Let MindSpore start the backend of a device.

    Raises:
        UserError: Ascend's is not installed.
    """
    try:
        init(BACKENDS[device])
    except RuntimeError as error:
        if '"hccl" wheel' not in str(error):
            raise
        raise UserError(
            "workers on Ascend need the Python package hccl, which CANN brings; install it with `pip install "
            "/usr/local/Ascend/ascend-toolkit/latest/lib64/hccl-*.whl`."
        ) from error


def _end_quietly() -> None:
    """As the process ends, MindSpore's network logs what GLOG_v leaves out, to the standard error."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _Gather(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_gather = ops.AllGather()

    def construct(self, x):
        return self.all_gather(x)


def schedule(device: str) -> None:
    """Let the workers find each other, until all are done."""
    init(BACKENDS[device])  # MindSpore's scheduler computes on the CPU, whatever the device
    atexit.register(_end_quietly)
    release()
