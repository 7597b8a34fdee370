"""What one training step must compute: each loss written anew for one sequence at a time, on transformers' own models
in float64, from the examples themselves. Nothing is packed, nothing is padded, and no code of the losses is shared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from conversion.agreement import cases as pretraining
from conversion.agreement.cases import Problem, Tensors
from conversion.agreement.tasks.cases import CLIP, Labelled, vocabulary

RATE, UPDATES = pretraining.RATE, pretraining.UPDATES


@dataclasses.dataclass(frozen=True)
class Row:
    """One sequence: its ids and segments; target: what is to be learned of it, as its task's loss has it."""

    ids: list[int]
    types: list[int]
    target: object


Loss = tuple[torch.Tensor, float, float]  # of one row or question: the loss, how right it is, what it weighs


class Oracle:
    """The exact tensors of a problem, by check.

    Attributes:
        problem: weights and moments to begin with. exact: by check, as `suite.computed` has them.
    """

    def __init__(self, labelled: Labelled):
        self.labelled = labelled
        config = transformers.BertConfig(**labelled.config.to_dict(), attn_implementation="eager")
        self.model = getattr(transformers, labelled.task.architecture)(config).eval().double()
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        self.problem: Problem = labelled.trained(shapes)
        weights = {name: torch.from_numpy(value.astype(np.float64)) for name, value in self.problem.weights.items()}
        self.model.load_state_dict(weights, strict=True)
        self.rows = ROWS[labelled.task.name](labelled)
        self.exact = self._computed()

    def _seen(self, row: Row) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The logits (C,) of a sequence, or (S, C) of its tokens, and the states (S, H) of embeddings and layers."""
        given = {"input_ids": torch.tensor([row.ids]), "token_type_ids": torch.tensor([row.types])}
        name = self.labelled.task.architecture
        if name == "BertForMultipleChoice":
            given = {key: value[None] for key, value in given.items()}  # a question of one choice
        found = self.model(**given, output_hidden_states=True)
        states = tuple(of_layer[0] for of_layer in found.hidden_states)
        if name == "BertForQuestionAnswering":
            return torch.stack((found.start_logits[0], found.end_logits[0]), -1), states
        return found.logits[0], states

    def _computed(self) -> dict[str, Tensors]:
        logits, states = zip(*map(self._seen, self.rows))
        of_token = logits[0].ndim == 2
        losses = LOSSES[self.labelled.task.name](self.labelled, self.rows, list(logits))
        if self.labelled.states is not None:
            apart = [states_apart(self.labelled, number, of_row) for number, of_row in enumerate(states)]
            if self.labelled.task.together:  # the mean over the choices of a question
                owners = [row.target[0] for row in self.rows]
                apart = [
                    sum(far for far, of in zip(apart, owners) if of == owner) / owners.count(owner)
                    for owner in range(len(self.labelled.examples))
                ]
            weight = self.labelled.task.distillation.states
            losses = [(loss + weight * far, *others) for (loss, *others), far in zip(losses, apart)]
        total = sum(loss * weight for loss, _, weight in losses)
        count = sum(weight for _, _, weight in losses)
        (total / count).backward()
        gradients = {name: p.grad.numpy() for name, p in self.model.named_parameters()}
        norm = np.sqrt(sum(np.square(value).sum() for value in gradients.values()))
        return {
            "forward": {"logits": (torch.cat if of_token else torch.stack)(logits).detach().numpy()},
            "losses": {
                "loss": np.array(total.item()),
                "correct": np.array(sum(right * weight for _, right, weight in losses)),
                "count": np.array(count),
            },
            "gradients": {**gradients, "global norm": np.array(norm)},
            "step adamw": self._step(gradients, norm),
        }

    def _step(self, gradients: Tensors, norm: float) -> Tensors:
        """AdamW (Loshchilov & Hutter, 2019) with gradients whose norm is clipped."""
        options = self.labelled.options.training
        b1, b2, t = options.beta1, options.beta2, UPDATES + 1
        found: Tensors = {"updates": np.array(float(t))}
        for name, gradient in gradients.items():
            weight = self.problem.weights[name].astype(np.float64)
            clipped = gradient * (CLIP / max(norm, CLIP))
            m = b1 * self.problem.moments[f"m.{name}"] + (1 - b1) * clipped
            v = b2 * self.problem.moments[f"v.{name}"] + (1 - b2) * clipped**2
            decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else options.weight_decay
            direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + options.optimizer_epsilon)
            found |= {f"change of {name}": -RATE * (direction + decay * weight), f"m.{name}": m, f"v.{name}": v}
        return found


# From examples to rows.


def pieces(text: str) -> list[int]:
    return vocabulary().tokenizer.encode(text, add_special_tokens=False).ids


def joined(first: list[int], second: list[int] | None, target: object) -> Row:
    """[CLS] first [SEP], or [CLS] first [SEP] second [SEP]."""
    words = vocabulary()
    ids = [words.cls, *first, words.sep]
    types = [0] * len(ids)
    if second is not None:
        ids, types = [*ids, *second, words.sep], types + [1] * (len(second) + 1)
    return Row(ids, types, target)


def texts(labelled: Labelled) -> list[Row]:
    rows = []
    for example in labelled.examples:
        first, *second = map(pieces, example.texts)
        rows.append(joined(first, second[0] if second else None, example.label))
    return rows


def sentences(labelled: Labelled) -> list[Row]:
    """The target: (place of a word's first piece, its tag) of each word that has a piece."""
    rows = []
    for sentence in labelled.examples:
        ids: list[int] = []
        target = []
        for word, tag in zip(sentence.words, sentence.tags):
            if pieces(word):
                target.append((len(ids) + 1, tag))
            ids += pieces(word)
        rows.append(joined(ids, None, target))
    return rows


@dataclasses.dataclass(frozen=True)
class Window:
    """What a row shows of a passage: the tokens from `first`, which stand in the row from `place`.

    Attributes:
        owner: number of the question. spans: of right answers within, places in the row, the last one included.
    """

    owner: int
    first: int
    place: int
    size: int
    spans: list[tuple[int, int]]


def windows(labelled: Labelled) -> list[Row]:
    """The target is a Window."""
    task, rows = labelled.task, []
    for owner, question in enumerate(labelled.examples):
        asked = pieces(question.question)[: task.longest_question]
        encoding = vocabulary().tokenizer.encode(question.context, add_special_tokens=False)
        room = task.longest - 3 - len(asked)
        for first in itertools.count(0, min(task.stride, room)):
            shown = encoding.ids[first : first + room]
            spans = []
            for answer in question.answers:
                inside = [
                    number
                    for number, (begin, end) in enumerate(encoding.offsets)
                    if begin < answer.start + len(answer.text) and end > answer.start
                ]
                if first <= inside[0] and inside[-1] < first + len(shown):
                    place = len(asked) + 2 - first
                    spans.append((place + inside[0], place + inside[-1]))
            rows.append(joined(asked, shown, Window(owner, first, len(asked) + 2, len(shown), spans)))
            if first + room >= len(encoding.ids):
                break
    return rows


def choices(labelled: Labelled) -> list[Row]:
    """The target: the number of the question, and whether it is the right choice."""
    rows = []
    for owner, question in enumerate(labelled.examples):
        for number, choice in enumerate(question.choices):
            first, second = question.context, f"{question.question} {choice}"
            if not question.context:
                first, second = question.question, choice
            rows.append(joined(pieces(first), pieces(second), (owner, number == question.answer)))
    return rows


def candidates(labelled: Labelled) -> list[Row]:
    """The target: the name of the label."""
    return [
        joined(pieces(question.question), pieces(candidate), "relevant" if relevant else "irrelevant")
        for question in labelled.examples
        for candidate, relevant in zip(question.candidates, question.relevant)
    ]


ROWS: dict[str, Callable[[Labelled], list[Row]]] = {
    "classification": texts,
    "regression": texts,
    "multi-label": texts,
    "tagging": sentences,
    "question-answering": windows,
    "multiple-choice": choices,
    "answer-selection": candidates,
}

# From rows and their logits to losses.


def _mixed(labelled: Labelled, loss: torch.Tensor, number: Any, distance) -> torch.Tensor:
    """The loss of the labels and the distance(teacher's logits, T) from a teacher, if there is one.

    Args:
        number: of what is labelled, one or several.
    """
    distillation = labelled.task.distillation
    if distillation is None:
        return loss
    teacher = torch.from_numpy(labelled.teacher[number]).double()
    return (1 - distillation.share) * loss + distillation.share * distance(teacher, distillation.temperature)


def states_apart(labelled: Labelled, number: int, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """How far the directions of a sequence's vectors are from a teacher's, without the embeddings and the last layer:
    |a - b|^2 = |a|^2 + |b|^2 - 2 a b, of which |a| is 1."""
    terms = []
    for layer, of_tokens in enumerate(states[1:-1]):
        of_cls = getattr(labelled.task, "pooling", "cls") == "cls"
        vector = of_tokens[0] if of_cls else of_tokens.sum(0) / len(of_tokens)
        teacher = torch.from_numpy(labelled.states[number, layer]).double()
        terms.append(1 + teacher @ teacher - 2 * (vector @ teacher) / torch.linalg.vector_norm(vector))
    return sum(terms) / len(terms)


def _of_sequence(z: torch.Tensor) -> torch.Tensor:
    """The logits (C,) of a sequence; where each of its tokens has some (S, C), their mean."""
    return z if z.ndim == 1 else z.sum(0) / len(z)


def _negative_entropy(p: torch.Tensor) -> torch.Tensor:
    return (p * p.log()).sum()


def one_label(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    names, found = [row.target for row in rows], []
    for number, (row, z) in enumerate(zip(rows, map(_of_sequence, logits))):
        label = labelled.task.labels.index(row.target)
        loss = -torch.softmax(z, 0)[label].log()
        weight = len(names) / (len(set(names)) * names.count(row.target)) if labelled.balanced else 1.0
        right = float(int(z.argmax()) == label)
        found.append((_mixed(labelled, loss, number, _between(z)), right, weight))
    return found


def a_number(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    return [
        (_mixed(labelled, (z[0] - row.target) ** 2, number, lambda teacher, t, z=z: (z[0] - teacher[0]) ** 2), 0.0, 1.0)
        for number, (row, z) in enumerate(zip(rows, map(_of_sequence, logits)))
    ]


def several_labels(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    found = []
    for number, (row, z) in enumerate(zip(rows, logits)):
        held = [name in row.target for name in labelled.task.labels]
        terms = [-torch.sigmoid(x if holds else -x).log() for x, holds in zip(z, held)]

        def distance(teacher, t, z=z):
            total = 0.0
            for x, y in zip(z, teacher):
                p, q = torch.sigmoid(y / t), torch.sigmoid(x / t)
                total = total + p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            return t**2 * total / len(z)

        right = np.mean([(x.item() > 0) == holds for x, holds in zip(z, held)])
        found.append((_mixed(labelled, sum(terms) / len(terms), number, distance), float(right), 1.0))
    return found


def _between(z: torch.Tensor):
    """The distance of the softmax of logits (C,) from that of a teacher's; of (C, K), the sum over the columns."""

    def distance(teacher, t):
        p, q = torch.softmax(teacher / t, 0), torch.softmax(z / t, 0)
        return t**2 * (_negative_entropy(p) - (p * q.log()).sum())

    return distance


def each_word(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    found, behind = [], 0  # tokens of the rows before
    for row, z in zip(rows, logits):
        for place, tag in row.target:
            label = labelled.task.labels.index(tag)
            loss = -torch.softmax(z[place], 0)[label].log()
            loss = _mixed(labelled, loss, behind + place, _between(z[place]))
            found.append((loss, float(int(z[place].argmax()) == label), 1.0))
        behind += len(row.ids)
    return found


def spans(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    """The mean over the right answers within; where there is none, [CLS] is right."""
    found, behind = [], 0  # tokens of the rows before
    for row, z in zip(rows, logits):
        right = row.target.spans or [(0, 0)]
        start, end = torch.softmax(z[:, 0], 0).log(), torch.softmax(z[:, 1], 0).log()
        loss = sum(-(start[first] + end[last]) / 2 for first, last in right) / len(right)
        best = int(start.argmax()) in {first for first, _ in right} and int(end.argmax()) in {last for _, last in right}
        own = slice(behind, behind + len(row.ids))
        loss = _mixed(labelled, loss, own, lambda teacher, t, z=z: _between(z)(teacher, t) / 2)
        found.append((loss, float(best), 1.0))
        behind = own.stop
    return found


def each_question(labelled: Labelled, rows: list[Row], logits: list[torch.Tensor]) -> list[Loss]:
    found = []
    for owner, question in enumerate(labelled.examples):
        own = [number for number, row in enumerate(rows) if row.target[0] == owner]
        z = torch.stack([logits[number][0] for number in own])
        loss = -torch.softmax(z, 0)[question.answer].log()
        loss = _mixed(labelled, loss, own, lambda teacher, t, z=z: _between(z)(teacher[:, 0], t))
        found.append((loss, float(int(z.argmax()) == question.answer), 1.0))
    return found


LOSSES: dict[str, Callable[[Labelled, list[Row], list[torch.Tensor]], list[Loss]]] = {
    "classification": one_label,
    "regression": a_number,
    "multi-label": several_labels,
    "tagging": each_word,
    "question-answering": spans,
    "multiple-choice": each_question,
    "answer-selection": one_label,
}
