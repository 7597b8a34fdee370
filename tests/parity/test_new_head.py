"""A head that is added in three places, cell, twin and table, is converted, exported and verified like any other."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import ops

import ms_bert.heads
import pt_reference.heads
import pt_reference.pretrained
from conversion import checkpoint, families
from conversion.agreement import cases
from conversion.agreement.in_onnx import run, session
from conversion.agreement.verify import open_two, verify
from conversion.convert import Settings, convert
from conversion.parameters import (
    ARCHITECTURES,
    BACKBONE,
    MODULES,
    SEQUENCE,
    TOKEN,
    Architecture,
    Module,
    Output,
    shapes,
)
from ms_bert.config import BertConfig
from ms_bert.kernels import native
from tests.conversion.bert import write_folder

CONFIG = BertConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=9,
    id2label={str(i): f"LABEL_{i}" for i in range(5)},
)
ROWS, TOKENS = 3, 9


# The cell and its twin: what the user asks for, a text's intent, and what each word of it says (Chen et al., 2019).


class BertForIntentAndSlots(ms_bert.heads.BertWithHead):
    def __init__(self, config, numerics):
        super().__init__()
        self.bert = ms_bert.heads.BertModel(config, numerics)
        self.intent_classifier = ms_bert.heads.Linear(config.hidden_size, 2, numerics)
        self.slot_classifier = ms_bert.heads.Linear(config.hidden_size, config.num_labels, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        slots = self.slot_classifier(hidden)
        return self.intent_classifier(pooled), ops.reshape(slots, (-1, tokens, slots.shape[-1]))


class Twin(pt_reference.heads.BertWithHead):
    def __init__(self, config, numerics):
        super().__init__()
        self.bert = pt_reference.heads.BertModel(config, numerics)
        self.intent_classifier = pt_reference.heads.Linear(config.hidden_size, 2, numerics)
        self.slot_classifier = pt_reference.heads.Linear(config.hidden_size, config.num_labels, numerics)

    def head(self, hidden, pooled, tokens, dropout_keys=None):
        slots = self.slot_classifier(hidden)
        return self.intent_classifier(pooled), slots.view(-1, tokens, slots.shape[-1])


NAME = BertForIntentAndSlots.__name__
ROW = Architecture((Output("intent_logits", "intent", SEQUENCE), Output("slot_logits", "slot", TOKEN)))
NEW_MODULES = {
    "intent_classifier": Module("intent", "projection", ("two", "H")),
    "slot_classifier": Module("slot", "projection", ("N", "H")),
}


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setattr(ms_bert.heads, NAME, BertForIntentAndSlots, raising=False)
    monkeypatch.setattr(pt_reference.heads, NAME, Twin, raising=False)
    monkeypatch.setitem(ARCHITECTURES, NAME, ROW)
    for module, described in NEW_MODULES.items():
        monkeypatch.setitem(MODULES, module, described)
        monkeypatch.setitem(families.HUGGING_FACE_MODULES, module, f"{{cls}}{module}")  # made of MODULES at import


def folder(path, changed=None):
    weights = cases.random_weights(shapes(CONFIG, (*BACKBONE, *ROW.parts)))
    if changed:
        weights[changed] = weights[changed] * np.float32(1.01)
    write_folder(path, weights, CONFIG, NAME)
    (path / "vocab.txt").unlink()
    return path


def test_a_head_of_three_places_is_converted_exported_and_verified(added, tmp_path):
    source = folder(tmp_path / "source")
    read = checkpoint.read(source)
    assert (read.architecture, read.parts) == (NAME, ("embeddings", "encoder", "pooler", "intent", "slot"))
    targets = {ending: tmp_path / ending / f"model.{ending}" for ending in ("ckpt", "onnx", "mindir")}
    for ending, target in targets.items():
        convert(read, target, settings=Settings(batch_size=ROWS, seq_length=TOKENS) if ending == "mindir" else None)
    back = checkpoint.read(targets["ckpt"])
    assert back.architecture == NAME
    assert all(np.array_equal(back.weights[name].read(), tensor.read()) for name, tensor in read.weights.items())

    # Both graphs give the outputs by their names and shapes, and what the twin gives.
    batch = cases.make_batch(CONFIG, ((9,), (5,), (2,)), TOKENS)
    given = [batch[name] for name in ("input_ids", "sequence_ids", "token_type_ids")]
    with torch.no_grad():
        twin = pt_reference.pretrained.load(Twin, source)
        expected = [value.numpy() for value in twin(*map(torch.from_numpy, given))]
    assert [value.shape for value in expected] == [(ROWS, 2), (ROWS, TOKENS, 5)]
    of_onnx = run(session(targets["onnx"]), batch)
    assert list(of_onnx) == ["intent_logits", "slot_logits"]
    of_mindir = ms.nn.GraphCell(ms.load(str(targets["mindir"])))(*map(ms.Tensor, given))
    inside = batch["sequence_ids"] > 0
    for found in (of_onnx.values(), [value.asnumpy() for value in of_mindir]):
        for value, wanted in zip(found, expected, strict=True):
            assert value.shape == wanted.shape
            at = inside if value.ndim == 3 else ...
            assert np.abs(value[at] - wanted[at]).max() < 1e-5 * np.abs(wanted[at]).max()

    # Every tensor and gradient is compared, in each framework and of each graph.
    report = verify(read, checkpoint.read(targets["onnx"]))
    assert report.agrees, report.verdict
    assert f"transformers has no {NAME}, so it was not run" in report.notes
    compared = {(finding.contender, finding.name) for finding in report.findings}
    graph = {("ONNX Runtime (B)", name) for name in ("intent_logits", "slot_logits")}
    framework = {("MindSpore (B)", name) for name in (*read.weights, "pooled_output", "intent_logits", "slot_logits")}
    assert compared >= graph | framework
    assert (("MindSpore fused (B)", "slot_logits") in compared) == (native.why_not() is None)
    other = folder(tmp_path / "other", "slot_classifier.weight")
    report = verify(*open_two(other, targets["mindir"], lambda *paths: list(map(checkpoint.read, paths))))
    assert not report.agrees and "first at slot_logits" in report.verdict, report.verdict
