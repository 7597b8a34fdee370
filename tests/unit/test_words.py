"""Words among tokens: pieces, Chinese words of a segmenter, terms of a dictionary; each is masked whole."""

import dataclasses

import numpy as np
import pytest

from ms_bert.data import tokenizer
from ms_bert.data.masking import mask
from ms_bert.data.tokenizer import SPECIAL_TOKENS, Vocabulary
from ms_bert.data.words import Words
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions

TOKENS = [
    *SPECIAL_TOKENS,
    *"我来到北京清华大学研究生命起源。",
    *("the", "heart", "attack", "##er", "##s", "of", "heart", "aort", "##a"),
]
CHINESE = "我来到北京清华大学。研究生命起源"
WHOLE = ExampleOptions(seq_length=32, masking="whole-word")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Vocabulary:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in dict.fromkeys(TOKENS)))
    return tokenizer.load(path)


def words_of(text: str, vocabulary, options) -> list[str]:
    """The words of a text, its tokens joined by +."""
    ids = np.array([[vocabulary.cls, *vocabulary.tokenizer.encode(text, add_special_tokens=False).ids, vocabulary.sep]])
    maskable = np.ones(ids.shape, bool)
    maskable[:, [0, -1]] = False
    continues = Words(vocabulary, options).continues(ids, maskable)[0]
    assert not continues[0] and not continues[-1]
    made: list[str] = []
    for number, more in zip(ids[0, 1:-1].tolist(), continues[1:-1].tolist()):
        token = vocabulary.tokenizer.id_to_token(number)
        made = [*made[:-1], f"{made[-1]}+{token}"] if more else [*made, token]
    return made


def test_pieces_are_words_by_default_and_chinese_characters_are_alone(small):
    assert words_of("the attackers of aorta", small, WHOLE) == ["the", "attack+##er+##s", "of", "aort+##a"]
    assert words_of(CHINESE, small, WHOLE) == list(CHINESE)


def test_a_segmenter_finds_chinese_words(small):
    options = dataclasses.replace(WHOLE, segmenter="rjieba")
    found = words_of(f"the {CHINESE} attackers", small, options)
    expected = ["我", "来+到", "北+京", "清+华+大+学", "。", "研+究", "生+命", "起+源"]
    assert found == ["the", *expected, "attack+##er+##s"]


def test_terms_of_a_dictionary_are_words(small, tmp_path):
    (tmp_path / "terms.txt").write_text("heart attack\n研究生\nheart\n\n鬼 attack\n清华\nof the heart attack\n")
    options = dataclasses.replace(WHOLE, dictionary=tmp_path / "terms.txt")
    assert words_of("the heart attack of heart attackers", small, options) == [
        "the",
        "heart+attack",
        "of",
        "heart",
        "attack+##er+##s",  # the term would end inside a word
    ]
    assert words_of("of the heart attack", small, options) == ["of+the+heart+attack"]  # the longest
    both = dataclasses.replace(options, segmenter="rjieba")
    assert words_of(CHINESE, small, both)[3:] == ["清+华", "大+学", "。", "研+究+生", "命", "起+源"]
    assert Words(small, options).unknown == 1


@pytest.mark.parametrize("masking", ["whole-word", "ngram"])
def test_words_are_masked_whole(masking, small, tmp_path):
    (tmp_path / "terms.txt").write_text("heart attack\n")
    options = ExampleOptions(
        seq_length=64, masking=masking, segmenter="rjieba", dictionary=tmp_path / "terms.txt", mask_rate=0.3
    )
    text = " ".join(["the heart attack of", CHINESE])
    ids = small.tokenizer.encode(text, add_special_tokens=False).ids
    row = np.array([[small.cls, *ids, small.sep]] * 200, np.int32)
    maskable = np.ones(row.shape, bool)
    maskable[:, [0, -1]] = False
    made = mask(np.random.default_rng(1), row, maskable, options, small)
    continues = Words(small, options).continues(row, maskable)[0]
    word = np.cumsum(~continues)
    for positions, used in zip(made["masked_positions"], made["masked_weights"] > 0):
        chosen = set(positions[used].tolist())
        for number in set(word[list(chosen)].tolist()):
            assert set(np.flatnonzero(word == number).tolist()) <= chosen


def test_what_is_no_dictionary_is_one_sentence(small, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("d\xe9j\xe0\n".encode("latin-1"))
    for name, words in (("empty", "has no terms"), ("latin", "is not UTF-8"), ("missing", "cannot be read")):
        with pytest.raises(UserError, match=words):
            Words(small, dataclasses.replace(WHOLE, dictionary=tmp_path / f"{name}.txt"))
    with pytest.raises(UserError, match="--masking token masks single tokens"):
        ExampleOptions(segmenter="rjieba")
