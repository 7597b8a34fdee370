"""Batches: the arrays that a training step takes, each a pure function of (store, options, seed, step)."""

from __future__ import annotations

import bisect
import dataclasses
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction

import numpy as np

from ms_bert.data.masking import mask
from ms_bert.data.next_words import next_words
from ms_bert.data.pairs import PairSampler
from ms_bert.data.store import Split
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.data.words import Words
from ms_bert.options import ExampleOptions, Phase
from ms_bert.randomness import HELD_OUT, MASKING, generator

Batch = dict[str, np.ndarray]

# The arrays of a batch in the order in which the models take them: B rows of S tokens, P masked slots, N sequences a
# row, as many as --pack says.
FIELDS = (
    "input_ids",
    "sequence_ids",
    "token_type_ids",
    "position_ids",
    "cls_positions",
    "masked_positions",
    "masked_labels",
    "masked_weights",
    "next_sentence_labels",
    "next_sentence_weights",
)


class BatchMaker:
    """Makes the batch of any step.

    Args:
        split: the text. vocabulary: its ids. options: of the examples. batch_size: rows. seed: of the run.
        held_out: whether this is for evaluation, which has its own random streams. begin, epochs: see PairSampler.
        leaves: equal parts of a batch, each made by itself, so that a worker makes its own and no others.

    Raises:
        UserError: see PairSampler.
    """

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        options: ExampleOptions,
        batch_size: int,
        seed: int,
        held_out: bool = False,
        begin: int = 0,
        epochs: Fraction = Fraction(0),
        leaves: int = 1,
    ):
        self.split, self.vocabulary, self.options = split, vocabulary, options
        self.batch_size, self.seed, self.leaves = batch_size, seed, leaves
        self.stream = MASKING + (HELD_OUT if held_out else 0)
        self.words = Words(vocabulary, options)
        self.sampler = PairSampler(split, options, seed, held_out, begin, epochs)

    def __call__(self, step: int) -> Batch:
        """The arrays of FIELDS, plus nothing: int32, weights float32.

        `sequence_ids` is 1 ... N for the tokens of a row's sequences and 0 for padding; positions begin anew with each
        sequence. Label 0 says that B is the next sentence, 1 that it is not. Without NSP, next_sentence_weights is 0.
        Where the objective is left-to-right nothing is masked, and the masked slots are those of the next tokens.
        """
        return self.part(step, 0, 1)

    def part(self, step: int, number: int, count: int) -> Batch:
        """The rows of one of `count` equal parts of the batch, from 0, each of whole leaves."""
        own = self.leaves // count
        return joined([self._leaf(step, leaf) for leaf in range(number * own, (number + 1) * own)])

    def _leaf(self, step: int, leaf: int) -> Batch:
        rows, vocabulary, sequences = self.batch_size // self.leaves, self.vocabulary, self.options.pack
        shape = rows, self.options.seq_length
        column = np.arange(self.options.seq_length)
        input_ids = np.full(shape, vocabulary.pad, np.int32)
        text = np.zeros(shape, bool)
        made = {name: np.zeros(shape, np.int32) for name in ("token_type_ids", "sequence_ids")}
        made["position_ids"] = np.broadcast_to(column.astype(np.int32), shape).copy()
        made |= {name: np.zeros((rows, sequences), np.int32) for name in ("cls_positions", "next_sentence_labels")}
        made["next_sentence_weights"] = np.zeros((rows, sequences), np.float32)
        begin = np.zeros((rows, 1), np.int64)
        for number, segments in enumerate(self.sampler.draw(step, rows, leaf, self.leaves)):
            there = (segments.a_length > 0)[:, None]
            a_end = begin + 1 + segments.a_length[:, None]  # [CLS] A [SEP] B [SEP]
            b_end = a_end + np.where(segments.b_length > 0, 1 + segments.b_length, 0)[:, None]
            in_a = there & (column > begin) & (column < a_end)
            in_b = there & (column > a_end) & (column < b_end)
            in_text = in_a | in_b
            place = np.where(
                in_b, segments.b_start[:, None] + column - a_end - 1, segments.a_start[:, None] + column - begin - 1
            )
            inside = there & (column >= begin) & (column <= b_end)
            text |= in_text
            input_ids[in_text] = self.split.tokens[place[in_text]]
            input_ids[there & (column == begin)] = vocabulary.cls
            input_ids[there & ((column == a_end) | (column == b_end))] = vocabulary.sep
            made["token_type_ids"][inside & (column > a_end)] = vocabulary.second_type
            made["sequence_ids"][inside] = number + 1
            made["position_ids"][inside] = (column - begin)[inside]
            made["cls_positions"][:, number] = np.where(there, begin, 0)[:, 0]
            made["next_sentence_labels"][:, number] = segments.is_random
            made["next_sentence_weights"][:, number] = self.options.nsp * there[:, 0]
            begin = np.where(there, b_end + 1, begin)
        if self.options.objective == "left-to-right":
            return {"input_ids": input_ids, **next_words(input_ids, made["sequence_ids"]), **made}
        rng = generator(self.seed, self.stream, step, leaf=leaf)
        return {**mask(rng, input_ids, text, self.options, vocabulary, self.words), **made}

    def samples(self, step: int = 0) -> list[Batch]:
        """All batches have one shape."""
        return [self(max(step, self.sampler.begin))]


class Phases:
    """Makes the batch of any step of a run in phases, of which each goes on in the epoch where the one before ended.

    So no text comes twice in an epoch whose rows have one length. With another length the order of the text is another
    one.

    Args:
        phases: one after the other; the last has no end. Others: see BatchMaker.
    """

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        options: ExampleOptions,
        phases: Sequence[Phase],
        seed: int,
        leaves: int = 1,
    ):
        self.makers: list[BatchMaker] = []
        begin, epochs = 0, Fraction(0)
        for phase in phases:
            own = dataclasses.replace(options, seq_length=phase.seq_length, phases=())
            maker = BatchMaker(
                split, vocabulary, own, phase.batch_size, seed, begin=begin, epochs=epochs, leaves=leaves
            )
            self.makers.append(maker)
            begin, epochs = begin + phase.steps, epochs + maker.sampler.epochs(phase.steps, phase.batch_size)
        self._begins = [maker.sampler.begin for maker in self.makers]

    def __call__(self, step: int) -> Batch:
        """See BatchMaker."""
        return self.part(step, 0, 1)

    def part(self, step: int, number: int, count: int) -> Batch:
        """See BatchMaker."""
        return self.makers[self._number(step)].part(step, number, count)

    def samples(self, step: int = 0) -> list[Batch]:
        """One of each shape, in the order in which they come."""
        found: dict[tuple[int, ...], Batch] = {}
        for maker in self.makers[self._number(step) :]:
            for batch in maker.samples(step):
                found.setdefault(batch["input_ids"].shape, batch)
        return list(found.values())

    def _number(self, step: int) -> int:
        """Of the maker whose turn it is."""
        return bisect.bisect_right(self._begins, step) - 1


class FirstRows:
    """The first rows of the batches of a BatchMaker, to evaluate on.

    Args:
        make: makes them. rows: how many; what is beyond them in the last batch does not count. weights: the fields
            that say so.
    """

    def __init__(self, make: BatchMaker, rows: int, weights: tuple[str, ...]):
        self.make, self.rows, self.weights = make, rows, weights

    def __len__(self) -> int:
        return -(-self.rows // self.make.batch_size)

    def __call__(self, number: int) -> Batch:
        batch = self.make(number)
        weights = {name: batch[name].copy() for name in self.weights}
        for value in weights.values():
            value[max(0, self.rows - number * self.make.batch_size) :] = 0.0
        return {**batch, **weights}


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches, one after the other."""
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def prefetched(make: Callable[[int], Batch], steps: range, ahead: int = 4) -> Generator[Batch, None, None]:
    """The batches of these steps, made ahead by a thread; an error there is raised here.

    Close the iterator (or exhaust it) to end the thread.
    """
    made: queue.Queue = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item) -> None:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(make(step))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
