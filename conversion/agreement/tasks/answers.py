"""What a task must make of given logits, its scores and its answers: each written anew, plainly, example by example."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from conversion.agreement.tasks.cases import Labelled, vocabulary
from conversion.agreement.tasks.oracle import ROWS, Row
from ms_bert.data.sequences import Sequences
from ms_bert.tasks.downstream import DownstreamTask

ROUNDING = 1e-6  # of what is computed in float64 from the same float32 logits

Told = dict[str, Any]  # scores: by name; answers: of each example what is compared of it


def logits_of(labelled: Labelled, sequences: Sequences) -> np.ndarray:
    """Such as a model might give, (n, C) of sequences or (T, C) of tokens, float32.

    The first two sequences have the same; "no answer" often stands near the best answer.
    """
    width = {"question-answering": 2, "multiple-choice": 1, "regression": 1}
    columns = width.get(labelled.task.name, len(labelled.task.labels))
    rows = len(sequences.ids) if labelled.task.per_token else len(sequences)
    drawn = (np.random.default_rng(6).normal(size=(rows, columns)) * 1.5).astype(np.float32)
    if labelled.task.name == "question-answering":
        drawn[sequences.starts[:-1]] += np.float32(2.0)
    if not labelled.task.per_token:
        drawn[1] = drawn[0]
    return drawn


def found(task: DownstreamTask, sequences: Sequences, logits: np.ndarray) -> Told:
    """What the task says."""
    names = {
        "classification": ("label", "probabilities"),
        "regression": ("value",),
        "multi-label": ("labels", "probabilities"),
        "tagging": ("tags", "scores"),
        "question-answering": ("answer", "start", "end", "score"),
        "multiple-choice": ("answer", "text", "probabilities"),
        "answer-selection": ("ranking",),
    }[task.name]
    answers = [{name: answer[name] for name in names} for answer in task.answers(sequences, logits)]
    return {"scores": task.scores(sequences, logits), "answers": answers}


def expected(labelled: Labelled, logits: np.ndarray) -> Told:
    """What it has to say."""
    rows = ROWS[labelled.task.name](labelled)
    values: list[np.ndarray] = list(logits.astype(np.float64))
    if labelled.task.per_token:
        places = np.cumsum([0, *(len(row.ids) for row in rows)])
        values = [logits[a:b].astype(np.float64) for a, b in zip(places, places[1:])]
    scores, answers = ANSWERS[labelled.task.name](labelled, rows, values)
    return {"scores": scores, "answers": answers}


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two results differ."""
    if isinstance(other, dict):
        for name in other.keys() | one.keys():
            yield from differences(one.get(name), other.get(name), f"{path}/{name}")
    elif isinstance(other, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} for {len(other)}"
        for number, pair in enumerate(zip(one, other)):
            yield from differences(*pair, f"{path}/{number}")
    elif isinstance(other, float) and one is not None:
        if not math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING):
            yield f"{path}: {one} for {other}"
    elif one != other:
        yield f"{path}: {one} for {other}"


def _softmax(values: np.ndarray) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def _f1(right: int, told: int, there: int) -> float:
    return 2 * right / (told + there) if right else 0.0


def _classification(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    names, gold, answers = labelled.task.labels, [row.target for row in rows], []
    for z in values:
        z = z.mean(0) if z.ndim == 2 else z
        shares = dict(zip(names, _softmax(z)))
        answers.append({"label": names[list(z).index(max(z))], "probabilities": shares})
    told = [answer["label"] for answer in answers]
    f1s = [
        _f1(sum(a == b == name for a, b in zip(told, gold)), told.count(name), gold.count(name))
        for name in {*told, *gold}
    ]
    right = sum(a == b for a, b in zip(told, gold))
    return {"accuracy": right / len(gold), "f1_macro": sum(f1s) / len(f1s)}, answers


def _correlation(x: list[float], y: list[float]) -> float:
    a, b = (np.array(values) - sum(values) / len(values) for values in (x, y))
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def _ranks(values: list[float]) -> list[float]:
    """From the lowest; equal ones share the mean of theirs."""
    return [sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values]


def _regression(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    # One logit of a sequence, or one of each of its tokens.
    told, gold = [float(z.mean()) for z in values], [float(np.float32(row.target)) for row in rows]
    scores = {"pearson": _correlation(told, gold), "spearman": _correlation(_ranks(told), _ranks(gold))}
    return scores, [{"value": value} for value in told]


def _multi_label(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    names, answers = labelled.task.labels, []
    for z in values:
        shares = {name: 1 / (1 + math.exp(-x)) for name, x in zip(names, z)}
        answers.append({"labels": [name for name in names if shares[name] > 0.5], "probabilities": shares})
    told, gold = [set(answer["labels"]) for answer in answers], [set(row.target) for row in rows]

    def f1(chosen) -> float:
        right = sum(len(a & b & chosen) for a, b in zip(told, gold))
        return _f1(right, sum(len(a & chosen) for a in told), sum(len(b & chosen) for b in gold))

    macro = sum(f1({name}) for name in names) / len(names)
    same = sum(a == b for a, b in zip(told, gold)) / len(gold)
    return {"f1_micro": f1(set(names)), "f1_macro": macro, "subset_accuracy": same}, answers


def _spans_of(tags: list[str], strict: bool) -> set[tuple[str, int, int]]:
    """Of BIO: a run of I of one type, with a B before it, or if not strict without."""
    made, place = set(), 0
    while place < len(tags):
        first, place = place, place + 1
        if tags[first] == "O":
            continue
        letter, kind = tags[first].split("-")
        while place < len(tags) and tags[place] == f"I-{kind}":
            place += 1
        if letter == "B" or not strict:
            made.add((kind, first, place))
    return made


def _tagging(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    answers, counted = [], collections.Counter()
    for sentence, row, z in zip(labelled.examples, rows, values):
        places = iter(place for place, _ in row.target)
        tags, shares = [], []
        for word in sentence.words:
            seen = bool(vocabulary().tokenizer.encode(word, add_special_tokens=False).ids)
            of_tags = _softmax(z[next(places)]) if seen else None
            tags.append("O" if of_tags is None else labelled.task.labels[of_tags.index(max(of_tags))])
            shares.append(1.0 if of_tags is None else max(of_tags))
        answers.append({"tags": tags, "scores": shares})
        for name, strict in (("lenient", False), ("strict", True)):
            told, there = _spans_of(tags, strict), _spans_of(list(sentence.tags), strict)
            counted.update({f"{name} right": len(told & there), f"{name} told": len(told), f"{name} there": len(there)})
        counted.update(words=len(tags), right=sum(a == b for a, b in zip(tags, sentence.tags)))
    of = {name: [counted[f"{name} {which}"] for which in ("right", "told", "there")] for name in ("lenient", "strict")}
    right, told, there = of["lenient"]
    return {
        "f1": _f1(right, told, there),
        "precision": right / told,
        "recall": right / there,
        "f1_strict": _f1(*of["strict"]),
        "accuracy": counted["right"] / counted["words"],
    }, answers


def _answering(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    """Of all spans of all windows, each only where its first token has most context."""
    task, answers, judged = labelled.task, [], []
    for owner, question in enumerate(labelled.examples):
        windows = [(row.target, z) for row, z in zip(rows, values) if row.target.owner == owner]
        offsets = vocabulary().tokenizer.encode(question.context, add_special_tokens=False).offsets
        scores = {}
        for number, (window, z) in enumerate(windows):
            for token in range(window.first, window.first + window.size):
                context = []
                for other, _ in windows:
                    last = other.first + other.size - 1
                    inside = other.first <= token <= last
                    context.append(min(token - other.first, last - token) + 0.01 * other.size if inside else -1)
                if context.index(max(context)) != number:
                    continue
                for end in range(token, min(token + task.longest_answer, window.first + window.size)):
                    place = window.place - window.first
                    scores[token, end] = z[place + token, 0] + z[place + end, 1]
        null = min(z[0].sum() for _, z in windows)
        (first, last), best = max(scores.items(), key=lambda item: item[1])
        start, end = offsets[first][0], offsets[last][1]
        text, gold = question.context[start:end], [answer.text for answer in question.answers]
        total = sum(map(math.exp, scores.values())) + math.exp(null - task.threshold)
        answer = {"answer": text, "start": start, "end": end, "score": math.exp(best) / total}
        if null - best > task.threshold:
            answer = {"answer": "", "start": None, "end": None, "score": math.exp(null - task.threshold) / total}
        answers.append(answer)
        f1 = max([_bags(text, right) for right in gold], default=0.0)
        judged.append((null - best, f1, float(text in gold), float(not gold)))
    margins = sorted(margin for margin, *_ in judged)

    def mean(column: int, threshold: float) -> float:
        return sum(one[3] if one[0] > threshold else one[column] for one in judged) / len(judged)

    best_f1 = max(mean(1, threshold) for threshold in (margins[0] - 1, *margins))
    scores = {"best_f1": best_f1, "f1": mean(1, task.threshold), "exact_match": mean(2, task.threshold)}
    return scores, answers


def _bags(one: str, other: str) -> float:
    first, second = collections.Counter(one.split()), collections.Counter(other.split())
    return _f1((first & second).total(), first.total(), second.total())


def _choices(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    answers, right = [], 0
    for owner, question in enumerate(labelled.examples):
        shares = _softmax(np.array([z[0] for row, z in zip(rows, values) if row.target[0] == owner]))
        best = shares.index(max(shares))
        answers.append({"answer": best, "text": question.choices[best], "probabilities": shares})
        right += best == question.answer
    return {"accuracy": right / len(answers)}, answers


def _candidates(labelled: Labelled, rows: list[Row], values: list[np.ndarray]):
    """Of equal candidates the irrelevant ones stand first in the scores, the first in the answers."""
    answers, precisions, ranks = [], [], []
    z = iter(values)
    for question in labelled.examples:
        shares = [_softmax(next(z))[1] for _ in question.candidates]
        order = sorted(range(len(shares)), key=lambda number: -shares[number])
        told = [{"candidate": n, "text": question.candidates[n], "score": shares[n]} for n in order]
        answers.append({"ranking": told})
        if all(question.relevant) or not any(question.relevant):
            continue
        of = sorted(zip(shares, question.relevant), key=lambda pair: (-pair[0], pair[1]))
        places = [place for place, (_, relevant) in enumerate(of, 1) if relevant]
        precisions.append(sum(number / place for number, place in enumerate(places, 1)) / len(places))
        ranks.append(1 / places[0])
    return {"map": sum(precisions) / len(precisions), "mrr": sum(ranks) / len(ranks)}, answers


ANSWERS: dict[str, Callable[[Labelled, list[Row], list[np.ndarray]], tuple[dict[str, float], list[Told]]]] = {
    "classification": _classification,
    "regression": _regression,
    "multi-label": _multi_label,
    "tagging": _tagging,
    "question-answering": _answering,
    "multiple-choice": _choices,
    "answer-selection": _candidates,
}
