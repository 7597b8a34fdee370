"""Documents come out of every kind of file alike, and a file that cannot be read is named."""

import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest

from ms_bert.data import builtin
from ms_bert.data import corpus as module
from ms_bert.data.corpus import Corpus
from ms_bert.data.tokenizing import split_sentences
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

DOCUMENTS = [["The first line.", "A second one."], ["我来到北京。", "Here alone"]]
PLAIN = "\n".join("\n".join(document) + "\n" for document in DOCUMENTS)


def read(cache, *corpus, **options):
    return list(Corpus(TextOptions(corpus=tuple(map(str, corpus)), cache=cache, **options)).documents())


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.txt", lambda path: path.write_text(PLAIN, encoding="utf-8")),
        ("bom-and-crlf.txt", lambda path: path.write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())),
        ("a.txt.gz", lambda path: path.write_bytes(gzip.compress(PLAIN.encode()))),
        ("a.txt.xz", lambda path: path.write_bytes(lzma.compress(PLAIN.encode()))),
        ("a.jsonl", lambda path: path.write_text(_records())),
        ("a.jsonl.gz", lambda path: path.write_bytes(gzip.compress(_records().encode()))),
        ("a.jsonl.xz", lambda path: path.write_bytes(lzma.compress(_records().encode()))),
        ("a.parquet", lambda path: pa.parquet.write_table(pa.table({"text": ["\n".join(d) for d in DOCUMENTS]}), path)),
    ],
)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name, write):
    write(tmp_path / name)
    assert read(tmp_path / "cache", tmp_path / name) == DOCUMENTS


def _records():
    return "".join(json.dumps({"text": "\n".join(document), "id": i}) + "\n" for i, document in enumerate(DOCUMENTS))


def test_what_ends_a_document_can_be_chosen(tmp_path):
    (tmp_path / "a.txt").write_text(PLAIN, encoding="utf-8")
    flat = sum(DOCUMENTS, [])
    assert read(tmp_path, tmp_path / "a.txt", documents="line") == [[line] for line in flat]
    assert read(tmp_path, tmp_path / "a.txt", documents="file") == [flat]


def test_globs_and_folders_give_files_in_a_fixed_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).write_text(name)
    assert read(tmp_path / "cache", f"{tmp_path}/*.txt") == [["a.txt"], ["b.txt"]]
    assert read(tmp_path / "cache", f"{tmp_path}/**/*.txt") == [["a.txt"], ["b.txt"], ["sub/c.txt"]]
    assert read(tmp_path / "cache", tmp_path) == [["a.txt"], ["b.txt"], ["sub/c.txt"]]


def test_another_field_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x y"}\n{"body": null}\n')
    assert read(tmp_path, tmp_path / "a.jsonl", text_field="body") == [["x y"]]
    with pytest.raises(UserError, match="no field 'text' .its fields: body"):
        read(tmp_path, tmp_path / "a.jsonl")


def test_a_dataset_of_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    asked = {}

    def load_dataset(path, **arguments):
        asked.update(path=path, **arguments)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["one\ntwo"]}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read(tmp_path, "org/some-text:v1.0") == [["one", "two"]]
    assert asked == {"path": "org/some-text", "name": "v1.0"}


@pytest.mark.parametrize(
    "name, words",
    [
        ("no/such/*.txt", "no file matches"),
        ("missing.txt", "no file matches"),
        ("missing.jsonl.gz", "no file matches"),
    ],
)
def test_a_wrong_path_is_told_at_once(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, name)


def test_a_name_that_is_neither_file_nor_dataset_is_told(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no file 'no-such-corpus', and no Hugging Face dataset of this name"):
        read(tmp_path, "no-such-corpus")


# The tests go by the names: compressed bytes hold the time, and pytest's workers must name a test alike.
UNREADABLE = {
    "a.pdf": (b"%PDF", "unknown ending"),
    "latin.txt": ("caf\xe9 na\xefve".encode("latin-1"), "not UTF-8"),
    "cut.txt.gz": (gzip.compress(b"some text " * 1000)[:-20], "cannot be read to its end"),
    "cut.txt.xz": (lzma.compress(b"some text " * 1000)[:-20], "cannot be read to its end"),
    "not.txt.gz": (b"plain", "cannot be read to its end"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": ', "broken.jsonl"),
    "broken.parquet": (b"PAR1 nothing", "broken.parquet"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    content, words = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path / "cache", tmp_path / name)
    assert name in str(caught.value)


def test_text_without_blank_lines_does_not_become_one_endless_document(tmp_path):
    (tmp_path / "a.txt").write_text("a line of text\n" * 200_000)
    documents = read(tmp_path, tmp_path / "a.txt")
    assert len(documents) > 1 and sum(map(len, documents)) == 200_000


@pytest.mark.parametrize("obstacle", ["a file", "a folder"])
def test_a_cache_that_cannot_be_used_is_not_blamed_on_the_text(obstacle, tmp_path, monkeypatch):
    """Else a user is told to remove the corpus."""
    monkeypatch.setattr(module, "_HASH_AGAIN", 10)
    corpus, cache = tmp_path / "a.txt", tmp_path / "cache"
    corpus.write_text("Some text that is longer.\n")
    if obstacle == "a file":  # where hashes are to be kept
        cache.mkdir()
        (cache / "hashes").write_text("")
    else:  # where the file of this one is to be
        digest = Corpus(TextOptions(corpus=(str(corpus),), cache=cache)).fingerprint()
        (kept,) = (cache / "hashes").iterdir()
        kept.unlink()
        kept.mkdir()
        assert digest
    with pytest.raises(UserError, match=f"the cache {cache} cannot be used .* name another folder with --cache"):
        Corpus(TextOptions(corpus=(str(corpus),), cache=cache)).fingerprint()


def test_the_hash_of_a_large_file_is_remembered_and_a_damaged_one_is_not_believed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_HASH_AGAIN", 10)
    (tmp_path / "a.txt").write_text("some words of text")
    corpus = Corpus(TextOptions(corpus=(str(tmp_path / "a.txt"),), cache=tmp_path / "cache"))
    fingerprint = corpus.fingerprint()
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    content = kept.read_bytes()
    monkeypatch.setattr(module, "file_hash", lambda path: pytest.fail("it is not hashed again"))
    assert corpus.fingerprint() == fingerprint
    monkeypatch.undo()
    monkeypatch.setattr(module, "_HASH_AGAIN", 10)
    assert not capsys.readouterr().err
    flipped = content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]
    for damaged in (flipped, content[:-3], b"", b"null", b"[" * 100_000, fingerprint[0][1].encode()):
        kept.write_bytes(damaged)
        assert corpus.fingerprint() == fingerprint
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.endswith("a.txt again.\n")
        assert "is damaged, or another version wrote it; hashing " in told
        assert kept.read_bytes() == content


def test_running_text_is_split_into_sentences_in_english_and_chinese():
    assert split_sentences(
        ['Mr. Smith paid $3.50 (e.g. for tea). "What?" she said. It works!', "我来到北京。“你好！”他说。价格3.5元。"]
    ) == [
        "Mr. Smith paid $3.50 (e.g. for tea).",
        '"What?" she said.',
        "It works!",
        "我来到北京。",
        "“你好！”",
        "他说。",
        "价格3.5元。",
    ]


def test_the_builtin_corpus_is_prose_and_the_same_every_time():
    text = """Return the mean.

    Parameters
    ----------
    x : array of the values that are averaged here

    >>> mean([1, 2])
    1.5

    See :func:`numpy.median` for a `robust` measure of the same thing.
    """
    assert builtin.prose(text) == [
        "Parameters x : array of the values that are averaged here",
        "See numpy.median for a robust measure of the same thing.",
    ]
    first, second = (list(_first(builtin.documents(), 60)) for _ in range(2))
    assert first == second
    assert all(len(" ".join(document)) >= 200 for document in first)


def _first(items, count):
    return (item for _, item in zip(range(count), items))
