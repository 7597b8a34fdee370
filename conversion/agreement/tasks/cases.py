"""Small labelled problems, one or more of every task that a model can be fine-tuned for.

Nothing here imports a framework. Every parameter is random; words have one to three pieces; texts are of all lengths,
alone or in pairs; several sequences lie in a row; labels are unevenly spread and not in the order of their names.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from conversion.agreement import cases
from conversion.agreement.cases import Problem
from ms_bert.config import BertConfig
from ms_bert.data.batches import Batch
from ms_bert.data.conll import Sentence
from ms_bert.data.packing import TrainingBatches
from ms_bert.data.sequences import Sequences
from ms_bert.data.tokenizer import SPECIAL_TOKENS, UNK, Vocabulary
from ms_bert.finetuning_options import FinetuneOptions, FinetuningOptions
from ms_bert.tasks import answer_selection, multiple_choice, squad
from ms_bert.tasks.answer_selection import AnswerSelection
from ms_bert.tasks.classification import Classification, MultiLabel, Regression
from ms_bert.tasks.distillation import LOGITS, STATES, Distillation
from ms_bert.tasks.downstream import DownstreamTask
from ms_bert.tasks.examples import Example
from ms_bert.tasks.multiple_choice import MultipleChoice
from ms_bert.tasks.question_answering import QuestionAnswering
from ms_bert.tasks.tagging import Tagging

SYLLABLES = [consonant + vowel for consonant in "bdgk" for vowel in "aeiou"]
LONGEST = 24  # tokens of a sequence
CONFIG = BertConfig(
    vocab_size=len(SPECIAL_TOKENS) + 2 * len(SYLLABLES),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=56,
    max_position_embeddings=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
CLIP = 0.5  # of the gradients' norm


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A task and labelled examples of it, which are one training step.

    Attributes:
        name: of the problem. parts: in which the step is computed. teacher: logits of sequences (n, C) float32, or of
            tokens (T, C) where they are labelled, to be learned from. balanced: whether all labels weigh alike. layers:
            of the model. states: vectors of length 1 of a teacher's hidden states (n, layers - 1, H) float32 to be
            learned from.
    """

    name: str
    task: DownstreamTask
    examples: Sequence[Any]
    parts: int = 1
    teacher: np.ndarray | None = None
    balanced: bool = False
    layers: int = CONFIG.num_hidden_layers
    states: np.ndarray | None = None

    @property
    def config(self) -> BertConfig:
        return CONFIG.replace(num_hidden_layers=self.layers, **self.task.config())

    @property
    def options(self) -> FinetuneOptions:
        training = FinetuningOptions(
            steps=1, batch_size=len(self.examples), accumulate=self.parts, weight_decay=0.1, clip_norm=CLIP
        )
        return FinetuneOptions(training=training)

    def sequences(self) -> Sequences:
        made = self.task.sequences(self.examples, vocabulary())
        if self.teacher is not None:
            self.task.learned_of(made)[LOGITS] = self.teacher
        if self.states is not None:
            made.of_sequences[STATES] = self.states
        return made

    def batch(self, sequences: Sequences) -> Batch:
        """All sequences, packed."""
        weights = self.task.weights_of(sequences) if self.balanced else None
        size = len(self.examples) if self.task.together else len(sequences)
        together = self.task.together
        made = TrainingBatches(sequences, CONFIG.max_position_embeddings, size, 1, self.parts, weights, together)
        return made(0)

    def trained(self, shapes: dict[str, tuple[int, ...]]) -> Problem:
        """A model of these shapes with random weights and moments."""
        weights = cases.random_weights(shapes)
        # As large as a head's usual ones are small: logits of some size show what a softmax is over.
        weights = {name: 2 * value if is_head(name) else value for name, value in weights.items()}
        return Problem(self.config, self.task.architecture, weights, cases.random_moments(weights), ())


def is_head(name: str) -> bool:
    """Whether a parameter is that of a head, not of BERT."""
    return not name.startswith("bert.")


@functools.lru_cache(1)
def vocabulary() -> Vocabulary:
    """Of syllables, so that a word has as many pieces as syllables."""
    entries = [*SPECIAL_TOKENS, *SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES)]
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Vocabulary(tokenizer, "the agreement's vocabulary")


def word(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))


def text(rng: random.Random, least: int = 1, most: int = 4) -> str:
    return " ".join(word(rng) for _ in range(rng.randint(least, most)))


TAUGHT = Distillation(temperature=3.0, share=0.25)
LABELS = ("so", "bad", "good")  # not in the order of their names


def _texts(rng: random.Random, label: Any) -> Example:
    return Example(tuple(text(rng) for _ in range(rng.randint(1, 2))), label, "")


def _classification(rng: random.Random) -> list[Example]:
    return [_texts(rng, label) for label in ("good", "bad", "good", "so", "good", "good", "bad", "good")]


def _taught(name: str, task: DownstreamTask, examples: Sequence[Any], width: int, parts: int = 1) -> Labelled:
    """With a teacher of so many logits for all that is labelled."""
    sequences = task.sequences(examples, vocabulary())
    count = len(sequences.ids) if task.labels_tokens else len(sequences)
    teacher = (3 * np.random.default_rng(2).normal(size=(count, width))).astype(np.float32)
    return Labelled(name, dataclasses.replace(task, distillation=TAUGHT), examples, parts, teacher)


def _with_states(taught: Labelled) -> Labelled:
    """The same with three layers, and states of the teacher."""
    assert taught.teacher is not None
    layers = 3
    vectors = np.random.default_rng(3).normal(size=(len(taught.teacher), layers - 1, CONFIG.hidden_size))
    states = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    task = dataclasses.replace(taught.task, distillation=dataclasses.replace(TAUGHT, states=2.5))
    return dataclasses.replace(taught, task=task, layers=layers, states=states)


def _multi_label(rng: random.Random) -> list[Example]:
    held = [("bad", "so"), (), ("good",), ("so", "bad", "good"), ("bad",), ("bad", "good"), ("so",), ("bad",)]
    return [_texts(rng, labels) for labels in held]


def _regression(rng: random.Random) -> list[Example]:
    return [_texts(rng, rng.uniform(0, 5)) for _ in range(8)]


TAGS = ("O", "I-PER", "B-LOC", "B-PER", "I-LOC")


def _tagging(rng: random.Random) -> list[Sentence]:
    """Names side by side, tags that begin with I, and a word of which no piece is left."""
    rows = [
        "B-PER I-PER O B-LOC",
        "I-LOC O B-PER B-PER",
        "O B-LOC I-LOC I-PER",
        "B-PER",
        "O O B-LOC B-LOC I-LOC",
        "B-LOC I-PER",
    ]
    made = []
    for number, row in enumerate(rows):
        tags = tuple(row.split())
        words = [word(rng) for _ in tags]
        if number == 1:
            words[1] = "\u200b"
        made.append(Sentence(tuple(words), tags))
    return made


def _answering(rng: random.Random) -> list[squad.Question]:
    """Passages of one window and of several; no answer, one, and two right ones."""
    made = []
    for number in range(6):
        words = [word(rng) for _ in range((4, 14, 6, 12, 3, 9)[number])]
        places = [(), ((1, 3),), ((0, 1), (2, 3)), ((8, 10),), ((1, 2), (1, 3)), ()][number]
        answers = []
        for first, last in places:
            begin = sum(len(one) + 1 for one in words[:first])
            answers.append(squad.Answer(" ".join(words[first:last]), begin))
        made.append(squad.Question(text(rng, 1, 2), " ".join(words), tuple(answers), f"q{number}", ""))
    return made


def _choices(rng: random.Random) -> list[multiple_choice.Question]:
    """Of two, three and four choices."""
    made = []
    for count in (2, 4, 3, 2, 3, 4):
        choices = tuple(text(rng, 1, 2) for _ in range(count))
        context = text(rng) if count < 4 else ""
        made.append(multiple_choice.Question(context, word(rng), choices, rng.randrange(count), ""))
    return made


def _candidates(rng: random.Random) -> list[answer_selection.Question]:
    relevant = [(True, False, False), (False, True), (False, True, True, False), (False, False), (True, False)]
    return [
        answer_selection.Question(text(rng, 1, 2), tuple(text(rng) for _ in of), of, str(number))
        for number, of in enumerate(relevant)
    ]


def _problems() -> list[Labelled]:
    answering = QuestionAnswering(
        (),
        ("best_f1", "f1", "exact_match"),
        LONGEST,
        no_answer=True,
        threshold=1.5,
        longest_question=4,
        longest_answer=5,
        stride=6,
    )
    tagging = Tagging(TAGS, Tagging.span_measures, LONGEST, "", "bio")
    choice = MultipleChoice((), ("accuracy",), LONGEST)
    selection = AnswerSelection(("irrelevant", "relevant"), ("map", "mrr"), LONGEST)
    classification = Classification(LABELS, ("accuracy", "f1_macro"), LONGEST)
    regression = Regression((), ("pearson", "spearman"), LONGEST)
    multi_label = MultiLabel(LABELS, MultiLabel.general_measures, LONGEST)
    return [
        Labelled("classification", classification, _classification(random.Random(1)), balanced=True),
        Labelled(
            "classification of the mean",
            dataclasses.replace(classification, pooling="mean"),
            _classification(random.Random(2)),
            balanced=True,
        ),
        Labelled("regression", regression, _regression(random.Random(3))),
        Labelled("multi-label", multi_label, _multi_label(random.Random(4))),
        _taught("distilled classification", classification, _classification(random.Random(5)), 3),
        _taught("distilled regression", regression, _regression(random.Random(6)), 1),
        _taught("distilled multi-label", multi_label, _multi_label(random.Random(7)), 3),
        _with_states(
            _taught("distilled classification with states", classification, _classification(random.Random(12)), 3)
        ),
        _with_states(
            _taught(
                "distilled regression of the mean with states",
                dataclasses.replace(regression, pooling="mean"),
                _regression(random.Random(13)),
                1,
                parts=2,
            )
        ),
        Labelled("tagging", tagging, _tagging(random.Random(8)), parts=2),
        Labelled("question-answering", answering, _answering(random.Random(9))),
        Labelled("multiple-choice", choice, _choices(random.Random(10)), parts=2),
        Labelled("answer-selection", selection, _candidates(random.Random(11))),
        _taught("distilled tagging", tagging, _tagging(random.Random(14)), len(TAGS), parts=2),
        _taught("distilled question-answering", answering, _answering(random.Random(15)), 2),
        _with_states(_taught("distilled multiple-choice with states", choice, _choices(random.Random(16)), 1, parts=2)),
        _taught("distilled answer-selection", selection, _candidates(random.Random(17)), 2),
    ]


PROBLEMS = {problem.name: problem for problem in _problems()}
