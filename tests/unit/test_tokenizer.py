"""WordPiece vocabularies: trained, read from files, kept; what does not fit BERT is refused."""

import dataclasses
import json

import pytest

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
