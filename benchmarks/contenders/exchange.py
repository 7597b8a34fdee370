"""One of two workers that exchange gradients and updated rows, as a step of training does: for `benchmarks.workers`.

    python -m benchmarks.contenders.exchange TIMES VALUES...

The first worker writes a line of milliseconds for each number of values, to the file that MS_BERT_SAID names.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_bert.collectives import MindSporeWorkers
from ms_bert.framework import MindSpore
from ms_bert.options import Options
from ms_bert.training.exchange import Sharded

ROW = 2**10  # values


class Exchange(nn.Cell):
    """The sums of gradients, then the parameters that were updated: all that is exchanged in a step but norms."""

    def __init__(self, values: int, workers: MindSporeWorkers):
        super().__init__(auto_prefix=False)
        self.parameters = [Parameter(Tensor(half), name=f"half.{n}.{values}") for n, half in enumerate(halves(values))]
        self.exchange = Sharded(self.parameters, workers)

    def construct(self, first, second):
        return self.exchange.published(self.exchange.reduced((first, second))[0])


def halves(values: int) -> list[np.ndarray]:
    """Two arrays of so many values together, so that there is one for each worker at least."""
    return [np.ones((values // 2 // ROW, ROW), np.float32)] * 2


def main(times: int, sizes: list[int]) -> None:
    framework, options = MindSpore(), Options()
    if framework.scheduled(options):
        return
    framework.check(options)
    workers = framework.workers(options)
    assert isinstance(workers, MindSporeWorkers)
    said = []
    for values in sizes:
        cell, gradients = Exchange(values, workers), list(map(Tensor, halves(values)))
        seconds = []
        for _ in range(times + 1):  # the first compiles
            workers.gather(np.zeros(1))
            began = time.perf_counter()
            cell(*gradients).asnumpy()
            seconds.append(time.perf_counter() - began)
        said.append(f"{statistics.median(seconds[1:]) * 1000:.2f}")
    if workers.rank == 0:
        Path(os.environ["MS_BERT_SAID"]).write_text("\n".join(said) + "\n")
    workers.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
