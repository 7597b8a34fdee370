"""State dicts as users have them: below any prefix, in training checkpoints, of other families, by their own names."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from conversion import checkpoint
from conversion.__main__ import main
from conversion.convert import convert
from conversion.formats import mindspore_ckpt, safetensors_file
from conversion.tensors import Tensor, same_bytes
from ms_bert.errors import UserError

from .bert import CONFIG, random_weights, tensors, write_folder

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:.*left out what is not a weight")


def in_torch(arrays: dict[str, np.ndarray]) -> OrderedDict:
    return OrderedDict((name, torch.from_numpy(value)) for name, value in arrays.items())


def below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": value for name, value in arrays.items()}


def home(folder: Path, architecture: str = "BertForPreTraining", **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = CONFIG.replace(**changes).to_dict() | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def assert_holds(found: checkpoint.Checkpoint, weights: dict[str, np.ndarray]) -> None:
    assert found.weights.keys() == weights.keys()
    assert all(same_bytes(found.weights[name], Tensor.of(value)) for name, value in weights.items())


PREFIXES = [
    "module.",
    "model.",
    "_orig_mod.",
    "module._orig_mod.model.",
    "network.",
    "network.backbone.",
    "net.0.auto_model.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "mindspore"])
def test_a_prefix_that_all_names_bear_is_found_and_told(container, prefix, tmp_path):
    weights = random_weights()
    folder, named = home(tmp_path / "source"), below(prefix, weights)
    if container == "safetensors":
        safetensors_file.write(folder / "own.safetensors", tensors(named), {})
    elif container == "mindspore":
        mindspore_ckpt.write(folder / "own.ckpt", tensors(named))
    else:
        torch.save(in_torch(named), folder / "model.pt", _use_new_zipfile_serialization=container == "zip")
    found = checkpoint.read(folder)
    assert_holds(found, weights)
    assert f"removed the prefix {prefix!r} that all names share" in found.notes
    assert convert(found, tmp_path / "target").notes == list(found.notes)


@pytest.mark.parametrize("name", ["epoch=3-step=33.ckpt", "model.pt", "checkpoint.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module", "net"])
def test_the_only_file_of_a_folder_may_be_a_training_checkpoint(name, wrapper, tmp_path):
    weights = random_weights()
    folder = home(tmp_path / "source")
    thing = {wrapper: in_torch(below("model.", weights)), "epoch": 3, "optimizer_states": [{"state": {}}]}
    torch.save(thing, folder / name)
    torch.save({"state": {}}, folder / "optimizer.pt")  # what trainers leave beside it
    assert_holds(checkpoint.read(folder), weights)


def test_what_is_unexpected_below_a_prefix_is_a_fault(tmp_path):
    folder = home(tmp_path / "source")
    arrays = {**below("model.", random_weights()), "loss_fn.weight": np.ones(3, np.float32)}
    safetensors_file.write(folder / "model.safetensors", tensors(arrays), {})
    with pytest.raises(checkpoint.NotWhole) as told:
        checkpoint.read(folder)
    assert [line.split()[:2] for line in told.value.faults] == [["unexpected", "loss_fn.weight"]]


def two_encoders(folder: Path) -> tuple[Path, dict, dict]:
    one, other = random_weights(architecture="BertModel"), random_weights(architecture="BertModel", special=False)
    arrays = below("query_encoder.", one) | below("doc_encoder.", other)
    torch.save(in_torch(arrays), home(folder, "BertModel") / "model.pt")
    return folder, one, other


def test_one_of_several_models_is_chosen_by_its_prefix(tmp_path, capsys):
    source, one, other = two_encoders(tmp_path / "source")
    with pytest.raises(UserError, match="holds 2 models, whose names begin with 'doc_encoder.', 'query_encoder.'"):
        checkpoint.read(source)
    assert_holds(checkpoint.read(source, prefix="doc_encoder."), other)
    for prefix, weights in (("query_encoder.", one), ("doc_encoder.", other)):
        target = tmp_path / prefix
        assert main(["convert", str(source), str(target), "--prefix", prefix]) == 0
        assert f"left out 39 tensors whose names do not begin with '{prefix}', as asked" in capsys.readouterr().out
        assert_holds(checkpoint.read(target), weights)
        assert main(["diff", str(source), str(target), "--prefix", prefix]) == 0
    assert main(["inspect", str(source), "--prefix", "doc_encoder."]) == 0
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "no"), "--prefix", "teacher."]) != 0
    assert "no tensor whose name begins with the --prefix 'teacher.'" in capsys.readouterr().err


def with_own_classifier(folder: Path) -> tuple[Path, dict]:
    weights = random_weights(architecture="BertForSequenceClassification")
    arrays = {name.replace("classifier.", "fc."): value for name, value in weights.items()}
    safetensors_file.write(home(folder, "BertForSequenceClassification") / "model.safetensors", tensors(arrays), {})
    return folder, weights


def test_a_classifier_of_another_name_is_renamed(tmp_path, capsys):
    source, weights = with_own_classifier(tmp_path / "source")
    with pytest.raises(checkpoint.NotWhole, match="if fc is the classifier, use --rename fc=classifier"):
        checkpoint.read(source)
    assert_holds(checkpoint.read(source, rename={"fc": "classifier"}), weights)
    target = tmp_path / "target"
    assert main(["convert", str(source), str(target), "--rename", "fc=classifier"]) == 0
    assert "renamed 2 tensors, as asked: fc=classifier" in capsys.readouterr().out
    assert main(["diff", str(source), str(target), "--rename", "fc=classifier"]) == 0
    assert main(["inspect", str(source), "--rename", "fc=classifier"]) == 0


def test_a_classifier_of_very_many_empty_rows_costs_nothing(tmp_path):
    """Its two thousand million names of labels were made before its shape was compared."""
    weights = random_weights(architecture="BertForSequenceClassification")
    weights["classifier.weight"] = np.zeros((2_000_000_000, 0), np.float32)
    source = home(tmp_path, "BertForSequenceClassification")
    safetensors_file.write(source / "model.safetensors", tensors(weights), {})
    with pytest.raises(checkpoint.NotWhole, match=r"classifier.weight: found \(2000000000, 0\)"):
        checkpoint.read(source)


@pytest.mark.parametrize(
    "rules, words",
    [
        (["fcc=classifier"], "--rename 'fcc'=...: no tensor has this name; the names begin with 'bert', 'fc'"),
        (["fc=bert.pooler.dense"], "gives the name 'bert.pooler.dense.bias' to both"),
        (["fc"], "give OLD=NEW"),
        (["=classifier"], "give OLD=NEW"),
        (["fc=classifier", "fc=head"], "each OLD once"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "inspect", "diff"])
def test_a_renaming_that_means_nothing_is_refused_in_a_sentence(command, rules, words, tmp_path, capsys):
    source, _ = with_own_classifier(tmp_path / "source")
    paths = [str(source)] + {"convert": [str(tmp_path / "target")], "inspect": [], "diff": [str(source)]}[command]
    assert main([command, *paths, *(word for rule in rules for word in ("--rename", rule))]) != 0
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


# Other families


def test_the_row_for_padding_is_left_out_and_made_again(tmp_path):
    """As scripts/convert_bert_from_uer_to_huggingface.py and its inverse do, which adds zeros."""
    weights = random_weights()
    convert(checkpoint.read(write_folder(tmp_path / "source", weights)), tmp_path / "uer" / "model.bin", "uer")
    written = torch.load(tmp_path / "uer" / "model.bin")
    rows = written["embedding.seg.embedding.weight"]
    assert rows.shape == (4, 12) and not rows[0].any()
    assert written["target.mlm.linear_2.weight"].data_ptr() == written["embedding.word.embedding.weight"].data_ptr()
    rows[0] = 7
    torch.save(written, tmp_path / "uer" / "model.bin")
    found = checkpoint.read(tmp_path / "uer" / "model.bin")
    assert_holds(found, weights)
    assert ("embedding.seg.embedding.weight", "its first row, which only padding uses") in found.left_out


@pytest.mark.parametrize("family", ["uer", "uer-old"])
def test_heads_that_uer_calls_alike_are_told_apart_by_the_config_or_the_user(family, tmp_path):
    weights = random_weights(CONFIG.replace(id2label={"0": "a", "1": "b"}), "BertForTokenClassification")
    source = write_folder(
        tmp_path / "source", weights, CONFIG.replace(id2label={"0": "a", "1": "b"}), "BertForTokenClassification"
    )
    target = tmp_path / "uer" / "model.bin"
    convert(checkpoint.read(source), target, family)
    assert_holds(checkpoint.read(target), weights)  # the config beside it says which
    (tmp_path / "uer" / "config.json").unlink()
    with pytest.raises(UserError, match="BertForTokenClassification or BertForQuestionAnswering.*--architecture"):
        checkpoint.read(target)
    assert checkpoint.read(target, architecture="BertForTokenClassification").parts[-1] == "classifier"
    assert checkpoint.read(target, architecture="BertForQuestionAnswering").parts[-1] == "qa"


def test_nvidias_vocabulary_is_larger_than_its_config_says(tmp_path):
    """run_pretraining.py: `config.vocab_size += 8 - (config.vocab_size % 8)`."""
    weights = random_weights(CONFIG.replace(vocab_size=64))
    source = write_folder(tmp_path / "source", weights, CONFIG.replace(vocab_size=64))
    convert(checkpoint.read(source), tmp_path / "nvidia" / "ckpt_1.pt", "nvidia")
    assert list(torch.load(tmp_path / "nvidia" / "ckpt_1.pt")) == ["model"]
    home(tmp_path / "nvidia", vocab_size=61)
    found = checkpoint.read(tmp_path / "nvidia" / "ckpt_1.pt")
    assert_holds(found, weights)
    assert found.config.vocab_size == 64
    assert "vocab_size is 64: the code of nvidia pads 61 to a multiple of 8" in found.notes
    home(tmp_path / "nvidia", vocab_size=55)
    with pytest.raises(checkpoint.NotWhole, match="word_embeddings.weight: found"):
        checkpoint.read(tmp_path / "nvidia" / "ckpt_1.pt")
    small = write_folder(tmp_path / "small", random_weights())
    notes = convert(checkpoint.read(small), tmp_path / "small.pt", "nvidia").notes
    assert "the code of nvidia needs a vocab_size that is a multiple of 8, but it is 61" in notes
