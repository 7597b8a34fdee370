"""Exact match and F1 are those of the scripts of SQuAD and CMRC 2018, and the threshold is the best one."""

import collections
import random
import re
import string

import numpy as np
import pytest

from ms_bert.tasks.answer_scores import best_threshold, compared_by, exact_match, f1

WORDS = ["The", "a", "an", "cat", "Cat's", "sat.", "1,000", "theatre", "café", "U.S.", "--", "", "年", "北京", "\u3000"]


def normalized(text: str) -> str:
    """As SQuAD's script says it."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official(answer: str, gold: list[str]) -> tuple[float, float]:
    """(exact, F1) of one question by SQuAD 2.0's script."""
    gold = [text for text in gold if normalized(text)] or [""]
    exact = max(float(normalized(answer) == normalized(text)) for text in gold)
    scores = []
    for text in gold:
        right, found = normalized(text).split(), normalized(answer).split()
        common = sum((collections.Counter(right) & collections.Counter(found)).values())
        if not right or not found:
            scores.append(float(right == found))
        elif not common:
            scores.append(0.0)
        else:
            precision, recall = common / len(found), common / len(right)
            scores.append(2 * precision * recall / (precision + recall))
    return exact, max(scores)


def test_scores_by_words_are_those_of_squad():
    rng = random.Random(3)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(0, 4)))

    for _ in range(2000):
        answer, gold = text(), [text() for _ in range(rng.randint(0, 3))]
        assert (exact_match(answer, gold), f1(answer, gold)) == pytest.approx(official(answer, gold)), (answer, gold)
    assert f1("the cat sat", ["a dog", "cat sat down"]) == pytest.approx(0.8)


def test_what_both_lack_is_right_and_an_answer_where_there_is_none_is_wrong():
    for by in ("words", "characters"):
        assert f1("", [], by) == exact_match("", [], by) == 1.0
        assert f1("北京", [], by) == exact_match("cat", [], by) == 0.0
        assert f1("", ["北京"], by) == exact_match("", ["cat"], by) == 0.0


@pytest.mark.parametrize(
    "answer, gold, exact, score",
    [
        ("北京市", ["北京"], 0.0, 0.8),  # a run of 2 of 3 and of 2 characters
        ("在北京。", ["北京", "在北京"], 1.0, 1.0),  # without punctuation
        ("北和京", ["北京"], 0.0, 0.4),  # a run of one only, though both characters are there
        ("2008年", ["2008 年"], 0.0, 1.0),  # a number is one segment
        ("12分", ["11分"], 0.0, 0.5),
        ("NBA球队", ["nba 球队"], 0.0, 1.0),
        ("上海", ["北京"], 0.0, 0.0),
        ("《》", ["北京"], 0.0, 0.0),
    ],
)
def test_scores_by_characters_are_those_of_cmrc(answer, gold, exact, score):
    assert exact_match(answer, gold, "characters") == exact
    assert f1(answer, gold, "characters") == pytest.approx(score)


def test_how_answers_are_compared_follows_from_the_passages():
    assert compared_by(["The cat sat 1999.", "北京"]) == "words"
    assert compared_by(["他在 NBA 打球十年了", "北京是中国的首都"]) == "characters"
    assert compared_by([]) == compared_by(["123 --"]) == "words"


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(5)
    for count in (1, 2, 7, 30):
        for _ in range(40):
            margins = rng.integers(-3, 4, count) * 1.5  # many are equal
            answered, unanswered = rng.integers(0, 3, count) / 2, rng.integers(0, 2, count).astype(float)

            def total(threshold):
                return np.where(margins > threshold, unanswered, answered).sum()

            found = best_threshold(margins, answered, unanswered)
            assert total(found) == max(map(total, [-9.0, *margins]))
            assert np.abs(margins - found).min() > 0.7  # not at an example's margin


@pytest.mark.parametrize("margins", [[-2.0, 1.0, np.inf], [-np.inf, 1.0, np.inf], [np.inf, np.inf], [-np.inf]])
def test_a_threshold_is_a_number_whatever_the_margins(margins):
    """A passage without tokens can have no answer."""
    right = np.arange(len(margins)) < len(margins) - 1
    for answered in (right, ~right, np.ones(len(margins), bool)):
        found = best_threshold(np.array(margins), answered.astype(float), (~answered).astype(float))
        assert np.isfinite(found)
    assert best_threshold(np.array([-2.0, 1.0, np.inf]), np.array([1.0, 1, 0]), np.array([0.0, 0, 1])) == 2.0


def test_a_threshold_that_answers_all_or_nothing_lies_beyond_all_margins():
    margins = np.array([-2.0, 5.0])
    assert best_threshold(margins, np.ones(2), np.zeros(2)) == 6.0
    assert best_threshold(margins, np.zeros(2), np.ones(2)) == -3.0
