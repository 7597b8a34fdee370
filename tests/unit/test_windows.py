"""Passages are seen through windows that overlap, and every token knows its characters."""

import tracemalloc

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from ms_bert.data.windows import most_context, tokens_of, windows

QUESTION = "What does import bind?"
PASSAGE = "The import statement finds a module, and then it binds the result of that search to a name in the scope."


@pytest.fixture(scope="module")
def reference(vocabulary):
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary.tokenizer, **names)


@pytest.mark.parametrize("longest, stride", [(20, 5), (24, 3), (33, 7), (30, 100), (200, 5)])
def test_windows_are_those_of_hugging_face_with_the_overlap_that_the_stride_leaves(
    longest, stride, vocabulary, reference
):
    made = windows([(QUESTION, PASSAGE)], vocabulary, longest, 16, stride)
    asked = len(reference.tokenize(QUESTION))
    room = longest - 3 - asked
    expected = reference(
        QUESTION,
        PASSAGE,
        truncation="only_second",
        max_length=longest,
        stride=room - min(stride, room),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert len(made) == len(expected["input_ids"]) and (made.before == asked + 2).all() and not made.cut.any()
    for number, ids in enumerate(expected["input_ids"]):
        span = slice(made.starts[number], made.starts[number + 1])
        assert made.ids[span].tolist() == ids and made.types[span].tolist() == expected["token_type_ids"][number]
        first, size = made.first[number], made.sizes[number]
        offsets = made.offsets[0][first : first + size].tolist()
        assert offsets == [list(pair) for pair in expected["offset_mapping"][number][asked + 2 : -1]]
        assert made.part(number) == slice(span.start + asked + 2, span.stop - 1)


def test_what_is_no_longer_than_windows_share_lies_whole_in_one(vocabulary):
    for longest in (16, 24, 40):
        made = windows([("name", PASSAGE)], vocabulary, longest, 8, 100, shared=6)
        ends = made.first + made.sizes
        for first in range(len(made.offsets[0]) - 5):
            assert ((made.first <= first) & (first + min(6, int(made.sizes[0]) // 2) <= ends)).any()
    # A stride that leaves as much is taken as it is.
    assert np.diff(windows([("name", PASSAGE)], vocabulary, 24, 8, 3, shared=6).first).tolist()[0] == 3


def test_every_token_of_a_passage_is_seen_whatever_the_lengths(vocabulary):
    for longest in range(12, 40):
        for stride in (1, 4, 50):
            made = windows([("import", PASSAGE), ("name", ""), ("", PASSAGE)], vocabulary, longest, 8, stride)
            for owner, passage in enumerate((0, 1, 0)):
                mine = np.flatnonzero(made.owners == owner)
                seen = {t for w in mine for t in range(made.first[w], made.first[w] + made.sizes[w])}
                assert seen == set(range(len(made.offsets[passage]))) and set(made.passages[mine]) == {passage}
            assert made.lengths.max() <= longest


def test_a_long_question_keeps_its_beginning_and_says_so(vocabulary):
    made = windows([(PASSAGE, PASSAGE), ("import", "a name")], vocabulary, 30, 9, 50)
    assert made.cut.tolist() == [True] * (len(made) - 1) + [False] and made.truncated == 1
    assert made.ids[:10].tolist() == [vocabulary.cls, *vocabulary.tokenizer.encode(PASSAGE).ids[1:10]]
    assert made.before[0] == 11


def test_the_window_with_most_context_is_that_of_run_squad():
    rng = np.random.default_rng(2)
    for _ in range(50):
        count, step = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        first = np.arange(count) * step
        sizes = np.full(count, step + int(rng.integers(0, 8)))
        sizes[-1] -= int(rng.integers(0, min(step, sizes[-1])))
        found = most_context(first, sizes)
        for token in range(int((first + sizes).max())):
            scores = {
                w: min(token - f, f + s - 1 - token) + 0.01 * s
                for w, (f, s) in enumerate(zip(first, sizes))
                if f <= token < f + s
            }
            chosen = [w for w in scores if found[w][token - first[w]]]
            assert chosen == [max(scores, key=scores.get)]  # the first of equals


def test_a_book_takes_memory_as_its_length(vocabulary):
    first = np.arange(5_000) * 64
    tracemalloc.start()
    found = most_context(first, np.full(5_000, 128))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(np.count_nonzero, found)) == 4_999 * 64 + 128 and most < 100e6


@pytest.mark.parametrize(
    "text, answer",
    [
        ("Le café de la gare est fermé.", "café"),
        ("Le cafe\u0301 ferme\u0301", "ferme\u0301"),
        ("a \U0001f600\U00020000 module", "module"),
        ("zero\u200bwidth name", "zero\u200bwidth"),
        ("\ufeffthe name", "name"),
        ("他在北京大学学习。", "北京大学"),
        ("한국어 모듈", "모듈"),
        ("an \x07odd\u00a0space", "odd"),
    ],
)
def test_tokens_of_an_answer_cover_its_characters(text, answer, vocabulary):
    made = windows([("q", text)], vocabulary, 100, 8, 50)
    start = text.index(answer)
    first, last = tokens_of(made.offsets[0], start, start + len(answer))
    begin, end = made.offsets[0][first, 0], made.offsets[0][last, 1]
    assert begin == start and text[begin:end].rstrip("\u0301") == answer.rstrip("\u0301")
    assert tokens_of(made.offsets[0], len(text), len(text) + 1) is None
