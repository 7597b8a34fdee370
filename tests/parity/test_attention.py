"""The attention of a text: that of transformers, in both frameworks; what the command draws, and what it refuses."""

import pickle
import struct
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ms_bert.commands import attention
from ms_bert.config import BertConfig
from ms_bert.errors import UserError
from ms_bert.framework import MindSpore
from pt_reference.framework import PyTorch
from tests.unit.bert import write_random

pytestmark = pytest.mark.slow
PACKAGES, PYTORCH = ("ms_bert", "pt_reference"), PyTorch()
CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=30,
)
TEXTS = ["the class works", "Déjà vu 🙂 東京", ("an object", "with a name"), ""]


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("bert")
    write_random(home, CONFIG, vocabulary)
    return home


@pytest.mark.parametrize("package", PACKAGES)
def test_the_attention_is_that_of_transformers(package, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    found = import_module(f"{package}.attention").load(folder, threads=1)(TEXTS)
    for text, mine in zip(TEXTS, found, strict=True):
        given = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        with torch.no_grad():
            theirs = model(**given, output_attentions=True).attentions
        assert mine["tokens"] == tokenizer.convert_ids_to_tokens(given["input_ids"][0])
        assert mine["attention"] == pytest.approx(torch.stack(theirs)[:, 0].numpy(), abs=2e-6)
        assert mine["attention"].dtype == np.float32


def test_a_graph_compiled_before_stays_one(folder):
    import mindspore

    from ms_bert.device import use_device

    use_device("CPU")
    import_module("ms_bert.attention").load(folder)(["the class"])
    assert mindspore.get_context("mode") == mindspore.GRAPH_MODE


def test_a_left_to_right_model_attends_to_no_later_token(vocabulary, tmp_path):
    write_random(tmp_path, CONFIG.replace(is_decoder=True), vocabulary)
    for package in PACKAGES:
        (found,) = import_module(f"{package}.attention").load(tmp_path)(["the class works"])
        assert (np.triu(found["attention"], 1) == 0).all() and (found["attention"][..., 0] > 0).all()


def test_a_loaded_model_can_be_pickled(folder):
    model = import_module("pt_reference.attention").load(folder)
    (mine,), (theirs,) = (one(["the class"]) for one in (model, pickle.loads(pickle.dumps(model))))
    assert mine["attention"].tobytes() == theirs["attention"].tobytes()


# The command


def run(folder, *arguments, framework=PYTORCH) -> int:
    return attention.main(framework, "attention", "", [str(folder), *map(str, arguments)])


@pytest.mark.parametrize("framework", [MindSpore(), PYTORCH], ids=["MindSpore", "PyTorch"])
def test_the_terminal_shows_what_each_token_attends_to_most(framework, folder, capsys):
    (found,) = import_module(f"{framework.package}.attention").load(folder)(["the class"])
    assert run(folder, "the class", "--layers", -1, 1, "--heads", 2, framework=framework) == 0
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["layer", "head", *found["tokens"]]
    for row, layer in zip(rows, (2, 0), strict=True):
        most = found["attention"][layer, 1].argmax(-1)
        assert row == [str(layer + 1), "2", *(found["tokens"][token] for token in most)]


def test_numbers_and_tokens_go_into_a_file(folder, tmp_path):
    assert run(folder, "an object", "a name", "--heads", 2, "--output", tmp_path / "a.npz") == 0
    (found,) = import_module("pt_reference.attention").load(folder)([("an object", "a name")])
    with np.load(tmp_path / "a.npz") as kept:
        assert kept["tokens"].tolist() == found["tokens"]
        assert kept["layers"].tolist() == [1, 2, 3] and kept["heads"].tolist() == [2]
        assert kept["attention"].tobytes() == np.ascontiguousarray(found["attention"][:, 1:]).tobytes()


@pytest.mark.drawn
@pytest.mark.parametrize("more", [(), ("--layers", 2, "--heads", 1)], ids=["all heads", "one head"])
def test_a_picture_has_a_square_for_each_head(more, folder, tmp_path):
    assert run(folder, "the class of $an$ object 東京", *more, "--output", tmp_path / "a.png") == 0
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert width == height if more else height > 1.3 * width  # 3 layers, 2 heads
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "no texts were given; write one, or the two of a pair."),
        (("a", "b", "c"), "3 texts were given; write one, or the two of a pair."),
        (("a", "--layers", 4), "--layers names 4, but the model has 3 layers; choose from 1 to 3, or from -3 to -1."),
        (("a", "--heads", 0), "--heads names 0, but the model has 2 heads; choose from 1 to 2"),
        (("class " * 40,), "tokens, but "),
        (("a", "--format", "png"), "--format png is for a file; name one with --output."),
        (("a", "--output", "a.jpg"), "ends in '.jpg', which is no format"),
        (("a", "--threads", 10**5), "--threads is 100000"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, words, folder, capsys):
    assert run(folder, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_what_no_model_can_be_asked_is_refused(folder, vocabulary, tmp_path):
    load = import_module("pt_reference.attention").load
    with pytest.raises(UserError, match="expected a text or a pair of texts"):
        load(folder)([("a", "b", "c")])
    with pytest.raises(UserError, match="a list is expected"):
        load(folder)("the class")
    with pytest.raises(UserError, match="threads is 0"):
        load(folder, threads=0)
    write_random(tmp_path, CONFIG.replace(type_vocab_size=1), vocabulary)
    with pytest.raises(UserError, match="type_vocab_size of .* is 1"):
        load(tmp_path)([("a", "b")])
    write_random(tmp_path, CONFIG.replace(vocab_size=20), vocabulary)
    with pytest.raises(UserError, match="but .* has word embeddings up to 19"):
        load(tmp_path)(["the class"])
