"""WordPiece vocabularies: trained, read from files, kept; what does not fit BERT is refused."""

import dataclasses
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer, models

from ms_bert.data import tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.errors import UserError
from ms_bert.options import TextOptions

VOCAB = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] the cat ##s sat , . 我 你 un ##believ ##able cafe Café".split()


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return path


def tokens(vocabulary, text):
    return vocabulary.tokenizer.encode(text, add_special_tokens=False).tokens


def test_a_vocab_txt_tokenizes_as_bert_does(vocab_txt):
    vocabulary = tokenizer.load(vocab_txt)
    assert tokens(vocabulary, "The cats, sat.") == ["the", "cat", "##s", ",", "sat", "."]
    assert tokens(vocabulary, "我你unbelievable\u0000") == ["我", "你", "un", "##believ", "##able"]
    assert tokens(vocabulary, "Café xyz") == ["cafe", "[UNK]"]
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (0, 2, 3, 4, 5)
    assert vocabulary.size == len(VOCAB)
    assert [VOCAB[i] for i in vocabulary.continues_word.nonzero()[0]] == ["##s", "##believ", "##able"]


def test_cased_keeps_case_and_accents(vocab_txt):
    assert tokens(tokenizer.load(vocab_txt, cased=True), "Café The") == ["Café", "[UNK]"]


@pytest.mark.parametrize("capitals, expected", [(99, "paris"), (100, "Paris")])
def test_a_vocabulary_with_capitals_is_one_of_text_that_was_not_lowercased(capitals, expected, tmp_path):
    """Google's cased checkpoints have no tokenizer_config.json."""
    others = [f"Name{i}" for i in range(capitals - 1)] + [f"[UNUSED{i}]" for i in range(200)]
    (tmp_path / "vocab.txt").write_text("\n".join([*tokenizer.SPECIAL_TOKENS, "paris", "Paris", *others]) + "\n")
    assert tokens(tokenizer.load(tmp_path), "Paris") == [expected]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": None},
        {"tokenize_chinese_chars": False},
    ],
)
def test_a_vocab_txt_cleans_up_as_the_tokenizer_config_beside_it_says(vocab_txt, said):
    transformers = pytest.importorskip("transformers")
    (vocab_txt.parent / "tokenizer_config.json").write_text(json.dumps(said))
    given = {name: value for name, value in said.items() if value is not None}
    theirs = transformers.BertTokenizer(str(vocab_txt), **given)
    for place in (vocab_txt, vocab_txt.parent):
        for text in ("The Café cafe", "THE cats 我你"):
            assert tokens(tokenizer.load(place), text) == theirs.tokenize(text)
    assert tokens(tokenizer.load(vocab_txt, cased=True), "Café The") == ["Café", "[UNK]"]


@pytest.mark.parametrize(
    "said",
    [
        {"do_lower_case": False},
        {"strip_accents": False, "tokenizer_class": "BertTokenizerFast"},
        {"tokenize_chinese_chars": False, "tokenizer_class": "BertTokenizer"},
        {"do_lower_case": False, "tokenizer_class": None},
    ],
)
def test_what_a_tokenizer_config_says_goes_before_a_tokenizer_json(vocab_txt, said, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "tokenizer.json").write_text(tokenizer.load(vocab_txt).to_json(), encoding="utf-8")
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "hub" / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    for text in ("The Café cafe", "THE cats 我你"):
        assert tokens(tokenizer.load(tmp_path / "hub"), text) == theirs.tokenize(text)
    (tmp_path / "hub" / "tokenizer_config.json").write_text(json.dumps({**said, "tokenizer_class": "Another"}))
    assert tokens(tokenizer.load(tmp_path / "hub"), "THE Café 我你") == ["the", "cafe", "我", "你"]


ADDED = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


@pytest.mark.parametrize(
    "beside, said",
    [
        ({"[E1]": len(VOCAB), "newword": len(VOCAB) + 1}, {}),
        ({}, {"added_tokens_decoder": {str(len(VOCAB)): {"content": "[E1]", **ADDED}}}),
        ({"[E1]": len(VOCAB), "[E2]": len(VOCAB) + 1}, {"additional_special_tokens": ["[E1]", "[E2]"]}),
        ({}, {"additional_special_tokens": ["[unused0]", {"__type": "AddedToken", "content": "believ"}]}),
    ],
)
def test_tokens_that_were_added_to_a_vocab_txt_are_known(vocab_txt, beside, said, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = vocab_txt.parent
    if beside:
        (folder / "added_tokens.json").write_text(json.dumps(beside))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **said}))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), tokenizer.load(folder)
    texts = ("the [E1] cat [E2] sat", "the newword sat", "The NEWWORD", "[unused0] sat")
    for text in texts:
        assert tokens(ours, text) == theirs.tokenize(text)
        assert ours.tokenizer.encode(text).ids == theirs(text)["input_ids"]
    # A tokenizer.json need not have them.
    (tmp_path / "plain").mkdir()
    plain = tokenizer.load(vocab_txt.rename(tmp_path / "plain" / "vocab.txt"))
    (folder / "tokenizer.json").write_text(plain.to_json(), encoding="utf-8")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), tokenizer.load(folder)
    for text in texts:
        assert tokens(ours, text) == theirs.tokenize(text)


def test_a_special_token_that_has_no_id_is_left_alone(vocab_txt):
    """The embeddings of its model need not have a place for it."""
    (vocab_txt.parent / "tokenizer_config.json").write_text('{"additional_special_tokens": ["[E1]"]}')
    assert tokenizer.load(vocab_txt).size == len(VOCAB)


def test_special_tokens_of_older_versions_are_not_split(vocab_txt):
    (vocab_txt.parent / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[unused0]"]}')
    assert tokens(tokenizer.load(vocab_txt), "the [unused0] sat") == ["the", "[unused0]", "sat"]


@pytest.mark.parametrize(
    "beside, words",
    [
        ({"[E1]": 99}, "'[E1]' was added to .*vocab.txt as 99, but its ids go up to 18; restore"),
        ({"[E1]": "one"}, "added_tokens.json is damaged"),
        ({"[E1]": None}, "added_tokens.json is damaged"),
    ],
)
def test_added_tokens_that_do_not_follow_the_vocabulary_are_told(vocab_txt, beside, words):
    (vocab_txt.parent / "added_tokens.json").write_text(json.dumps(beside))
    with pytest.raises(UserError, match=words.replace("[E1]", r"\[E1\]")):
        tokenizer.load(vocab_txt)


def test_no_added_token_takes_the_id_of_another_one(vocab_txt):
    vocab_txt.write_text(vocab_txt.read_text().replace("[unused0]\n", "\n"))  # a gap among the ids
    (vocab_txt.parent / "added_tokens.json").write_text(json.dumps({"[E1]": len(VOCAB)}))
    with pytest.raises(UserError, match="its ids go up to 18 with gaps; restore"):
        tokenizer.load(vocab_txt)


@pytest.mark.parametrize("text", ["[]", "{", '{"do_lower_case": "no"}', "[" * 100_000, "null"])
def test_a_damaged_tokenizer_config_is_told(vocab_txt, text):
    (vocab_txt.parent / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match="tokenizer_config.json"):
        tokenizer.load(vocab_txt)


def test_special_tokens_in_the_text_are_not_split(vocab_txt):
    assert tokens(tokenizer.load(vocab_txt), "the [MASK] sat") == ["the", "[MASK]", "sat"]


def test_a_vocabulary_survives_both_its_files(vocab_txt, tmp_path):
    vocabulary = tokenizer.load(vocab_txt)
    assert vocabulary.to_vocab_txt() == vocab_txt.read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(vocabulary.to_json(), encoding="utf-8")
    again = tokenizer.load(tmp_path)
    assert again.fingerprint() == vocabulary.fingerprint()


def test_training_gives_the_asked_size_and_the_same_vocabulary_every_time(text_options, vocabulary, tmp_path):
    again = tokenizer.vocabulary(dataclasses.replace(text_options, cache=tmp_path), Corpus(text_options))
    assert again.size == 600 and again.fingerprint() == vocabulary.fingerprint()
    assert again.to_vocab_txt().splitlines()[:5] == list(tokenizer.SPECIAL_TOKENS)


def test_a_trained_vocabulary_is_kept_and_another_corpus_gets_its_own(tmp_path):
    def train(text):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        options = TextOptions(corpus=(str(tmp_path / "a.txt"),), vocab_size=100, cache=tmp_path / "cache")
        return tokenizer.vocabulary(options, Corpus(options))

    first = train("some words and some more words")
    kept = list((tmp_path / "cache" / "vocabularies").iterdir())
    train("some words and some more words")
    assert list((tmp_path / "cache" / "vocabularies").iterdir()) == kept
    assert train("quite other text").fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    "content, words",
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"has no \[MASK\]"),
        ("the\ncat\n", r"has no \[UNK\]"),
        (b"\xff\xfe", "cannot be read as a vocab.txt"),
    ],
)
def test_a_vocabulary_that_is_none_of_bert_is_refused(tmp_path, content, words):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        tokenizer.load(path)


def test_a_vocabulary_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="neither tokenizer.json nor vocab.txt"):
        tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="there is no vocabulary"):
        tokenizer.load(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer.json"):
        tokenizer.load(tmp_path)


def test_a_chinese_corpus_gets_its_characters(tmp_path):
    characters = "".join(chr(0x4E00 + i) for i in range(1500))
    (tmp_path / "a.txt").write_text("\n\n".join([characters] * 3), encoding="utf-8")
    options = TextOptions(corpus=(str(tmp_path / "a.txt"),), vocab_size=4000, cache=tmp_path / "cache")
    vocabulary = tokenizer.vocabulary(options, Corpus(options))
    assert tokens(vocabulary, characters) == list(characters)


def test_a_corpus_without_text_cannot_train_a_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    options = TextOptions(corpus=(str(tmp_path / "a.txt"),), cache=tmp_path / "cache")
    with pytest.raises(UserError, match="holds no text"):
        tokenizer.vocabulary(options, Corpus(options))


@pytest.mark.parametrize("begin, end", [("", "\r\n"), ("\ufeff", "\n"), ("\ufeff", "\r\n")])
def test_line_ends_and_a_byte_order_mark_of_windows_change_nothing(tmp_path, vocab_txt, begin, end):
    path = tmp_path / "other.txt"
    path.write_bytes((begin + "".join(token + end for token in VOCAB)).encode())
    assert tokenizer.load(path).fingerprint() == tokenizer.load(vocab_txt).fingerprint()


def test_empty_and_repeated_lines_keep_the_ids_of_the_others(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*VOCAB, "", "the", "dog"]), encoding="utf-8")
    entries = tokenizer.load(path).tokenizer.get_vocab()
    assert (entries["dog"], entries["the"], entries["cat"]) == (len(VOCAB) + 2, len(VOCAB) + 1, 7)  # as in Google's


def _changed(**changes) -> str:
    """A tokenizer.json of BERT's with other fields."""
    made = json.loads(tokenizer.Vocabulary(_of_kind(_bert()), "").to_json())
    for name, value in changes.items():
        made[name] = value if not isinstance(value, dict) else {**made[name], **value}
    return json.dumps(made)


def _bert() -> models.WordPiece:
    return models.WordPiece({token: i for i, token in enumerate(VOCAB)}, unk_token="[UNK]")


def _of_kind(model) -> Tokenizer:
    made = Tokenizer(model)
    made.add_special_tokens(list(tokenizer.SPECIAL_TOKENS))
    return made


TOKENIZERS = {
    "BPE": (lambda: _of_kind(models.BPE()).to_str(), "is a BPE tokenizer, but BERT uses WordPiece"),
    "Unigram": (
        lambda: _of_kind(models.Unigram([("a", 0.0)], 0)).to_str(),
        "is a Unigram tokenizer, but BERT uses WordPiece",
    ),
    "WordLevel": (
        lambda: _of_kind(models.WordLevel({"a": 0}, "a")).to_str(),
        "is a WordLevel tokenizer, but BERT uses WordPiece",
    ),
    "another continuation": (lambda: _changed(model={"continuing_subword_prefix": "@@"}), "and '@@' where BERT's"),
    "another unknown": (lambda: _changed(model={"unk_token": "the"}), "uses 'the' and"),
    "far id": (
        lambda: _changed(model={"vocab": {t: i for i, t in enumerate(VOCAB)} | {"far": 4_000_000_000}}),
        "the id 4000000000",
    ),
    "no vocabulary": (lambda: _changed(model={"vocab": {}}), r"has no \[UNK\]"),
    "unknown only added": (lambda: _of_kind(models.WordPiece({"a": 0}, unk_token="[UNK]")).to_str(), r"has no \[UNK\]"),
    "negative id": (lambda: _changed(model={"vocab": {"[PAD]": -1}}), "is not a tokenizer.json"),
    "a list": (lambda: "[]", "is not a tokenizer.json"),
    "null": (lambda: "null", "is not a tokenizer.json"),
    "nested": (lambda: "[" * 100_000, "is not a tokenizer.json"),
    "cut": (lambda: _changed()[:-10], "is not a tokenizer.json"),
    "another version": (lambda: _changed(version="9.0"), "is not a tokenizer.json"),
    "control characters": (lambda: _changed(model={"type": "\x1b[31m\n"}), "is not a tokenizer.json"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_is_none_of_bert_is_refused_in_one_sentence(tmp_path, case):
    make, words = TOKENIZERS[case]
    path = tmp_path / "tokenizer.json"
    path.write_text(make(), encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        tokenizer.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_what_is_no_file_of_a_vocabulary_is_refused_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "vocab.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for name in ("vocab.txt", "loop.txt"):
        with pytest.raises(UserError, match="there is no vocabulary"):
            tokenizer.load(tmp_path / name)
    with open(tmp_path / "large.txt", "wb") as file:
        file.truncate(tokenizer.LARGEST_FILE + 1)
    with pytest.raises(UserError, match="has more than 100,000,000 bytes"):
        tokenizer.load(tmp_path / "large.txt")


def _trained(tmp_path) -> tuple[TextOptions, tokenizer.Vocabulary]:
    (tmp_path / "a.txt").write_text("some words and some more words")
    options = TextOptions(corpus=(str(tmp_path / "a.txt"),), vocab_size=100, cache=tmp_path / "cache")
    return options, tokenizer.vocabulary(options, Corpus(options))


def test_a_damaged_vocabulary_in_the_cache_is_trained_again(tmp_path, capsys):
    options, vocabulary = _trained(tmp_path)
    (kept,) = (tmp_path / "cache" / "vocabularies").iterdir()
    content = kept.read_bytes()
    other = content.replace(b"words", b"wards")
    for damaged in (other, content[:-5], b"", b"{}", b"null", b"[" * 100_000, vocabulary.to_json().encode()):
        kept.write_bytes(damaged)
        assert tokenizer.vocabulary(options, Corpus(options)).fingerprint() == vocabulary.fingerprint()
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.endswith("is damaged, or another version wrote it; making it again.\n")
        assert kept.read_bytes() == content


def test_many_that_want_one_vocabulary_train_it_once(tmp_path, monkeypatch, capsys):
    times, train = [], tokenizer._train
    monkeypatch.setattr(
        tokenizer, "_train", lambda *arguments: (times.append(1), time.sleep(0.1), train(*arguments))[-1]
    )
    (tmp_path / "a.txt").write_text("some words and some more words")
    options = TextOptions(corpus=(str(tmp_path / "a.txt"),), vocab_size=100, cache=tmp_path / "cache")
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda _: tokenizer.vocabulary(options, Corpus(options)).fingerprint(), range(6)))
    assert len(times) == 1 and len(set(made)) == 1
    assert "another process is making the vocabulary" in capsys.readouterr().err


def test_words_without_an_end_do_not_keep_the_trainer(monkeypatch):
    text = "short words\n" + "x" * 25 + " and more " + "y" * 10
    monkeypatch.setattr(tokenizer, "LONGEST_PIECE", 10)
    monkeypatch.setattr(tokenizer, "_PIECE", re.compile(tokenizer._PIECE.pattern.replace("10000", "10")))
    assert list(tokenizer._pieces(text)) == ["short", "words", "x" * 10, "x" * 10, "xxxxx and", "more", "y" * 10]
