"""The parts that several machines make of a corpus are merged to the very bytes of the store that one makes."""

import dataclasses
import random
import shutil

import pytest

from ms_bert.data import columns, tokenizing
from ms_bert.data import store as module
from ms_bert.data.corpus import Corpus, _dealt
from ms_bert.data.store import open_part, open_store
from ms_bert.errors import UserError
from ms_bert.options import TextOptions, TokenizeOptions
from ms_bert.tokenize import main


@pytest.fixture
def options(tmp_path, corpus_file, text_options, monkeypatch) -> TextOptions:
    """Of seven files, one without text, which this process tokenizes."""

    def here(chunks, tokenizer, sentences, kind, processes):
        return map(tokenizing.Tokenizing(tokenizer, sentences, kind), chunks)

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # it sets this, and is to leave nothing behind here
    monkeypatch.setattr(module, "tokenized", here)
    documents = corpus_file.read_text(encoding="utf-8").split("\n\n")
    folder = tmp_path / "text"
    folder.mkdir()
    for number, ends in enumerate((0, 1, 4, 5, 9, 10, 24)):
        begin = (0, 0, 1, 4, 5, 9, 10)[number]
        text = "\n\n".join(documents[begin:ends])
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return dataclasses.replace(text_options, corpus=(str(folder),), cache=tmp_path / "cache")


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_parts_are_merged_to_the_bytes_of_one_machine(tmp_path, vocabulary, options, monkeypatch, shards):
    # Small ones, so that there are many of both.
    monkeypatch.setattr(columns, "BLOCK_BITS", 6)
    monkeypatch.setattr(module, "_PIECE", 1000)
    corpus = Corpus(options)
    apart = dataclasses.replace(options, cache=tmp_path / "apart")
    for shard in range(shards, 0, -1):
        part, made = open_part(apart, corpus, vocabulary, shard, shards)
        assert made and part.folder.parent == apart.cache / "parts"
        assert not open_part(apart, corpus, vocabulary, shard, shards)[1]
    store, made = open_store(apart, corpus, vocabulary, shards)
    assert made and store.folder.parent == apart.cache / "stores"
    whole, _ = open_store(options, corpus, vocabulary)
    assert contents(store.folder) == contents(whole.folder) and store.folder.name == whole.folder.name
    # A run finds it, whoever made it.
    assert not open_store(apart, corpus, vocabulary)[1]


def test_another_share_is_held_out_of_the_same_parts(tmp_path, vocabulary, options):
    corpus = Corpus(options)
    for shard in (1, 2):
        open_part(options, corpus, vocabulary, shard, 2)
    for held_out in (0.0, 0.5):
        chosen = dataclasses.replace(options, held_out=held_out)
        merged = contents(open_store(chosen, corpus, vocabulary, 2)[0].folder)
        alone = dataclasses.replace(chosen, cache=tmp_path / f"alone-{held_out}")
        assert merged == contents(open_store(alone, corpus, vocabulary)[0].folder)


def test_a_part_that_is_missing_or_damaged_or_of_another_text_is_told(tmp_path, vocabulary, options):
    corpus = Corpus(options)
    parts = [open_part(options, corpus, vocabulary, shard, 3)[0].folder for shard in (1, 2, 3)]
    shutil.rmtree(parts[1])
    with pytest.raises(UserError, match=f"shard 2/3 is missing: there is no {parts[1]}; make it with --shard 2/3"):
        open_store(options, corpus, vocabulary, 3)
    with pytest.raises(UserError, match="shard 1/2 is missing"):
        open_store(options, corpus, vocabulary, 2)
    shutil.copytree(parts[0], parts[1])
    with pytest.raises(UserError, match="shard 2/3 is missing: the part of a token store .* does not match its name"):
        open_store(options, corpus, vocabulary, 3)
    shutil.rmtree(parts[1])
    open_part(options, corpus, vocabulary, 2, 3)
    file = parts[1] / "part.tokens.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="part.tokens.arrow of the part of a token store is damaged; make it with"):
        open_store(options, corpus, vocabulary, 3)
    assert not list((tmp_path / "cache" / "stores").glob("[!.]*"))
    assert open_part(options, corpus, vocabulary, 2, 3)[1] and open_store(options, corpus, vocabulary, 3)[1]
    path = tmp_path / "text" / "6.txt"
    path.write_text(path.read_text() + "More.\n")
    with pytest.raises(UserError, match="shard 3/3 is missing"):
        open_store(options, Corpus(options), vocabulary, 3)


def test_shards_are_files_in_a_row_of_about_equal_size():
    rng = random.Random(1)
    for _ in range(200):
        sizes = [rng.choice((0, 1, 5, 100)) * rng.random() for _ in range(rng.randrange(1, 40))]
        count = rng.randrange(1, len(sizes) + 1)
        dealt = _dealt(sizes, count)
        assert [at for shard in dealt for at in shard] == list(range(len(sizes)))
        assert len(dealt) == count and all(dealt)
    assert _dealt([1.0] * 12, 4) == [range(0, 3), range(3, 6), range(6, 9), range(9, 12)]
    assert _dealt([9.0, 1.0, 1.0, 1.0], 2) == [range(0, 1), range(1, 4)]
    assert _dealt([0.0, 0.0, 0.0], 3) == [range(0, 1), range(1, 2), range(2, 3)]


def test_the_command_makes_parts_and_merges_them(tmp_path, vocabulary, options, capsys):
    shared = ["--corpus", *options.corpus, "--cache", str(options.cache), "--processes", "1"]
    words = tmp_path / "new" / "tokenizer.json"
    assert main([*shared, "--vocab-size", "600", "--save-vocab", str(words)]) == 0
    assert words.read_text() == vocabulary.to_json()
    assert "corpus" in capsys.readouterr().out
    shared += ["--vocab", str(words), "--held-out", "0.1"]
    assert [main([*shared, "--shard", f"{shard}/2"]) for shard in (1, 2)] == [0, 0]
    told = capsys.readouterr().out
    assert "shard 1/2: " in told and "shard 2/2: " in told and told.count("made in") == 2
    assert main([*shared, "--merge", "2"]) == 0 and "made in" in capsys.readouterr().out
    assert main(shared) == 0 and "kept in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, told",
    [
        ({"shard": "1/2"}, "--shard needs a vocabulary"),
        ({"shard": "1/2", "merge": 2}, "--shard and --merge are both given"),
        *(({"shard": text, "vocab": True}, "choose I/N") for text in ("0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "")),
    ],
)
def test_options_that_do_not_go_together(text_options, corpus_file, given, told):
    text = dataclasses.replace(text_options, vocab=corpus_file if given.pop("vocab", None) else None)
    with pytest.raises(UserError, match=told):
        TokenizeOptions(text, **given)


def test_more_shards_than_files_are_refused(tmp_path, vocabulary, options, capsys):
    with pytest.raises(UserError, match="has 7 files, fewer than 8 shards"):
        open_part(options, Corpus(options), vocabulary, 1, 8)
    words = tmp_path / "tokenizer.json"
    words.write_text(vocabulary.to_json())
    arguments = ["--corpus", *options.corpus, "--cache", str(options.cache), "--vocab", str(words), "--shard", "1/8"]
    assert main(arguments) == 2
    assert "fewer than 8 shards" in capsys.readouterr().err


def test_a_folder_is_no_file_for_a_vocabulary(tmp_path, options, capsys):
    assert main(["--corpus", *options.corpus, "--cache", str(options.cache), "--save-vocab", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err and not (options.cache / "vocabularies").exists()
