"""What MindSpore computes from a MindIR file as it is, of fixed rows and tokens."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore.train.mind_ir_pb2 import ModelProto

from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.deployed import by_our_names, gives
from conversion.parameters import ARCHITECTURES
from ms_bert.data.batches import Batch
from ms_bert.device import use_device
from ms_bert.errors import UserError

INPUTS = ("input_ids", "sequence_ids", "token_type_ids")  # of a batch, in the order of the graph's


class MindIR:
    """A contender for the forward pass; see `conversion.agreement.deployed.Graph`.

    Raises:
        UserError: the file cannot be read, or is no graph of three inputs of (rows, tokens).
    """

    own_dropout = False

    def __init__(self, path: Path, architecture: str):
        self.name, self.precision, self.path, self.architecture = "MindIR", "float32", path, architecture
        remedy = "convert the model to MindIR again."
        try:
            described = ModelProto.FromString(path.read_bytes()).graph
        except (DecodeError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); {remedy}") from None
        shapes = [tuple(tensor.dims) for value in described.input for tensor in value.tensor]
        if len(shapes) != len(INPUTS) or len(set(shapes)) != 1 or len(shapes[0]) != 2 or min(shapes[0]) < 1:
            raise UserError(
                f"{path} takes inputs of the shapes {', '.join(map(str, shapes))[:200] or 'none'}, expected three of "
                f"(rows, tokens): input_ids, attention_mask, token_type_ids; {remedy}"
            )
        self.sizes = shapes[0]
        use_device("CPU")
        try:
            self._graph = ms.nn.GraphCell(ms.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be loaded ({' '.join(str(error).split())[:200]}); {remedy}") from None

    def leaves_out(self, name: str) -> bool:
        return True  # it gives what `gives` says

    def gives(self, problem: Problem) -> list[str]:
        return gives(self.architecture, self._names(problem.pooler), problem)

    def forward(self, problem: Problem, batch: Batch) -> Tensors:
        rows, tokens = self.sizes
        if batch["input_ids"].shape[1] != tokens:
            raise ValueError(f"a batch of {batch['input_ids'].shape[1]} tokens for a graph of {tokens}")
        count = len(batch["input_ids"])
        names = self._names(problem.pooler)
        parts = []
        for first in range(0, count, rows):
            chosen = np.arange(first, first + rows).clip(max=count - 1)  # the last row again, to fill the last batch
            given = self._graph(*[ms.Tensor(batch[name][chosen].astype(np.int32)) for name in INPUTS])
            values = [value.asnumpy() for value in (given if isinstance(given, tuple) else (given,))]
            if len(values) != len(names):
                raise UserError(
                    f"{self.path} gives {len(values)} tensors, but a {self.architecture} gives {len(names)}; name a "
                    "graph of this model."
                )
            if ARCHITECTURES[self.architecture].choices:
                values = [value.reshape(-1, 1) for value in values]
            parts.append([value[: count - first] for value in values])
        found = {name: np.concatenate(pieces) for name, pieces in zip(names, zip(*parts))}
        wanted = self.gives(problem)
        return {name: by_our_names(self.architecture, name, found, batch).astype(np.float64) for name in wanted}

    def _names(self, pooler: bool) -> tuple[str, ...]:
        """What the outputs are called; the file has no names that mean anything."""
        outputs = ARCHITECTURES[self.architecture].outputs
        return tuple(output.name for output in outputs if pooler or output.part != "pooler")
