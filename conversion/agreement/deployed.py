"""Graphs as they are deployed, ONNX and MindIR files: they are compared by what they give, for their weights may have
no names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.environment import check_installed
from conversion.parameters import ARCHITECTURES, CHOICE, SLOT, Output
from ms_bert.data.batches import Batch

ENDINGS = (".onnx", ".mindir")


class Graph(Protocol):
    """A file that is run as it is; see `conversion.agreement.suite.Contender`.

    Attributes:
        path: of the file. sizes: the rows and the tokens a row that it takes; None: any.
    """

    name: str
    path: Path
    precision: str
    sizes: tuple[int, int] | None

    def leaves_out(self, name: str) -> bool: ...

    def gives(self, problem: Problem) -> list[str]: ...

    def forward(self, problem: Problem, batch: Batch) -> Tensors: ...


def holds_weights(path: Path) -> bool:
    """Whether a path is read as a checkpoint: MindIR never, and ONNX where it was converted here and is not fused."""
    if path.suffix not in ENDINGS or not path.is_file():
        return True
    if path.suffix == ".mindir":
        return False
    check_installed("onnxruntime")
    from conversion.agreement.in_onnx import described

    told = described(path)
    return told.get("architecture") in ARCHITECTURES and "fused" not in told


def open_graph(path: Path, architecture: str) -> Graph:
    """The graph of a file that does not hold weights by name.

    Args:
        architecture: of the model that it is compared with, for a file that does not say its own.

    Raises:
        UserError: it cannot be opened, or the package that runs it is missing.
    """
    if path.suffix == ".mindir":
        from conversion.agreement.in_mindir import MindIR

        return MindIR(path, architecture)
    from conversion.agreement import in_onnx

    own = in_onnx.described(path).get("architecture")
    return in_onnx.Graph(path, own if own in ARCHITECTURES else architecture)


def gives(architecture: str, there: Collection[str], problem: Problem) -> list[str]:
    """Which of the problem's tensors a graph computes.

    Args:
        there: the names of the graph's outputs, as transformers names them.
    """
    last = f"layer.{problem.config.num_hidden_layers - 1}.output"
    wanted = [last, *(name for name in cases.outputs(problem) if name != "last_hidden_state")]
    made_of = {name: [output.name for output in _outputs(architecture, name)] for name in wanted}
    return [name for name, outputs in made_of.items() if outputs and {*outputs} <= {*there}]


def by_our_names(architecture: str, name: str, found: Tensors, batch: Batch) -> np.ndarray:
    """One of the problem's tensors among the outputs of a graph, (rows, width)."""
    outputs = _outputs(architecture, name)
    values, kind = [found[output.name] for output in outputs], outputs[0]
    value = values[0] if kind.column is None else np.stack(values, -1)
    if kind.row == SLOT:
        value = value[np.arange(len(value))[:, None], batch["masked_positions"]]
    if kind.row == CHOICE:
        value = value[..., None]
    value = value.reshape(-1, value.shape[-1])
    return np.repeat(value, batch["cls_positions"].shape[1], axis=0) if kind.pooled else value


def _outputs(architecture: str, name: str) -> list[Output]:
    """The outputs of a class that a tensor is made of."""
    name = "last_hidden_state" if name.startswith("layer.") else name
    return [output for output in ARCHITECTURES[architecture].outputs if output.tensor == name]
