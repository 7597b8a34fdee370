"""Inference: the encoder of all-MiniLM-L6-v2 with its real weights, and the pooler where it is part.

ms_bert takes texts of any lengths without padding; the others are given them padded to the longest. Each is set up as
its documentation advises for latency on a CPU. The "loss" of a run is the mean square of the tokens' hidden states.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contenders import THREADS, Work, minilm
from ms_bert.kernels import native

INPUTS = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions")


def texts_of(work: Work) -> list[np.ndarray]:
    """Random tokens of the work's lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, work.config.vocab_size, length).astype(np.int32) for length in work.lengths]


def padded(work: Work) -> dict[str, np.ndarray]:
    """A batch, a text a row."""
    texts, rows = texts_of(work), work.rows
    shape = rows, max(work.lengths)
    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {
        "input_ids": ids,
        "sequence_ids": mask,
        "token_type_ids": np.zeros(shape, np.int32),
        "position_ids": np.tile(np.arange(shape[1], dtype=np.int32), (rows, 1)),
        "cls_positions": np.zeros((rows, 1), np.int32),
    }


def _mean_square(hidden: np.ndarray, batch: dict[str, np.ndarray]) -> float:
    """Of what is no padding; hidden: (B, S, H) or (B * S, H)."""
    return float(np.square(hidden.reshape(-1, hidden.shape[-1])[batch["sequence_ids"].reshape(-1) > 0]).mean())


def _native(precision: str):
    def make(work: Work) -> Callable[[], float]:
        from conversion import pretrained
        from ms_bert import native_model
        from ms_bert.data.sequences import Sequences

        found, texts = pretrained.read(minilm()), texts_of(work)
        layers = (found.config.num_hidden_layers,)
        model = native_model.load("BertHiddenStates", found, precision, THREADS, layers=layers)
        ids, starts = np.concatenate(texts), np.cumsum([0, *work.lengths])
        given = Sequences(ids, np.zeros_like(ids), starts, np.zeros(len(texts), bool))
        return lambda: float(np.square(model.logits(given, per_token=True)).mean())

    return make


def _mindspore(work: Work) -> Callable[[], float]:
    from mindspore import Tensor, nn

    from ms_bert.device import use_device
    from ms_bert.model import BertModel
    from ms_bert.pretrained import load

    use_device("CPU", threads=THREADS)

    class Encoder(nn.Cell):
        """Without the intermediates, which would all be outputs of the graph."""

        def __init__(self):
            super().__init__(auto_prefix=False)
            self.model = load(BertModel, minilm())

        def construct(self, *inputs):
            outputs = self.model(*inputs)
            return outputs[0], outputs[1]

    model, batch = Encoder(), padded(work)

    def once() -> float:
        hidden, _ = model(*[Tensor(batch[name]) for name in INPUTS])
        return _mean_square(hidden.asnumpy(), batch)

    return once


def _reference(compile: bool, precision: str = "float32"):
    def make(work: Work) -> Callable[[], float]:
        import torch

        from pt_reference.model import BertModel, Numerics
        from pt_reference.pretrained import load

        torch.set_num_threads(THREADS)
        model, batch = load(BertModel, minilm(), Numerics(precision)), padded(work)
        if compile:
            model.compile(dynamic=False)

        def once() -> float:
            with torch.inference_mode():
                hidden, _, _ = model(*[torch.from_numpy(batch[name]) for name in INPUTS])
            return _mean_square(hidden.float().numpy(), batch)

        return once

    return make


def _as_transformers_names(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}
    return {theirs: batch[name].astype(np.int64) for theirs, name in names.items()}


def _transformers(work: Work) -> Callable[[], float]:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model, batch = transformers.BertModel.from_pretrained(minilm()).eval(), padded(work)
    inputs = _as_transformers_names(batch)

    def once() -> float:
        with torch.inference_mode():
            hidden = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})[0]
        return _mean_square(hidden.numpy(), batch)

    return once


def _converted(folder: Path, fused: bool = False) -> str:
    """The model as an ONNX file."""
    from conversion.__main__ import main as convert

    path = folder / "model.onnx"
    if convert(["convert", str(minilm()), str(path), *(["--optimize"] if fused else [])]):
        raise SystemExit(1)
    return str(path)


def onnx_session(folder: Path, fused: bool = False, int8: bool = False) -> Callable[[dict], np.ndarray]:
    """By ONNX Runtime, from inputs by transformers' names to the last hidden states (B, S, H). folder: for graphs."""
    import onnxruntime

    path = _converted(folder, fused)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # As its documentation has it for BERT: products, weights by output.
        plain, path = path, str(folder / "int8.onnx")
        quantize_dynamic(plain, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda inputs: session.run(["last_hidden_state"], inputs)[0]


def openvino_model(folder: Path, precision: str) -> Callable[[dict], np.ndarray]:
    """The same by OpenVINO; precision: 'f32' or 'bf16'."""
    import openvino

    core = openvino.Core()
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": THREADS,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(_converted(folder)), "CPU", hints)
    request, output = compiled.create_infer_request(), compiled.output("last_hidden_state")
    return lambda inputs: request.infer(inputs)[output]


def _graph(load: Callable, *arguments):
    def make(work: Work) -> Callable[[], float]:
        folder = Path(tempfile.mkdtemp())
        run = load(folder, *arguments)
        shutil.rmtree(folder)
        batch = padded(work)
        inputs = _as_transformers_names(batch)
        return lambda: _mean_square(run(inputs), batch)

    return make


MAKERS = {
    "ms_bert fused": _native("float32"),
    **{f"ms_bert fused {name}": _native(name) for name in ("bfloat16", "int8") if not native.why_not(name)},
    "ms_bert stock": _mindspore,
    "pt_reference": _reference(False),
    "pt_reference --compile": _reference(True),
    "pt_reference bfloat16 --compile": _reference(True, "bfloat16"),
    "transformers": _transformers,
    "ONNX Runtime": _graph(onnx_session),
    "ONNX Runtime fused": _graph(onnx_session, True),
    "ONNX Runtime int8": _graph(onnx_session, False, True),
}
if importlib.util.find_spec("openvino"):
    MAKERS |= {"OpenVINO": _graph(openvino_model, "f32"), "OpenVINO bfloat16": _graph(openvino_model, "bf16")}
