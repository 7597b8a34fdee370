"""Inference: the encoder of all-MiniLM-L6-v2 with its real weights, and the pooler where it is part.

ms_bert takes texts of any lengths without padding. The others are given texts of many lengths in the way that is the
fastest for them: all at once, in groups of about the same length, each padded to its longest text, or one by one; those
that compile each shape, all at once. Each is set up as its documentation advises for latency on a CPU. The "loss" of a
run is the mean square of the tokens' hidden states.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.contenders import THREADS, Work, minilm

INPUTS = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions")
GROUP = 8  # texts of about the same length in a batch
Batch = dict[str, np.ndarray]


def texts_of(work: Work) -> list[np.ndarray]:
    """Random tokens of the work's lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, work.config.vocab_size, length).astype(np.int32) for length in work.lengths]


def padded(texts: Sequence[np.ndarray]) -> Batch:
    """A batch, a text a row."""
    rows = len(texts)
    shape = rows, max(map(len, texts))
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


def batches(work: Work, size: int) -> list[Batch]:
    """The texts by their lengths, so many in a batch."""
    texts = sorted(texts_of(work), key=len)
    return [padded(texts[begin : begin + size]) for begin in range(0, len(texts), size)]


def _over(work: Work, hidden: Callable[[Batch], np.ndarray], sizes: Sequence[int] = (GROUP, 1)) -> Callable[[], float]:
    """Runs a model on all texts, at once or, where that is faster, in batches of one of these sizes.

    Args:
        hidden: from a batch to the hidden states (B, S, H) or (B * S, H).
    """

    def way(size: int) -> Callable[[], float]:
        made = batches(work, size)
        return lambda: _mean_square([hidden(batch) for batch in made], made)

    if len(set(work.lengths)) == 1:
        return way(work.rows)
    ways = [way(size) for size in (work.rows, *sizes)]
    return min(ways, key=_seconds) if len(ways) > 1 else ways[0]


def _seconds(run: Callable[[], float], times: int = 3) -> float:
    """The least of a run, after another that does not count."""
    run()
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return min(found)


def _mean_square(hidden: Sequence[np.ndarray], batches: Sequence[Batch]) -> float:
    """Of what is no padding; hidden: of each batch (B, S, H) or (B * S, H)."""
    total, count = 0.0, 0
    for states, batch in zip(hidden, batches):
        real = states.reshape(-1, states.shape[-1])[batch["sequence_ids"].reshape(-1) > 0]
        total, count = total + float(np.square(real).sum()), count + real.size
    return total / count


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

    model = Encoder()

    def hidden(batch: Batch) -> np.ndarray:
        states, _ = model(*[Tensor(batch[name]) for name in INPUTS])
        return states.asnumpy()

    return _over(work, hidden, sizes=())  # each shape is compiled


def _reference(compile: bool, precision: str = "float32"):
    def make(work: Work) -> Callable[[], float]:
        import torch

        from pt_reference.model import BertModel, Numerics
        from pt_reference.pretrained import load

        torch.set_num_threads(THREADS)
        model = load(BertModel, minilm(), Numerics(precision))
        if compile:
            model.compile(dynamic=False)

        def hidden(batch: Batch) -> np.ndarray:
            with torch.inference_mode():
                states, _, _ = model(*[torch.from_numpy(batch[name]) for name in INPUTS])
            return states.float().numpy()

        return _over(work, hidden, () if compile else (GROUP, 1))  # each shape is compiled

    return make


def _as_transformers_names(batch: Batch) -> Batch:
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}
    return {theirs: batch[name].astype(np.int64) for theirs, name in names.items()}


def _transformers(work: Work) -> Callable[[], float]:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model = transformers.BertModel.from_pretrained(minilm(), add_pooling_layer=False).eval()

    def hidden(batch: Batch) -> np.ndarray:
        inputs = _as_transformers_names(batch)
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(value) for name, value in inputs.items()})[0].numpy()

    return _over(work, hidden)


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
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # As its documentation has it for BERT: products, in a graph that was fused before; weights by output.
        plain, path = path, str(folder / "int8.onnx")
        kinds = ["MatMul", "Attention"] if fused else ["MatMul"]
        quantize_dynamic(
            plain,
            path,
            op_types_to_quantize=kinds,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # what fused operations give is not inferred
        )
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
        return _over(work, lambda batch: run(_as_transformers_names(batch)))

    return make


# In the order in which they come in groups: what is compared with each other takes turns in one.
MAKERS = {
    "ms_bert fused": _native("float32"),
    "ONNX Runtime": _graph(onnx_session),
    "ONNX Runtime fused": _graph(onnx_session, True),
    "OpenVINO": _graph(openvino_model, "f32"),
    "transformers": _transformers,
    "pt_reference": _reference(False),
    "pt_reference --compile": _reference(True),
    "ms_bert stock": _mindspore,
    "ms_bert fused int8": _native("int8"),
    "ONNX Runtime int8": _graph(onnx_session, False, True),
    "ONNX Runtime fused int8": _graph(onnx_session, True, True),
    "ms_bert fused bfloat16": _native("bfloat16"),
    "OpenVINO bfloat16": _graph(openvino_model, "bf16"),
    "pt_reference bfloat16 --compile": _reference(True, "bfloat16"),
}
