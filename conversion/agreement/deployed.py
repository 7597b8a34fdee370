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
from conversion.parameters import OUTPUTS
from ms_bert.data.batches import Batch

ENDINGS = (".onnx", ".mindir")
# What the heads of a class are called in `cases.outputs`.
_HEADS = {
    "BertForPreTraining": ("mlm_logits", "nsp_logits"),
    "BertForMaskedLM": ("mlm_logits",),
    "BertForNextSentencePrediction": ("nsp_logits",),
    "BertForSequenceClassification": ("sequence_logits",),
    "BertForMultipleChoice": ("sequence_logits",),
    "BertForTokenClassification": ("token_logits",),
    "BertForQuestionAnswering": ("qa_logits",),
}


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
    return told.get("architecture") in OUTPUTS and "fused" not in told


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
    return in_onnx.Graph(path, own if own in OUTPUTS else architecture)


def gives(architecture: str, there: Collection[str], problem: Problem) -> list[str]:
    """Which of the problem's tensors a graph computes.

    Args:
        there: the names of the graph's outputs, as `conversion.parameters.OUTPUTS` says them.
    """
    if architecture == "BertModel":
        last = f"layer.{problem.config.num_hidden_layers - 1}.output"
        pooled = "pooler_output" in there and "pooler" in problem.parts
        return [*([last] if "last_hidden_state" in there else []), *(["pooled_output"] if pooled else [])]
    heads = [name for name in cases.outputs(problem) if name in _HEADS[architecture]]
    return [name for name in heads if _source(architecture, name) in there]


def by_our_names(architecture: str, name: str, found: Tensors, batch: Batch) -> np.ndarray:
    """One of the problem's tensors among the outputs of a graph, (rows, width)."""
    if name.startswith("layer."):
        return found["last_hidden_state"].reshape(-1, found["last_hidden_state"].shape[-1])
    if name == "qa_logits":
        return np.stack([found["start_logits"], found["end_logits"]], -1).reshape(-1, 2)
    scores = found[_source(architecture, name)]
    if name == "mlm_logits":
        rows = np.arange(len(scores))[:, None]
        return scores[rows, batch["masked_positions"]].reshape(-1, scores.shape[-1])
    if name == "token_logits":
        return scores.reshape(-1, scores.shape[-1])
    if architecture == "BertForMultipleChoice":
        scores = scores.reshape(-1, 1)
    return np.repeat(scores, batch["cls_positions"].shape[1], axis=0)


def _source(architecture: str, name: str) -> str:
    """The graph's output that a tensor is made of."""
    if name == "pooled_output":
        return "pooler_output"
    if name == "qa_logits":
        return "start_logits"
    if architecture == "BertForPreTraining":
        return {"mlm_logits": "prediction_logits", "nsp_logits": "seq_relationship_logits"}[name]
    return "logits"
