"""Words of several pieces behind [MASK]: the search finds the best ones, and only whole words."""

import itertools

import numpy as np
import pytest
from scipy.special import log_softmax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ms_bert.data.tokenizer import SPECIAL_TOKENS, Vocabulary
from ms_bert.errors import UserError
from ms_bert.tasks import masked_words

ENTRIES = (*SPECIAL_TOKENS, "play", "##ing", "##ed", "good", "bad", "北", "京", ".")


@pytest.fixture(scope="module")
def vocabulary():
    made = Tokenizer(models.WordPiece(dict(zip(ENTRIES, range(99))), unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return Vocabulary(made, "test")


def logits(rows):
    """Of a model whose guess depends on every id of the row and on the position."""
    made = []
    for ids, position in rows:
        rng = np.random.default_rng([*ids, position])
        made.append(rng.normal(scale=2, size=len(ENTRIES) + 3))  # more rows than entries, as some models have
    return np.array(made, np.float32)


def score(place, word, vocabulary):
    """The sum of the log-probabilities of a word's pieces, one after the other."""
    total = 0.0
    for done, piece in enumerate(word):
        row = place.row(word[:done], len(word), vocabulary.mask)
        total += log_softmax(logits([row])[0].astype(np.float64))[piece]
    return total


def test_each_mask_is_a_place_whatever_else_is_masked(vocabulary):
    first, second = masked_words.places(["[MASK] play [MASK]."], vocabulary, 10)
    play, dot = ENTRIES.index("play"), ENTRIES.index(".")
    assert first.row((), 2, vocabulary.mask) == ([2, 4, 4, play, 4, dot, 3], 1)
    assert second.row((7,), 2, vocabulary.mask) == ([2, 4, play, 7, 4, dot, 3], 4)


def test_words_of_several_pieces_are_found_as_by_trying_all(vocabulary):
    places = masked_words.places(["good [MASK]", "[MASK] [MASK]"], vocabulary, 10, 3)
    begins = [ENTRIES.index(token) for token in ("play", "good", "bad", ".")]
    chinese = [ENTRIES.index("北"), ENTRIES.index("京")]
    continues = [ENTRIES.index("##ing"), ENTRIES.index("##ed")]
    single = [(i,) for i in range(len(ENTRIES))]
    words = single + [
        word
        for count in (1, 2)
        for start, rest in ((begins, continues), (chinese, chinese))
        for word in itertools.product(start, *[rest] * count)
    ]
    found = masked_words.guesses(places, logits, vocabulary, top=200, pieces=3)
    for place, guesses in zip(places, found, strict=True):
        best = {word: score(place, word, vocabulary) / len(word) for word in words}
        expected = sorted(best, key=lambda word: -best[word])
        assert guesses[0].pieces == expected[0]
        assert all(guess.mean == pytest.approx(best[guess.pieces]) for guess in guesses)
        assert [guess.mean for guess in guesses] == sorted((guess.mean for guess in guesses), reverse=True)
        assert {guess.pieces for guess in guesses} >= set(single)


def test_where_no_word_has_so_many_pieces_shorter_ones_are_guessed(vocabulary):
    entries = (*SPECIAL_TOKENS, "play", "good")
    plain = Vocabulary(Tokenizer(models.WordPiece(dict(zip(entries, range(99))), unk_token="[UNK]")), "test")
    places = masked_words.places(["[MASK]"], plain, 10, 3)
    (guesses,) = masked_words.guesses(places, logits, plain, top=20, pieces=3)
    assert {guess.pieces for guess in guesses} == {(i,) for i in range(len(entries))}


def test_a_single_piece_may_be_any_token(vocabulary):
    (place,) = masked_words.places(["good [MASK]"], vocabulary, 10)
    (guesses,) = masked_words.guesses([place], logits, vocabulary, top=4)
    table = log_softmax(logits([place.row((), 1, vocabulary.mask)])[0].astype(np.float64))[: len(ENTRIES)]
    assert [guess.pieces for guess in guesses] == [(i,) for i in np.argsort(-table)[:4].tolist()]
    assert [guess.score for guess in guesses] == pytest.approx(np.sort(table)[::-1][:4].tolist())


def test_candidates_are_ranked_by_the_mean_of_their_pieces(vocabulary):
    words = masked_words.pieces_of(["good", "playing", "Played", "北京", "good"], vocabulary)
    assert [len(word) for word in words] == [1, 2, 2, 2, 1]
    places = masked_words.places(["a [MASK].", "[MASK] bad"], vocabulary, 10, 2)
    for place, guesses in zip(places, masked_words.among(places, logits, vocabulary, words, top=3), strict=True):
        best = {word: score(place, word, vocabulary) / len(word) for word in words}
        assert [guess.pieces for guess in guesses] == sorted(best, key=lambda word: -best[word])[:3]
        assert [guess.mean for guess in guesses] == pytest.approx(sorted(best.values(), reverse=True)[:3])
    told = masked_words.answers(
        ["a [MASK]."], places[:1], [[masked_words.Guess(words[1], -2.0)]], vocabulary, told=True
    )
    assert told == [
        {
            "text": "a playing.",
            "masks": [[{"token": "playing", "probability": pytest.approx(np.exp(-1)), "pieces": ["play", "##ing"]}]],
        }
    ]


def test_what_cannot_be_guessed_is_told(vocabulary):
    for word in ("xyz", "", " "):
        with pytest.raises(UserError, match="cannot spell the candidate"):
            masked_words.pieces_of(["good", word], vocabulary)
    assert masked_words.places(["good [MASK]"], vocabulary, 4)
    with pytest.raises(UserError, match=r"has 6 tokens, 3 in the place of \[MASK\], but the model takes at most 5"):
        masked_words.places(["good [MASK]"], vocabulary, 5, pieces=3)
    with pytest.raises(UserError, match=r"text 2, '', has no \[MASK\]"):
        masked_words.places(["[MASK]", ""], vocabulary, 10)
    with pytest.raises(UserError, match=r"'good' has no \[MASK\]"):
        masked_words.places(["good"], vocabulary, 5)
