"""The token store holds exactly the tokenizer's ids, is kept while nothing changes, and is made whole or not at all."""

import dataclasses
import errno
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ms_bert.data import cache, columns, tokenizing
from ms_bert.data import store as module
from ms_bert.data.columns import Column
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.data.tokenizing import split_sentences
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
    monkeypatch.setattr(columns, "BLOCK_BITS", 4)
    rng = np.random.default_rng(0)
    values = np.sort(rng.integers(0, 1000, 1000)).astype(np.int64)
    writer = columns.ColumnWriter(tmp_path / "a.arrow", "x", values.dtype)
    for part in np.split(values, np.sort(rng.integers(0, 1000, 30))):
        writer.append(part)
    writer.close()
    column = Column(tmp_path / "a.arrow")
    index = rng.integers(0, 1000, (7, 11))
    assert len(column) == 1000 and (column[index] == values[index]).all()
    asked = rng.integers(values[0], 1100, 500)
    assert (column.last_not_above(asked) == np.searchsorted(values, asked, side="right") - 1).all()
    for first, end in ((0, 1000), (0, 0), (1000, 1000), (15, 17), (16, 32), (7, 9), (999, 1000), (3, 777)):
        assert (column.slice(first, end) == values[first:end]).all()


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


@pytest.fixture
def no_processes(monkeypatch):
    """Tokenize in this process: to start another one takes most of the time of a small store."""

    def here(chunks, tokenizer, sentences, kind, processes):
        return map(tokenizing.Tokenizing(tokenizer, sentences, kind), chunks)

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # it sets this, and is to leave nothing behind here
    monkeypatch.setattr(module, "tokenized", here)


@pytest.fixture
def options(tmp_path, corpus_file, text_options):
    """Of a corpus so small that its store is made at once."""
    (tmp_path / "small.txt").write_text(corpus_file.read_text(encoding="utf-8")[-20_000:], encoding="utf-8")
    return dataclasses.replace(text_options, corpus=(str(tmp_path / "small.txt"),), held_out=0.5, cache=tmp_path)


@pytest.mark.usefixtures("no_processes")
def test_what_a_killed_process_left_is_removed_and_made_again(tmp_path, vocabulary, options):
    stores = tmp_path / "stores"
    name = open_store(options, Corpus(options), vocabulary)[0].folder.name
    shutil.rmtree(stores)
    left = [stores / f".making-{name}-0123", stores / ".making-another-0123", stores / ".making-999999999"]
    at_work = stores / ".making-at_work-0123"
    for folder in (*left, at_work):
        folder.mkdir(parents=True)
        (folder / "train.tokens.arrow").write_bytes(b"half")
    with cache.locked(tmp_path / "locks" / "store-at_work", None) as held:
        assert held
        _, made = open_store(options, Corpus(options), vocabulary)
    assert made and sorted(path.name for path in stores.iterdir()) == [".making-at_work-0123", name]


@pytest.mark.usefixtures("no_processes")
def test_a_damaged_store_is_made_again_and_never_believed(tmp_path, vocabulary, options, capsys):
    store, _ = open_store(options, Corpus(options), vocabulary)
    files = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    assert len(files) == 7
    for name, content in files.items():
        path = store.folder / name
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        for damaged in (bytes(flipped), content[:-100]):
            path.write_bytes(damaged)
            again, made = open_store(options, Corpus(options), vocabulary)
            told = capsys.readouterr().err
            assert made and again.fingerprint == store.fingerprint
            assert name in told and "making it again" in told and told.count("\n") == 1
            assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == files
        path.unlink()
        assert open_store(options, Corpus(options), vocabulary)[1]
        capsys.readouterr()
    assert not open_store(options, Corpus(options), vocabulary)[1]
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("no_processes")
def test_a_store_description_that_is_no_description_is_made_again(tmp_path, vocabulary, options):
    path = open_store(options, Corpus(options), vocabulary)[0].folder / "store.json"
    for content in (b"[]", b"{}", b'{"sha256": 1}', b"[" * 100_000, b"null", b"\xff", b'{"fingerprint": "x"}'):
        path.write_bytes(content)
        assert open_store(options, Corpus(options), vocabulary)[1]


@pytest.mark.usefixtures("no_processes")
def test_a_store_under_the_name_of_another_is_made_again(tmp_path, vocabulary, options):
    other = dataclasses.replace(options, held_out=0.1)
    stores = [open_store(o, Corpus(o), vocabulary)[0] for o in (options, other)]
    shutil.rmtree(stores[0].folder)
    stores[1].folder.rename(stores[0].folder)
    store, made = open_store(options, Corpus(options), vocabulary)
    assert made and store.fingerprint == stores[0].fingerprint


@pytest.mark.usefixtures("no_processes")
def test_many_that_want_one_store_make_it_once(tmp_path, vocabulary, options, monkeypatch, capsys):
    corpus, times = Corpus(options), []
    write = module._write_splits
    monkeypatch.setattr(module, "_write_splits", lambda *arguments: (times.append(1), write(*arguments))[1])
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: open_store(options, corpus, vocabulary), range(24)))
    assert len(times) == 1 and sum(made for _, made in results) == 1
    assert len({store.fingerprint for store, _ in results}) == 1
    assert "another process is making the token store" in capsys.readouterr().err


@pytest.mark.usefixtures("no_processes")
def test_without_locks_the_first_that_is_done_wins(tmp_path, vocabulary, options, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)
    corpus, write = Corpus(options), module._write_splits
    inodes = []

    def write_while_another_does(*arguments):
        monkeypatch.setattr(module, "_write_splits", write)
        description = write(*arguments)
        inodes.append(open_store(options, corpus, vocabulary)[0].folder.stat().st_ino)
        return description

    monkeypatch.setattr(module, "_write_splits", write_while_another_does)
    store, made = open_store(options, corpus, vocabulary)
    assert made and [store.folder.stat().st_ino] == inodes
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [store.folder.name]


# Processes that tokenize


def test_a_process_that_is_killed_is_noticed_at_once(tmp_path, vocabulary, text_options, monkeypatch):
    options = dataclasses.replace(text_options, cache=tmp_path, processes=2)
    begun = []
    start = subprocess.Popen

    def popen(*arguments, **named):
        begun.append(start(*arguments, **named))
        return begun[-1]

    def documents(self):
        for number in range(40):
            if number == 20:
                begun[1].kill()
            yield ["A sentence. " * 5000]

    monkeypatch.setattr(tokenizing.subprocess, "Popen", popen)
    monkeypatch.setattr(Corpus, "documents", documents)
    with pytest.raises(UserError, match="was killed by signal 9, perhaps because memory ran out") as caught:
        open_store(options, Corpus(options), vocabulary)
    assert caught.value.exit_code == 1
    assert len(begun) == 2 and all(process.returncode is not None for process in begun)
    assert not list((tmp_path / "stores").iterdir())


def test_a_script_without_a_main_guard_can_make_a_store(tmp_path, corpus_file):
    script = tmp_path / "script.py"
    script.write_text(
        f"""print("begun")
from pathlib import Path
from ms_bert.data import store, tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.options import TextOptions

options = TextOptions(corpus=({str(corpus_file)!r},), vocab_size=300, processes=2, cache=Path({str(tmp_path)!r}))
corpus = Corpus(options)
print(store.open_store(options, corpus, tokenizer.vocabulary(options, corpus))[1])
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "begun\nTrue\n"), done.stderr


def test_an_empty_corpus_is_told(tmp_path, vocabulary, text_options):
    (tmp_path / "a.txt").write_text("\n\n")
    options = dataclasses.replace(text_options, corpus=(str(tmp_path / "a.txt"),), cache=tmp_path)
    with pytest.raises(UserError, match="holds no text"):
        open_store(options, Corpus(options), vocabulary)
    assert not list((tmp_path / "stores").iterdir())
