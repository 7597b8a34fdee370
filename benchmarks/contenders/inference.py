"""Inference: the encoder of all-MiniLM-L6-v2 with its real weights, and the pooler where it is part; float32."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contenders import THREADS, Work, minilm
from benchmarks.contenders.finetuning import INPUTS, batch_of


def _native(work: Work) -> Callable[[], float]:
    from conversion import pretrained
    from ms_bert import native_model

    found = pretrained.read(minilm())
    layers = (found.config.num_hidden_layers,)
    model = native_model.load("BertHiddenStates", found, THREADS, layers=layers)
    batch = batch_of(work)[0]
    return lambda: float(np.square(model(batch)).mean())


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

    model, batch = Encoder(), batch_of(work)[0]

    def once() -> float:
        hidden, _ = model(*[Tensor(batch[name]) for name in INPUTS])
        return float(np.square(hidden.asnumpy()).mean())

    return once


def _reference(compile: bool):
    def make(work: Work) -> Callable[[], float]:
        import torch

        from pt_reference.model import BertModel
        from pt_reference.pretrained import load

        torch.set_num_threads(THREADS)
        model, batch = load(BertModel, minilm()), batch_of(work)[0]
        if compile:
            model.compile(dynamic=False)

        def once() -> float:
            with torch.inference_mode():
                hidden, _, _ = model(*[torch.from_numpy(batch[name]) for name in INPUTS])
            return float(np.square(hidden.numpy()).mean())

        return once

    return make


def _transformers(work: Work) -> Callable[[], float]:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model, batch = transformers.BertModel.from_pretrained(minilm()).eval(), batch_of(work)[0]
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}

    def once() -> float:
        with torch.inference_mode():
            hidden = model(**{ours: torch.from_numpy(batch[name]).long() for ours, name in names.items()})[0]
        return float(np.square(hidden.numpy()).mean())

    return once


def _onnx(fused: bool):
    def make(work: Work) -> Callable[[], float]:
        import onnxruntime

        from conversion.__main__ import main as convert

        folder = Path(tempfile.mkdtemp())
        if convert(["convert", str(minilm()), str(folder / "model.onnx"), *(["--optimize"] if fused else [])]):
            raise SystemExit(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        shutil.rmtree(folder)
        batch = {name: value.astype(np.int64) for name, value in batch_of(work)[0].items()}
        names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}

        def once() -> float:
            hidden = session.run(["last_hidden_state"], {ours: batch[name] for ours, name in names.items()})[0]
            return float(np.square(hidden).mean())

        return once

    return make


MAKERS = {
    "ms_bert fused": _native,
    "ms_bert stock": _mindspore,
    "pt_reference": _reference(False),
    "pt_reference --compile": _reference(True),
    "transformers": _transformers,
    "ONNX Runtime": _onnx(False),
    "ONNX Runtime fused": _onnx(True),
}
