"""The token store holds exactly the tokenizer's ids, is kept while nothing changes, and is made whole or not at all."""

import dataclasses

import numpy as np
import pytest

from ms_bert.data import store as module
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import Column, open_store, split_sentences
from ms_bert.errors import UserError


def every(column):
    return column[np.arange(len(column))]


def sentences(split):
    """The ids of each sentence of each document."""
    tokens, starts, documents = every(split.tokens), every(split.sentences), every(split.documents)
    return [[tokens[starts[s] : starts[s + 1]].tolist() for s in range(a, b)] for a, b in zip(documents, documents[1:])]


def test_the_store_holds_every_sentence_of_every_document_in_order(store, text_options, vocabulary):
    expected = {"train": [], "held_out": []}
    for number, document in enumerate(Corpus(text_options).documents()):
        ids = [vocabulary.tokenizer.encode(s, add_special_tokens=False).ids for s in split_sentences(document)]
        expected["held_out" if number % 10 in (1, 3) else "train"].append([i for i in ids if i])
    assert sentences(store.train) == expected["train"]
    assert sentences(store.held_out) == expected["held_out"]
    counts = np.bincount(np.concatenate([np.concatenate(d) for d in expected["train"]]), minlength=vocabulary.size)
    assert (store.token_counts["train"] == counts).all()


def test_the_unigram_entropy_is_that_of_the_held_out_tokens(store):
    counts = store.token_counts["train"] + 1
    tokens = every(store.held_out.tokens)
    assert store.unigram_entropy == pytest.approx(-np.log(counts[tokens] / counts.sum()).mean())


def test_a_column_of_many_blocks_reads_as_one_array(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BITS", 4)
    rng = np.random.default_rng(0)
    values = np.sort(rng.integers(0, 1000, 1000)).astype(np.int64)
    writer = module._ColumnWriter(tmp_path / "a.arrow", "x", values.dtype)
    for part in np.split(values, np.sort(rng.integers(0, 1000, 30))):
        writer.append(part)
    writer.close()
    column = Column(tmp_path / "a.arrow")
    index = rng.integers(0, 1000, (7, 11))
    assert len(column) == 1000 and (column[index] == values[index]).all()
    asked = rng.integers(values[0], 1100, 500)
    assert (column.last_not_above(asked) == np.searchsorted(values, asked, side="right") - 1).all()


def test_any_arrow_reader_can_read_a_column(store):
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(store.folder / "train.tokens.arrow"))).read_all()
    assert (table["id"].to_numpy() == every(store.train.tokens)).all()


def test_the_number_of_processes_changes_nothing(store, text_options, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2000)
    options = dataclasses.replace(text_options, processes=3, cache=tmp_path)
    other, made = open_store(options, Corpus(options), vocabulary)
    assert made and other.fingerprint == store.fingerprint
    for name in ("tokens", "sentences", "documents"):
        assert (every(getattr(other.train, name)) == every(getattr(store.train, name))).all()


def test_a_store_is_kept_until_text_vocabulary_or_options_change(tmp_path, vocabulary, text_options):
    path = tmp_path / "a.txt"
    options = dataclasses.replace(text_options, corpus=(str(path),), cache=tmp_path / "cache")

    def made(options=options):
        return open_store(options, Corpus(options), vocabulary)[1]

    path.write_text("One.\nTwo.\n\nThree.\nFour.\n")
    assert made() and not made()
    assert made(dataclasses.replace(options, sentences="line"))
    assert made(dataclasses.replace(options, held_out=0.0))
    path.write_text("One.\nTwo.\n\nThree.\nFife.\n")
    assert made() and not made()
    path.rename(tmp_path / "b.txt")  # the same text under another name
    options = dataclasses.replace(options, corpus=(str(tmp_path / "b.txt"),))
    assert not made(options)


def test_what_a_killed_process_left_is_removed_and_made_again(tmp_path, vocabulary, text_options):
    options = dataclasses.replace(text_options, cache=tmp_path)
    left = tmp_path / "stores" / ".making-999999999"
    left.mkdir(parents=True)
    (left / "train.tokens.arrow").write_bytes(b"half")
    _, made = open_store(options, Corpus(options), vocabulary)
    assert made and not left.exists()


def test_a_damaged_store_is_named(tmp_path, vocabulary, text_options):
    options = dataclasses.replace(text_options, cache=tmp_path)
    made, _ = open_store(options, Corpus(options), vocabulary)
    path = made.folder / "train.tokens.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="train.tokens.arrow cannot be read .* remove its folder"):
        open_store(options, Corpus(options), vocabulary)


def test_an_empty_corpus_is_told(tmp_path, vocabulary, text_options):
    (tmp_path / "a.txt").write_text("\n\n")
    options = dataclasses.replace(text_options, corpus=(str(tmp_path / "a.txt"),), cache=tmp_path)
    with pytest.raises(UserError, match="holds no text"):
        open_store(options, Corpus(options), vocabulary)
    assert not list((tmp_path / "stores").iterdir())
