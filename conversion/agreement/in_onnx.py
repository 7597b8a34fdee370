"""What ONNX Runtime computes of a problem, from the graph that `conversion` writes, plain or fused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from conversion.formats import onnx_graph
from conversion.tensors import Tensor
from ms_bert.data.batches import Batch


class Graph:
    """A contender for the forward pass: an ONNX file of `conversion`, whose rows hold one sequence each."""

    def __init__(self, path: Path, architecture: str, fused: bool = False):
        self.name, self.precision = "ONNX Runtime fused" if fused else "ONNX Runtime", "float32"
        self.path, self.architecture, self.own_dropout = path, architecture, False

    def leaves_out(self, name: str) -> bool:
        return True  # it gives what `gives` says

    def gives(self, problem: Problem) -> list[str]:
        """Which of the problem's tensors the graph computes; it may be of a model with more heads, or fewer."""
        there = [output.name for output in session(self.path).get_outputs()]
        if self._bare:
            last = f"layer.{problem.config.num_hidden_layers - 1}.output"
            return [last, *(["pooled_output"] if "pooler_output" in there and "pooler" in problem.parts else [])]
        heads = {
            "BertForPreTraining": ("mlm_logits", "nsp_logits"),
            "BertForMaskedLM": ("mlm_logits",),
            "BertForNextSentencePrediction": ("nsp_logits",),
            "BertForSequenceClassification": ("sequence_logits",),
            "BertForMultipleChoice": ("sequence_logits",),
            "BertForTokenClassification": ("token_logits",),
            "BertForQuestionAnswering": ("qa_logits",),
        }[self.architecture]
        return [name for name in cases.outputs(problem) if name in heads]

    @property
    def _bare(self) -> bool:
        return self.architecture == "BertModel"

    def forward(self, problem: Problem, batch: Batch) -> cases.Tensors:
        found = run(self.path, batch)
        return {name: self._by_our_names(name, found, batch).astype(np.float64) for name in self.gives(problem)}

    def _by_our_names(self, name: str, found: dict[str, np.ndarray], batch: Batch) -> np.ndarray:
        """An output of Probe's among those of the graph."""
        both = self.architecture == "BertForPreTraining"
        if name.startswith("layer."):
            return found["last_hidden_state"].reshape(-1, found["last_hidden_state"].shape[-1])
        if name == "pooled_output":
            return np.repeat(found["pooler_output"], batch["cls_positions"].shape[1], axis=0)
        if name == "mlm_logits":
            scores = found["prediction_logits" if both else "logits"]
            rows = np.arange(len(scores))[:, None]
            return scores[rows, batch["masked_positions"]].reshape(-1, scores.shape[-1])
        if name == "qa_logits":
            return np.stack([found["start_logits"], found["end_logits"]], -1).reshape(-1, 2)
        scores = found["seq_relationship_logits" if both else "logits"]
        if name == "token_logits":
            return scores.reshape(-1, scores.shape[-1])
        if self.architecture == "BertForMultipleChoice":
            scores = scores.reshape(-1, 1)
        return np.repeat(scores, batch["cls_positions"].shape[1], axis=0)


class OnnxRuntime(Graph):
    """The graph that `conversion` writes of a problem's weights, plain or fused."""

    def __init__(self, fused: bool = False):
        super().__init__(Path(), "BertForPreTraining", fused)
        self.fused = fused

    def leaves_out(self, name: str) -> bool:
        return name.startswith("layer.") or name in ("embeddings", "pooled_output")

    def forward(self, problem: Problem, batch: Batch) -> cases.Tensors:
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder) / "model.onnx"
            weights = {name: Tensor.of(value) for name, value in problem.weights.items()}
            onnx_graph.write(self.path, problem.config, self.architecture, weights)
            if self.fused:
                onnx_graph.optimize(self.path, problem.config, self.path.with_name("fused.onnx"))
                self.path = self.path.with_name("fused.onnx")
            return super().forward(problem, batch)


def session(path: Path):
    """An onnxruntime.InferenceSession of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, batch: Batch) -> dict[str, np.ndarray]:
    """The outputs of a graph by their names, (B, S, width) or (B, width)."""
    graph = session(path)
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["sequence_ids"],
        "token_type_ids": batch["token_type_ids"],
    }
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, {name: value.astype(np.int64) for name, value in inputs.items()})))
