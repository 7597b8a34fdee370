"""MindIR: every architecture is exported, and computes what transformers computes."""

import os

import numpy as np
import pytest

from conversion import checkpoint
from conversion.convert import Settings, convert
from conversion.formats import mindir
from conversion.parameters import ARCHITECTURES
from ms_bert.errors import UserError
from tests.cases import some

from .bert import CONFIG, random_weights, write_folder

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


def source(architecture, folder, config):
    weights = {
        name: value * np.float32(0.3) for name, value in random_weights(config, architecture, special=False).items()
    }
    if architecture == "BertModel":
        weights = {name.removeprefix("bert."): value for name, value in weights.items()}
    return write_folder(folder, weights, config, architecture)


@pytest.mark.parametrize("architecture", some(ARCHITECTURES, "BertForPreTraining", "BertForTokenClassification"))
def test_a_graph_computes_what_transformers_computes(architecture, tmp_path):
    os.environ.setdefault("GLOG_v", "3")
    import mindspore

    labels = {"BertForMultipleChoice": 1, "BertForQuestionAnswering": 2}.get(architecture, 5)

    config = CONFIG.replace(num_hidden_layers=1, id2label={str(i): f"LABEL_{i}" for i in range(labels)})
    folder = source(architecture, tmp_path / "source", config)
    path = tmp_path / "graph" / "model.mindir"
    result = convert(checkpoint.read(folder), path, settings=Settings(batch_size=3, seq_length=9))
    assert "input_ids, attention_mask, token_type_ids, int32 of shape (3, 9)" in result.notes[-1]
    assert path.stat().st_mode == (folder / "config.json").stat().st_mode  # the usual, by the umask
    model = getattr(transformers, architecture).from_pretrained(folder).double().eval()

    rng = np.random.default_rng(6)
    mask = np.arange(9) < np.array([9, 4, 1])[:, None]
    inputs = {
        "input_ids": rng.integers(0, 61, (3, 9)) * mask,
        "attention_mask": mask.astype(int),
        "token_type_ids": rng.integers(0, 3, (3, 9)) * mask,
    }
    graph = mindspore.nn.GraphCell(mindspore.load(str(path)))
    found = graph(*(mindspore.Tensor(value.astype(np.int32)) for value in inputs.values()))
    found = found if isinstance(found, tuple) else (found,)
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if architecture == "BertForMultipleChoice":
        given = {name: value[None] for name, value in given.items()}
    with torch.no_grad():
        expected = model(**given)
    outputs = ARCHITECTURES[architecture].outputs
    assert len(found) == len(outputs)
    for output, value in zip(outputs, found):
        value, wanted = value.asnumpy(), expected[output.name].numpy()
        assert value.shape == wanted.shape
        if value.shape[:2] == (3, 9):
            value, wanted = value[mask], wanted[mask]
        assert np.abs(value - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_what_no_graph_can_be_made_of_is_refused(tmp_path, monkeypatch):
    read = checkpoint.read(write_folder(tmp_path / "source", random_weights(special=False)))
    for settings, words in (
        (Settings(seq_length=18), "at most 17 tokens"),
        (Settings(batch_size=0), "at least 1"),
        (Settings(dtype="float16", seq_length=9), "use --dtype float32"),
    ):
        with pytest.raises(UserError, match=words):
            convert(read, tmp_path / "graph.mindir", settings=settings)
    monkeypatch.setattr(mindir, "_MOST", 10_000)
    with pytest.raises(UserError, match="less than 10000 bytes of weights"):
        convert(read, tmp_path / "graph.mindir")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
