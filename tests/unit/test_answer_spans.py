"""The best answers of a passage, by the sum of their logits, in all of its windows."""

import itertools

import numpy as np
import pytest

from ms_bert.data import tokenizer
from ms_bert.data.tokenizer import SPECIAL_TOKENS
from ms_bert.data.windows import most_context, windows
from ms_bert.tasks.answer_spans import spans

TEXT = "the import statement finds a module and binds the result of that search to a name in the scope"


def brute_force(made, logits, owner, longest):
    """(score, start token, end token of the passage) of every answer, one after the other."""
    mine = np.flatnonzero(made.owners == owner)
    found = []
    for window, best in zip(mine, most_context(made.first[mine], made.sizes[mine])):
        part, first = logits[made.part(window)].astype(np.float64), made.first[window]
        for i, j in itertools.product(range(len(part)), repeat=2):
            if best[i] and i <= j < i + longest:
                found.append((part[i, 0] + part[j, 1], first + i, first + j))
    return sorted(found, key=lambda answer: (-answer[0], *answer[1:]))


def test_the_best_spans_are_those_of_a_search_through_all(vocabulary):
    rng = np.random.default_rng(1)
    made = windows([("what", TEXT), ("name", ""), ("where", TEXT[:30])], vocabulary, 16, 8, 4)
    for longest in (1, 3, 40):
        logits = np.round(rng.normal(size=(len(made.ids), 2)) * 4).astype(np.float32)  # many sums are equal
        for owner, found in enumerate(spans(made, logits, 3, 6, longest)):
            expected, offsets = brute_force(made, logits, owner, longest), made.offsets[owner]
            told = [(span.score, span.start, span.end) for span in found.best]
            assert told == [(s, offsets[i, 0], offsets[j, 1]) for s, i, j in expected[:6]]
            nulls = logits[made.starts[:-1][made.owners == owner]].sum(1)
            assert found.null == nulls.min()
            if expected:
                assert found.total == pytest.approx(np.log(sum(np.exp(score) for score, *_ in expected)))
                assert found.margin == pytest.approx(found.null - expected[0][0])
            else:
                assert found.total == -np.inf and found.margin == np.inf


def test_a_model_that_says_the_same_of_every_token_gives_the_first(vocabulary):
    made = windows([("what", TEXT)], vocabulary, 16, 8, 4)
    (found,) = spans(made, np.zeros((len(made.ids), 2), np.float32), 1, 3, 30)
    assert [span.start for span in found.best] == [0, 0, 0] and found.best[0].end < found.best[1].end


def test_parts_of_a_character_give_the_character_once_and_accents_belong_to_it(tmp_path):
    """The tokenizer takes a syllable of Hangul apart, and leaves accents out."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "\u1112", "##\u1161", "##\u11ab", "cafe"]))
    text = "\ud55c cafe\u0301"
    made = windows([("", text)], tokenizer.load(tmp_path / "vocab.txt"), 60, 8, 40)
    assert made.offsets[0].tolist() == [[0, 1], [0, 1], [0, 1], [2, 6]]
    logits = np.zeros((len(made.ids), 2), np.float32)
    logits[made.part(0), 1] = [3, 2, 1, 0]
    (found,) = spans(made, logits, 1, 3, 30)
    assert [text[span.start : span.end] for span in found.best] == ["\ud55c", text, "cafe\u0301"]
