"""What ONNX Runtime computes of a problem, from a graph of `conversion`, plain or fused, or of another exporter."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from conversion.agreement.deployed import by_our_names, gives
from conversion.formats import onnx_graph
from conversion.tensors import Tensor
from ms_bert.data.batches import Batch
from ms_bert.errors import UserError

PRECISIONS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class Graph:
    """A contender for the forward pass: an ONNX file, whose rows hold one sequence each.

    Attributes:
        sizes: None: it takes rows of any number and length.
    """

    sizes = None

    def __init__(self, path: Path, architecture: str, fused: bool = False):
        self.name, self.own_dropout = "ONNX Runtime fused" if fused else "ONNX Runtime", False
        self.path, self.architecture = path, architecture

    @property
    def precision(self) -> str:
        return PRECISIONS.get(self._session.get_outputs()[0].type, "float32")

    def leaves_out(self, name: str) -> bool:
        return True  # it gives what `gives` says

    def gives(self, problem: Problem) -> list[str]:
        """Which of the problem's tensors the graph computes; it may be of a model with more heads, or fewer."""
        there = [output.name for output in self._session.get_outputs()]
        return gives(self.architecture, there, problem)

    def forward(self, problem: Problem, batch: Batch) -> cases.Tensors:
        found = run(self._session, batch)
        there = self.gives(problem)
        return {name: by_our_names(self.architecture, name, found, batch).astype(np.float64) for name in there}

    @functools.cached_property
    def _session(self):
        return session(self.path)


class OnnxRuntime(Graph):
    """The graph that `conversion` writes of a problem's weights, plain or fused."""

    precision = "float32"

    def __init__(self, fused: bool = False):
        super().__init__(Path(), "BertForPreTraining", fused)
        self.fused = fused

    def leaves_out(self, name: str) -> bool:
        return name.startswith("layer.") or name in ("embeddings", "pooled_output")

    def forward(self, problem: Problem, batch: Batch) -> cases.Tensors:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            weights = {name: Tensor.of(value) for name, value in problem.weights.items()}
            onnx_graph.write(path, problem.config, self.architecture, weights)
            if self.fused:
                onnx_graph.fuse(path, problem.config, path.with_name("fused.onnx"))
                path = path.with_name("fused.onnx")
            return Graph(path, self.architecture).forward(problem, batch)


def described(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        UserError: ONNX Runtime cannot open it.
    """
    return session(path).get_modelmeta().custom_metadata_map


def session(path: Path):
    """An onnxruntime.InferenceSession of a file.

    Raises:
        UserError: it cannot be opened.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as faults

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    refusals = [getattr(faults, name) for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")]
    refusals += [getattr(faults, name) for name in ("NoSuchFile", "NotImplemented", "RuntimeException")]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except tuple(refusals) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} cannot be opened by ONNX Runtime ({told[:200]}); convert the model again.") from None


def run(graph, batch: Batch) -> dict[str, np.ndarray]:
    """The outputs of a session by their names, (B, S, width) or (B, width)."""
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["sequence_ids"],
        "token_type_ids": batch["token_type_ids"],
        "position_ids": batch["position_ids"],
    }
    given = {}
    for wanted in graph.get_inputs():
        if wanted.name not in inputs:
            raise UserError(
                f"the graph has an input {wanted.name[:100]!r}, but a BERT has only {', '.join(inputs)}; name the "
                "graph of a BERT."
            )
        value = inputs[wanted.name].astype(np.int32 if wanted.type == "tensor(int32)" else np.int64)
        given[wanted.name] = value[None] if len(wanted.shape) == 3 else value  # the rows as choices of one question
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, given)))
