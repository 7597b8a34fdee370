"""Spans are read as by conlleval, and the scheme of a file is found; the expected values are those of seqeval 1.2.2."""

import pytest

from ms_bert.tasks import tag_scores
from ms_bert.tasks.spans import misfits, scheme_of, spans, strict_spans


@pytest.mark.parametrize(
    "scheme, tags, lenient, strict",
    [
        ("bio", "O I-X I-X B-X I-Y O", [("X", 1, 3), ("X", 3, 4), ("Y", 4, 5)], [("X", 3, 4)]),
        ("bio", "B I O I B-X-Y", [("_", 0, 2), ("_", 3, 4), ("X-Y", 4, 5)], [("_", 0, 2), ("X-Y", 4, 5)]),
        (
            "bioes",
            "B-X I-X E-X S-X E-Y B-Y",
            [("X", 0, 3), ("X", 3, 4), ("Y", 4, 5), ("Y", 5, 6)],
            [("X", 0, 3), ("X", 3, 4)],
        ),
        (
            "bioes",
            "S-X I-X E-X I-X B-X O",
            [("X", 0, 1), ("X", 1, 3), ("X", 3, 4), ("X", 4, 5)],
            [("X", 0, 1)],
        ),
        ("bioes", "B-X S-X I-X I-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 4)], [("X", 1, 2)]),
        ("bilou", "E-X L-X B-Y I-X L-X", [("X", 0, 1), ("X", 1, 2), ("Y", 2, 3), ("X", 3, 5)], []),
        ("bilou", "U-X U-X B-X L-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 4)], [("X", 0, 1), ("X", 1, 2), ("X", 2, 4)]),
    ],
)
def test_spans_are_those_of_seqeval(scheme, tags, lenient, strict):
    assert spans(tags.split(), scheme) == lenient
    assert strict_spans(tags.split(), scheme) == strict


@pytest.mark.parametrize(
    "scheme, tags, lenient, strict",
    [
        ("io", "I-X I-X O I-X I-Y", [("X", 0, 2), ("X", 3, 4), ("Y", 4, 5)], None),
        ("io", "PER PER O LOC PER", [("PER", 0, 2), ("LOC", 3, 4), ("PER", 4, 5)], None),
        ("iob1", "I-X I-X B-X I-X O I-X I-Y", [("X", 0, 2), ("X", 2, 4), ("X", 5, 6), ("Y", 6, 7)], None),
        ("iob1", "O B-X I-X", [("X", 1, 3)], []),  # nothing stands before it
        ("bioes", "B-X M-X E-X W-X", [("X", 0, 3), ("X", 3, 4)], None),
        ("bio", "", [], None),
    ],
)
def test_spans_of_other_schemes(scheme, tags, lenient, strict):
    assert spans(tags.split(), scheme) == lenient
    assert strict_spans(tags.split(), scheme) == (lenient if strict is None else strict)


@pytest.mark.parametrize(
    "sentences, scheme",
    [
        (["O B-X I-X", "I-X"], "bio"),
        (["O B-X", "B-Y"], "bio"),
        (["O I-X I-X", "I-Y O"], "io"),
        (["O I-X I-X B-X", "I-Y O"], "iob1"),
        (["O I-X I-X B-X", "B-Y O"], "bio"),  # of which one span is not begun as it should be
        (["B-X E-X", "S-Y O"], "bioes"),
        (["B-X M-X E-X O"], "bioes"),
        (["B-X L-X", "U-Y O"], "bilou"),
        (["B I O"], "bio"),
        (["NN VB", "O"], "none"),
        (["PER O"], "none"),
        (["-LRB- , . '' WP$ NNP|SYM 1 _"], "none"),
        (["O O"], "none"),
    ],
)
def test_the_scheme_is_found_by_the_tags(sentences, scheme):
    assert scheme_of(sentence.split() for sentence in sentences) == scheme


def test_tags_that_are_of_no_span_do_not_fit_a_scheme_of_spans():
    assert misfits({"B-X", "O", "PER", "?"}, "bio") == ["?", "PER"]
    assert not misfits({"B-X", "O", "PER", "?"}, "none") and not misfits({"O", "PER"}, "io")


GOLD = ["O B-PER I-PER O", "B-LOC B-LOC I-LOC O", "I-ORG I-ORG O B-PER", "O O O", "B-PER I-PER B-PER I-PER"]
GUESSED = ["O B-PER I-PER O", "B-LOC I-LOC I-LOC O", "I-ORG I-ORG O I-PER", "B-LOC O I-ORG", "B-PER I-LOC B-PER I-PER"]


def test_scores_are_those_of_seqeval():
    gold, guessed = [line.split() for line in GOLD], [line.split() for line in GUESSED]
    counts = tag_scores.counts(gold, guessed, "bio", spans)
    assert [part.tolist() for part in counts] == [[1, 0, 2, 0, 1], [1, 1, 2, 2, 3], [1, 2, 2, 0, 2]]
    assert counts.scores == pytest.approx({"precision": 4 / 9, "recall": 4 / 7, "f1": 0.5})
    strict = tag_scores.counts(gold, guessed, "bio", strict_spans)
    assert strict.scores["f1"] == pytest.approx(4 / 11)
    table = tag_scores.by_type(gold, guessed, "bio", spans)
    assert list(table) == ["LOC", "ORG", "PER"]
    assert table["PER"] == pytest.approx({"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4, "found": 4})
    assert table["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2, "found": 3}


def test_nothing_found_and_nothing_there_score_nothing():
    counts = tag_scores.counts([["O"]], [["O"]], "bio", spans)
    assert counts.scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert tag_scores.counts([], [], "bio", spans).scores["f1"] == 0.0
