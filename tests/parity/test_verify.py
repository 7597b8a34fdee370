"""`python -m conversion verify`: it tells checkpoints that compute the same from those that do not, and where first."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from conversion import checkpoint
from conversion.__main__ import main
from conversion.agreement import cases, faults, goldens, html_report, inputs
from conversion.agreement.findings import worst
from conversion.agreement.in_mindspore import MindSpore
from conversion.agreement.inputs import text_batch
from conversion.agreement.verify import Settings, _mindspore, open_two, place, verify
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from ms_bert.config import BertConfig
from ms_bert.data import tokenizer
from ms_bert.errors import UserError
from ms_bert.kernels import native
from tests.cases import some
from tests.conversion.bert import write_folder

CONFIG = BertConfig(
    vocab_size=120,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=80,
    max_position_embeddings=40,
    id2label={str(i): f"LABEL_{i}" for i in range(5)},
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "mat", "on", *"abcdefghijklmnopqrstuvwxyz"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + list(".,;:-!()0123456789")


def weights(architecture: str = "BertForPreTraining", config: BertConfig = CONFIG) -> dict[str, np.ndarray]:
    parts = (*BACKBONE, *ARCHITECTURES[architecture].parts)
    return cases.random_weights(shapes(config, parts, architecture))


def folder(path: Path, changed=None, config=CONFIG, architecture="BertForPreTraining", tokenizer=True) -> Path:
    """A Hugging Face folder, some of whose tensors are changed."""
    arrays = weights(architecture, config)
    for name, change in (changed or {}).items():
        arrays[name] = change(arrays[name])
    write_folder(path, arrays, config, architecture)
    (path / "vocab.txt").unlink()
    if tokenizer:
        (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("good") / "model")


def verified(a: Path, b: Path, **settings):
    return verify(checkpoint.read(a), checkpoint.read(b), Settings(**settings))


def dense(layer: int, part: str) -> str:
    return f"bert.encoder.layer.{layer}.{part}"


TARGETS = ("model.ckpt", "model.ckpt.index", "model.onnx", "model.safetensors")


@pytest.mark.drawn
@pytest.mark.parametrize("target", some(TARGETS, *TARGETS[1:]))
def test_a_conversion_to_every_format_agrees_with_its_source(target, good, tmp_path, capsys):
    if target == "model.onnx":
        pytest.importorskip("onnxruntime")
    there = tmp_path / "to" / target
    assert main(["convert", str(good), str(there)]) == 0
    capsys.readouterr()
    read = there.with_name("model.ckpt") if target.endswith(".index") else there
    assert main(["verify", str(good), str(read), "--report", str(tmp_path / "report.html")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and told[0].startswith("The 46 weights are equal byte for byte, and A and B agree: ")
    assert "transformers (A)" in told[0] and ("MindSpore fused (B)" in told[0]) == (native.why_not() is None)
    assert ("ONNX Runtime (B)" in told[0]) == (target == "model.onnx")
    assert (tmp_path / "report.html").stat().st_size > 100_000


FAULTS = {
    "projection transposed": (dense(1, "attention.output.dense.weight"), np.transpose, "layer 1, attention output"),
    "bias lost": (dense(1, "intermediate.dense.bias"), np.zeros_like, "layer 1, output"),
    "gamma lost": (dense(0, "output.LayerNorm.weight"), np.ones_like, "layer 0, output"),
    "queries scaled": (
        dense(1, "attention.self.query.weight"),
        lambda w: w * np.float32(1.001),
        "layer 1, attention probabilities",
    ),
    "one number changed": ("bert.pooler.dense.weight", lambda w: _with(w, (3, 4), 0.5), "pooled_output"),
    "positions shifted": ("bert.embeddings.position_embeddings.weight", lambda w: np.roll(w, 1, 0), "embeddings"),
    "decoder bias lost": ("cls.predictions.bias", np.zeros_like, "mlm_logits"),
}


def _with(array: np.ndarray, at: tuple, value: float) -> np.ndarray:
    changed = array.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_checkpoint_is_named_where_it_first_shows(name, good, tmp_path):
    tensor, change, where = FAULTS[name]
    report = verified(good, folder(tmp_path / "bad", {tensor: lambda w: np.ascontiguousarray(change(w))}))
    assert not report.agrees and f"first at {where}: " in report.verdict, report.verdict
    # A itself agrees in MindSpore: what is wrong is B, and in both frameworks.
    beyond = {finding.contender for finding in report.findings if not finding.agrees}
    assert beyond - {"weights (B)", "MindSpore fused (B)"} == {"PyTorch (B)", "MindSpore (B)"}
    assert report.verdict.startswith("1 of the 46 weights differs; A and B differ, first at ")


def test_the_command_tells_a_difference_and_exits_with_1(good, tmp_path, capsys):
    bad = folder(tmp_path / "bad", {dense(1, "output.dense.weight"): lambda w: w * np.float32(1.01)})
    report = tmp_path / "report.html"
    assert main(["verify", str(good), str(bad), "--report", str(report)]) == 1
    told = capsys.readouterr().out
    assert "differ, first at layer 1, output: " in told and "x PyTorch's own error" in told
    assert "layer.1.output" in report.read_text() and "Where it first fails" in report.read_text()
    assert main(["verify", str(good), str(bad), "--report", str(report), "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert not figures["agrees"] and figures["tensors_beyond_their_limits"] > 3


def test_another_epsilon_in_the_config_is_a_difference(good, tmp_path):
    quiet = {"bert.embeddings.word_embeddings.weight": lambda w: w * np.float32(0.01)}
    config = CONFIG.replace(num_hidden_layers=1)
    one = folder(tmp_path / "a", quiet, config)
    other = folder(tmp_path / "b", quiet, config.replace(layer_norm_eps=1e-5))
    report = verified(one, other)
    assert "first at embeddings" in report.verdict
    assert any("layer_norm_eps is 1e-12 in A's config and 1e-05 in B's" in note for note in report.notes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_half_precision_costs_is_allowed_and_no_more(dtype, good, tmp_path):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    names = weights()
    stored = {name: lambda w: w.astype(kind) for name in names}
    half = folder(tmp_path / "half", stored)
    for pair, side in (((good, half), "B"), ((half, good), "A")):
        report = verified(*pair)
        assert report.agrees and {finding.precision for finding in report.findings} == {"float32"}, report.verdict
        assert any(f"{side} stores " in note and f"tensors in {dtype}" in note for note in report.notes)
    spoiled = stored | {dense(0, "output.dense.weight"): lambda w: (w * 1.02).astype(kind)}
    assert "layer 0, output" in verified(good, folder(tmp_path / "bad", spoiled)).verdict
    # What lost nothing on its way is not spoken of.
    exact = {name: lambda w: w.astype(kind).astype(np.float32) for name in names}
    report = verified(folder(tmp_path / "exact", exact), half)
    assert report.agrees and not report.notes


def test_float16_and_bfloat16_of_one_model_agree(good, tmp_path):
    """Both are roundings of the same numbers, and neither is the other's: one in sixteen differs if rounded twice."""
    halves = [
        folder(tmp_path / kind.__name__, dict.fromkeys(weights(), lambda w, kind=kind: w.astype(kind)))
        for kind in (np.float16, ml_dtypes.bfloat16)
    ]
    for pair in (halves, halves[::-1]):
        report = verified(*pair)
        assert report.agrees and "equal up to the rounding of their dtypes" in report.verdict, report.verdict
    spoiled = {
        name: lambda w: (w * np.float32(1.02)).astype(np.float16) for name in weights() if "output.dense" in name
    }
    other = dict.fromkeys(weights(), lambda w: w.astype(np.float16)) | spoiled
    report = verified(folder(tmp_path / "spoiled", other), halves[1])
    assert not report.agrees and "first at layer 0, attention output" in report.verdict, report.verdict


def test_one_tensor_in_half_precision_loosens_nothing_for_the_others(good, tmp_path):
    one = {dense(1, "output.LayerNorm.bias"): lambda w: w.astype(ml_dtypes.bfloat16)}
    report = verified(good, folder(tmp_path / "one", one))
    assert report.agrees and any("B stores 1 of 46 tensors in bfloat16" in note for note in report.notes), report.notes
    spoiled = one | {dense(1, "intermediate.dense.weight"): lambda w: w * np.float32(1.003)}
    report = verified(good, folder(tmp_path / "bad", spoiled))
    assert "first at layer 1, output" in report.verdict


# And a model of one token type.
WIDE_TABLES = CONFIG.replace(num_hidden_layers=1, max_position_embeddings=550, vocab_size=30_000, type_vocab_size=1)


@pytest.mark.parametrize(
    "table, size, row", some([("word", 30_000, 117), ("position", 550, 549)], ("position", 550, 549))
)
def test_a_row_that_no_input_shows_is_compared_too(table, size, row, tmp_path):
    name = f"bert.embeddings.{table}_embeddings.weight"
    change = {name: lambda w: _with(w, (row, 5), w[row, 5] * 1.001)}
    one = folder(tmp_path / "a", config=WIDE_TABLES, architecture="BertModel")
    report = verified(one, folder(tmp_path / "b", change, WIDE_TABLES, architecture="BertModel"))
    assert not report.agrees and "in rows that none of the inputs uses" in report.verdict, report.verdict
    told = f"{table}_embeddings.weight differs in 1 of its {size} rows, first in row {row}"
    assert any(told in note for note in report.notes), report.notes


ASKED = {
    "BertModel": "the nearest of the other texts",
    "BertForMaskedLM": "the most likely words for [MASK]",
    "BertForNextSentencePrediction": "does the second half",
    "BertForSequenceClassification": "the label of the text",
    "BertForMultipleChoice": "the label of the text, or its score",
    "BertForTokenClassification": "the label of each token",
    "BertForQuestionAnswering": "the best answer",
}


@pytest.mark.parametrize(
    "architecture",
    some([name for name in ARCHITECTURES if name != "BertForPreTraining"], "BertForMultipleChoice"),
)
def test_every_architecture_is_run_and_asked_by_its_heads(architecture, tmp_path):
    config = CONFIG.replace(num_hidden_layers=1)
    one, other = (folder(tmp_path / name, config=config, architecture=architecture) for name in "ab")
    report = verified(one, other)
    assert report.agrees, report.verdict
    compared = {finding.name for finding in report.findings}
    assert compared >= weights(architecture, config).keys() | {"embeddings", "layer.0.output"}
    assert {"every row", "real text", "random tokens", "packed rows"} == {finding.case for finding in report.findings}
    (asked,) = report.predictions
    assert asked.what.startswith(ASKED[architecture]) and asked.equal == asked.total >= len(inputs.TEXT)


def test_parts_that_only_one_has_are_left_out_and_told(tmp_path, capsys):
    config = CONFIG.replace(num_hidden_layers=1)
    whole = folder(tmp_path / "whole", config=config)
    bare = folder(tmp_path / "bare", config=config, architecture="BertModel", tokenizer=False)
    assert main(["verify", str(whole), str(bare), "--report", str(tmp_path / "report.html")]) == 0
    told = capsys.readouterr().out
    assert ", and A and B agree on embeddings, encoder, pooler: " in told and "only A has mlm, nsp" in told
    without = folder(tmp_path / "a", config=config, architecture="BertModel", tokenizer=False)
    report = verified(without, without)
    assert any("no tokenizer was found beside" in note for note in report.notes)
    assert {finding.case for finding in report.findings} == {"every row", "random tokens", "packed rows"}


def test_a_text_of_the_users_is_run_on(good, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("the cat on the mat\n\nthe mat on the cat; on the mat!\n")
    batch = text_batch(tokenizer.load(good), ["the cat on the mat"], 12)
    assert batch["input_ids"][0].tolist() == [2, 5, 6, 3, 8, 5, 7, 3, 0, 0, 0, 0]
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    seen = []
    monkeypatch.setattr(inputs, "text_batch", lambda _, lines, *rest: seen.append(list(lines)) or batch)
    assert verified(good, good, text=text).agrees
    assert seen == [["the cat on the mat", "the mat on the cat; on the mat!"]]
    without = folder(tmp_path / "without", tokenizer=False)
    with pytest.raises(UserError, match="no tokenizer was found beside A or B, so .*text.txt cannot be used"):
        verified(without, without, text=text)
    with pytest.raises(UserError, match="holds no text"):
        (tmp_path / "empty.txt").write_text("\n \n")
        verified(good, good, text=tmp_path / "empty.txt")


@pytest.mark.parametrize(
    "change, words",
    [
        (("--report", "/nowhere/report.html"), "there is no folder /nowhere"),
        (("--report", "{good}/config.json"), "already exists and is not a report"),
        (("--device", "Ascend"), "no usable Ascend NPU"),
        (("--precision", "bfloat16", "--device", "GPU"), "not supported by MindSpore on GPU"),
        (("--full",), "takes two checkpoints, or none"),
    ],
)
def test_a_users_mistake_is_one_sentence(change, words, good, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(good=good) for argument in change]
    assert main(["verify", str(good), str(good), *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err and len(told.err.strip().splitlines()) == 1 and not told.out
    assert not (tmp_path / "agreement.html").exists()


def test_what_is_refused_drops_nothing_that_was_compiled():
    kept = _mindspore("float32", "CPU")
    for refused in (("bfloat16", "GPU"), ("float32", "Ascend")):
        with pytest.raises(UserError):
            _mindspore(*refused)
    assert _mindspore("float32", "CPU") is kept


def test_no_file_but_an_older_report_is_replaced(good, tmp_path, capsys):
    source = tmp_path / "html_report.py"
    source.write_text(Path(html_report.__file__).read_text())  # it holds the mark of a report
    assert main(["verify", str(good), str(good), "--report", str(source)]) == 2
    assert "already exists and is not a report" in capsys.readouterr().err
    assert source.read_text() == Path(html_report.__file__).read_text()


def test_other_sizes_and_one_checkpoint_alone_are_refused(good, tmp_path, capsys):
    small = CONFIG.replace(max_position_embeddings=30)
    shorter = folder(tmp_path / "other", config=small)
    with pytest.raises(UserError, match="max_position_embeddings is 40 in .* and 30 in"):
        verified(good, shorter)
    (shorter / "config.json").unlink()
    with pytest.raises(UserError, match=r"position_embeddings.weight is \(40, 48\) .* and \(30, 48\) in"):
        verified(good, shorter)
    assert main(["verify", str(good)]) == 2
    assert "takes two checkpoints" in capsys.readouterr().err
    heads = folder(tmp_path / "heads", config=CONFIG.replace(num_attention_heads=6))
    with pytest.raises(UserError, match="num_attention_heads is 3 in .* and 6 in"):
        verified(good, heads)
    deeper = folder(tmp_path / "deeper", config=CONFIG.replace(num_hidden_layers=3))
    (deeper / "config.json").unlink()
    for pair in ((good, deeper), (deeper, good)):
        with pytest.raises(
            UserError, match=r"holds bert.encoder.layer.2.* which a model of 2 layers, .* does not have"
        ):
            verified(*pair)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, good, tmp_path):
    bad = folder(tmp_path / "bad", {dense(1, "output.dense.bias"): lambda w: _with(w, (2,), value)})
    for pair in ((good, bad), (bad, good), (bad, bad)):
        with pytest.raises(UserError, match=r"layer.1.output.dense.bias in .*bad.* holds values that are not finite"):
            verified(*pair)


def wild(w: np.ndarray) -> np.ndarray:
    """Queries so large that the softmax is a step, and PyTorch in float32 is itself beyond every limit."""
    return w * np.float32(30)


def test_what_rounding_hides_is_left_out_and_told_and_hides_no_other_model(tmp_path):
    large = {dense(i, "attention.self.query.weight"): wild for i in range(4)}
    config = CONFIG.replace(num_hidden_layers=4)  # a step of a softmax on top of others
    one = folder(tmp_path / "wild", large, config)
    report = verified(one, one)
    assert report.agrees and report.verdict.startswith("The 78 weights are equal byte for byte, and A and B agree: ")
    left_out = {finding.name for finding in report.findings if not finding.judged}
    assert "layer.0.attention.probabilities" in left_out and "embeddings" not in left_out
    told = [
        note for note in report.notes if re.match(r"not judged: \d+ of \d+ tensors \(layer 0, attention prob", note)
    ]
    assert len(told) == 1 and "rounding alone" in told[0], report.notes
    # Weights that differ are no longer known to be one model: what cannot be judged is not taken for agreement.
    moved = {dense(1, "output.dense.weight"): lambda w: _with(w, (0, 0), np.nextafter(w[0, 0], np.float32(9)))}
    report = verified(one, folder(tmp_path / "moved", large | moved, config))
    assert not report.agrees and "whether A and B agree cannot be decided" in report.verdict, report.verdict
    changed = {dense(1, "output.dense.weight"): lambda w: w * np.float32(1.5)}
    report = verified(one, folder(tmp_path / "changed", large | changed, config))
    assert not report.agrees and "1 of the 78 weights differs; A and B differ, first at " in report.verdict


@pytest.mark.parametrize("same", ["every row of a table", "every number"])
def test_a_collapsed_model_agrees_with_itself(same, tmp_path):
    tables = [name for name in weights() if "_embeddings." in name]
    alike = {name: lambda w: np.repeat(w[:1], len(w), 0) for name in tables}
    constant = {name: lambda w: np.full_like(w, 0.02) for name in weights()}
    one = folder(tmp_path / "one", alike if same == "every row of a table" else constant)
    report = verified(one, one)
    assert report.agrees and report.verdict.startswith("The 46 weights are equal byte for byte"), report.verdict
    nothing = "what they compute cannot be judged, because rounding hides all of it" in report.verdict
    assert nothing == (same == "every number")
    assert any(note.startswith("not judged: ") for note in report.notes)


@pytest.mark.parametrize("kind", ["as it is drawn first", "wide"])
def test_a_model_of_flat_attention_agrees_with_itself(kind, tmp_path):
    """PyTorch's own error of flat probabilities is 1e-7, and MindSpore's exp is right to 3e-6 only."""
    rng = np.random.default_rng(0)
    drawn = {
        "as it is drawn first": lambda w: w if w.ndim == 1 else rng.normal(0, 0.02, w.shape).astype(np.float32),
        "wide": lambda w: rng.normal(0, 0.3, w.shape).astype(np.float32),
    }[kind]
    one = folder(tmp_path / "one", dict.fromkeys(weights(), drawn))
    report = verified(one, one)
    assert report.agrees, report.verdict
    assert worst(report.findings).share < 0.7


@pytest.mark.parametrize("one, other", [("BertForMaskedLM", "BertModel"), ("BertForQuestionAnswering", "BertModel")])
def test_models_without_an_output_in_common_are_compared_by_their_hidden_states(one, other, tmp_path):
    config = CONFIG.replace(num_hidden_layers=1)
    pair = [folder(tmp_path / name, config=config, architecture=name) for name in (one, other)]
    report = verified(*pair)
    assert report.agrees and ", and A and B agree on embeddings, encoder: " in report.verdict, report.verdict
    assert {"last_hidden_state", dense(0, "output.dense.weight")} <= {finding.name for finding in report.findings}


def test_classifiers_of_other_kinds_are_not_compared(tmp_path):
    kinds = ("BertForSequenceClassification", "BertForTokenClassification")
    config = CONFIG.replace(num_hidden_layers=1)
    one, other = (folder(tmp_path / name, config=config, architecture=name) for name in kinds)
    for pair in ((one, other), (other, one)):
        report = verified(*pair)
        assert report.agrees and any("their classifiers are not compared" in note for note in report.notes)
        assert "classifier.weight" not in {finding.name for finding in report.findings}


def test_a_classifier_of_another_name_is_compared_as_it_is_renamed(tmp_path, capsys):
    kind, config = "BertForSequenceClassification", CONFIG.replace(num_hidden_layers=1)
    plain = folder(tmp_path / "plain", config=config, architecture=kind)
    named = {name.replace("classifier.", "fc."): value for name, value in weights(kind, config).items()}
    write_folder(tmp_path / "named", named, config, kind)
    (tmp_path / "named" / "vocab.txt").unlink()
    page = ["--report", str(tmp_path / "report.html")]
    for pair in ((plain, tmp_path / "named"), (tmp_path / "named", plain)):
        assert main(["verify", *map(str, pair), "--rename", "fc=classifier", *page]) == 0
        assert "The 25 weights are equal byte for byte, and A and B agree: " in capsys.readouterr().out
    assert main(["verify", str(plain), str(tmp_path / "named"), *page]) == 2
    assert "use --rename fc=classifier" in capsys.readouterr().err


def test_a_model_of_one_token_type_is_compared(tmp_path):
    one = folder(tmp_path / "a", config=WIDE_TABLES, architecture="BertModel")
    assert verified(one, one).agrees


GRAPHS = {"pretraining": "BertForPreTraining", "masked": "BertForMaskedLM", "encoder": "BertModel", "bare": "BertModel"}


@pytest.mark.parametrize("name, graph", [("encoder", "pretraining"), ("pretraining", "bare"), ("masked", "encoder")])
def test_a_graph_is_run_for_what_it_shares_or_said_not_to_be(name, graph, tmp_path):
    pytest.importorskip("onnxruntime")
    config = CONFIG.replace(num_hidden_layers=1)
    paths = {one: folder(tmp_path / one, config=config, architecture=GRAPHS[one]) for one in (name, graph)}
    file = tmp_path / "graph" / "model.onnx"
    drop = ["--drop", "pooler"] if graph == "bare" else []
    assert main(["convert", str(paths[graph]), str(file), *drop]) == 0
    plain, onnx = checkpoint.read(paths[name]), checkpoint.read(file, allow_missing=("pooler",))
    for a, b, side in ((plain, onnx, "B"), (onnx, plain, "A")):
        report = verify(a, b)
        assert report.agrees, report.verdict
        ran = any(finding.contender == f"ONNX Runtime ({side})" for finding in report.findings)
        assert ran == (graph != "pretraining")
        assert ran != any(f"the graph of {side} has no output that the other has too" in note for note in report.notes)


# Graphs as they are deployed, whose weights have no names


def opened(a: Path, b: Path):
    return verify(*open_two(a, b, lambda *paths: list(map(checkpoint.read, paths))))


def converted(source: Path, file: Path, *options: str) -> Path:
    assert main(["convert", str(source), str(file), *options]) == 0
    return file


@pytest.mark.parametrize("architecture", ["BertForPreTraining", "BertForMultipleChoice", "BertForQuestionAnswering"])
def test_a_fused_graph_is_compared_by_what_it_gives(architecture, tmp_path):
    pytest.importorskip("onnxruntime")
    config = CONFIG.replace(num_hidden_layers=1)
    model = folder(tmp_path / "model", config=config, architecture=architecture)
    fused = converted(model, tmp_path / "fused" / "m.onnx", "--optimize")
    for pair, letter in (((model, fused), "B"), ((fused, model), "A")):
        report = opened(*pair)
        assert report.agrees, report.verdict
        of_graph = {f.name for f in report.findings if f.contender == f"ONNX Runtime ({letter})" and f.judged}
        assert of_graph and report.verdict.startswith(
            f"The weights of {letter} have no names and are not compared, and "
        )
    change = {dense(0, "output.dense.weight"): lambda w: w * np.float32(1.001)}
    other = folder(tmp_path / "other", change, config, architecture)
    report = opened(other, fused)
    assert not report.agrees and "ONNX Runtime (B)" in report.verdict, report.verdict
    with pytest.raises(UserError, match="neither .* nor .* holds weights with names"):
        opened(fused, fused)


def test_a_graph_in_half_precision_is_held_by_the_tolerances_of_its_own(tmp_path):
    pytest.importorskip("onnxruntime")
    model = folder(tmp_path / "model", config=CONFIG.replace(num_hidden_layers=1))
    half = converted(model, tmp_path / "half" / "m.onnx", "--dtype", "float16")
    report = opened(model, half)
    assert report.agrees, report.verdict
    assert {f.precision for f in report.findings if f.contender.startswith("ONNX")} == {"float16"}


@pytest.mark.parametrize("architecture, rows", some([("BertForPreTraining", 2), ("BertModel", 3)], ("BertModel", 3)))
def test_a_mindir_file_is_compared_in_its_fixed_shape(architecture, rows, tmp_path):
    config = CONFIG.replace(num_hidden_layers=1)
    model = folder(tmp_path / "model", config=config, architecture=architecture)
    file = converted(model, tmp_path / "ir" / "m.mindir", "--batch-size", str(rows), "--seq-length", "32")
    report = opened(model, file)
    assert report.agrees, report.verdict
    found = [finding for finding in report.findings if finding.contender == "MindIR (B)"]
    assert {finding.case for finding in found} == {"real text", "random tokens"}
    change = {dense(0, "output.dense.weight"): lambda w: w * np.float32(1.001)}
    report = opened(file, folder(tmp_path / "other", change, config, architecture))
    assert not report.agrees and "MindIR (A)" in report.verdict, report.verdict
    torn = tmp_path / "torn.mindir"
    torn.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UserError, match="torn.mindir cannot be read"):
        opened(model, torn)
    with pytest.raises(UserError, match="MindIR|gives 2 tensors|has no output that|a graph of this model"):
        opened(folder(tmp_path / "tagger", config=config, architecture="BertForTokenClassification"), file)


def test_names_of_labels_that_differ_are_told_and_are_no_disagreement(tmp_path, capsys):
    config = CONFIG.replace(num_hidden_layers=1)
    named = config.replace(id2label={str(i): f"class {i}" for i in range(5)})
    one, other = (
        folder(tmp_path / name, config=each, architecture="BertForSequenceClassification")
        for name, each in (("a", config), ("b", named))
    )
    assert main(["verify", str(one), str(other), "--report", str(tmp_path / "report.html")]) == 0
    told = capsys.readouterr().out
    assert "the numbers agree, but the names of the labels do not: label 0 is 'LABEL_0' in A and 'class 0' in B" in told
    page = (tmp_path / "report.html").read_text()
    assert "The label of the text" in page and "LABEL_" in page and "class " in page
    assert "labels" not in verified(one, one).verdict


def test_what_the_models_predict_stands_side_by_side(good, tmp_path):
    report = verified(good, good)
    words, follows = report.predictions
    assert words.sides == ("PyTorch (A)", "MindSpore (B)", "transformers (A)")
    assert words.equal == words.total == sum(row.equal for row in words.rows) == 2 * len(inputs.TEXT)
    assert all("[MASK]" in row.asked and row.asked.endswith(")") for row in words.rows)
    assert follows.total == len(inputs.TEXT)
    # With another decoder the words are others, and the page says of how many.
    bias = np.linspace(0, 40, CONFIG.vocab_size, dtype=np.float32)
    other = verified(good, folder(tmp_path / "other", {"cls.predictions.bias": lambda w: bias})).predictions[0]
    assert other.sides == ("PyTorch (A)", "PyTorch (B)", "MindSpore (B)", "transformers (A)")
    assert other.equal < other.total and not other.rows[0].equal


def test_tokenizers_that_differ_are_told(good, tmp_path):
    other = folder(tmp_path / "other")
    (other / "vocab.txt").write_text("\n".join([*VOCABULARY[:6], "dog", *VOCABULARY[7:]]) + "\n")
    assert any("give different tokens" in note for note in verified(good, other).notes)


def test_places_are_named_as_people_do():
    assert place("layer.7.attention.output") == "layer 7, attention output"
    assert place("pooled_output") == "pooled_output"
    assert place("bert.embeddings.word_embeddings.weight") == "bert.embeddings.word_embeddings.weight"


# Against the numbers on file


def test_the_goldens_are_those_that_the_oracle_computes_now(small, quiet):
    stored = goldens.Goldens()
    for (_, groups), (_, reference) in zip(goldens.problems().values(), (small, quiet)):
        for group in groups:
            exact = reference.exact(group)
            assert {case for _, case in exact.keys() - stored.exact(group).keys()} <= {"short"}
            for key in exact.keys() & stored.exact(group).keys():
                tensors = exact[key]
                assert stored.exact(group)[key].keys() == tensors.keys()
                for (
                    name,
                    value,
                ) in tensors.items():  # a gradient that is 0 is noise of float64, another on each processor
                    size = np.abs(value).max(initial=0.0)
                    assert np.abs(stored.exact(group)[key][name] - value).max(initial=0.0) <= 1e-8 * size + 1e-15, name


def test_goldens_of_another_script_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(goldens, "fingerprint", lambda: "another")
    with pytest.raises(UserError, match="made by another version"):
        goldens.Goldens()
    with pytest.raises(UserError, match="cannot be read"):
        goldens.Goldens(tmp_path / "nothing.npz")
    for size in (0, 1000, goldens.FILE.stat().st_size // 2):
        (tmp_path / "torn.npz").write_bytes(goldens.FILE.read_bytes()[:size])
        with pytest.raises(UserError, match="cannot be read"):
            goldens.Goldens(tmp_path / "torn.npz")


@pytest.mark.parametrize(
    "name, arguments",
    [("torch", ["--full"]), ("torch", "pair"), ("onnxruntime", ["--full"]), ("mindspore", "pair"), ("mindspore", [])],
)
def test_what_is_not_installed_is_one_sentence(name, arguments, good, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda other: None if other == name else found(other))
    arguments = [str(good), str(good)] if arguments == "pair" else arguments
    assert main(["verify", *arguments, "--report", str(tmp_path / "report.html")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and f"this comparison needs {name}, which is not installed" in told[0]


def test_a_machine_without_torch_can_be_checked(tmp_path):
    program = """
import sys
from conversion.__main__ import main
from conversion.agreement import goldens

problems, fingerprint = goldens.problems(), goldens.fingerprint()
goldens.fingerprint = lambda: fingerprint
goldens.problems = lambda: {"small": (problems["small"][0], ("forward",))}  # of many checks one

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch on this machine", name="torch")

sys.meta_path.insert(0, NoTorch())
sys.exit(main(["verify", "--precision", "float32"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "tensors were compared and all agree" in done.stdout, done.stdout + done.stderr
    fused = "MindSpore fused on CPU in float32: " in done.stderr  # what training computes by, where it can
    assert fused == (native.why_not() is None)
    assert (tmp_path / "agreement.html").stat().st_size > 50_000


def test_a_fault_is_found_by_the_numbers_on_file():
    problem, _ = goldens.problems()["quiet"]
    fault = faults.FAULTS["epsilon-1e-7"]
    found = faults.planted(fault, MindSpore(), problem, goldens.Goldens())
    assert not all(finding.agrees for finding in found) and worst(found).share > 10
