"""Batches: the arrays that a training step takes, each a pure function of (store, options, seed, step)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np

from ms_bert.data.masking import mask
from ms_bert.data.pairs import PairSampler
from ms_bert.data.store import Split
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.options import ExampleOptions
from ms_bert.randomness import HELD_OUT, MASKING, generator

Batch = dict[str, np.ndarray]

# The arrays of a batch in the order in which the models take them: B rows of S tokens, P masked slots, N = 1
# sequences a row.
FIELDS = (
    "input_ids",
    "token_type_ids",
    "position_ids",
    "sequence_ids",
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
        held_out: whether this is for evaluation, which has its own random streams.

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
    ):
        self.split, self.vocabulary, self.options = split, vocabulary, options
        self.batch_size, self.seed = batch_size, seed
        self.stream = MASKING + (HELD_OUT if held_out else 0)
        self.sampler = PairSampler(split, options, seed, held_out)

    def __call__(self, step: int) -> Batch:
        """The arrays of FIELDS, plus nothing: int32, weights float32.

        `sequence_ids` is 1 for text and 0 for padding; label 0 says that B is the next sentence, 1 that it is not.
        Without NSP, next_sentence_weights is 0.
        """
        segments = self.sampler.draw(step, self.batch_size)
        rows, vocabulary = self.batch_size, self.vocabulary
        a_end = 1 + segments.a_length[:, None]  # [CLS] A [SEP] B [SEP]
        b_end = a_end + np.where(segments.b_length > 0, 1 + segments.b_length, 0)[:, None]
        column = np.arange(self.options.seq_length)
        in_a = (column >= 1) & (column < a_end)
        in_b = (column > a_end) & (column < b_end)
        place = np.where(in_b, segments.b_start[:, None] + column - a_end - 1, segments.a_start[:, None] + column - 1)
        text = in_a | in_b
        input_ids = np.full(text.shape, vocabulary.pad, np.int32)
        input_ids[text] = self.split.tokens[place[text]]
        input_ids[:, 0] = vocabulary.cls
        input_ids[(column == a_end) | (column == b_end)] = vocabulary.sep
        inside = column <= b_end
        rng = generator(self.seed, self.stream, step)
        weights = np.full((rows, 1), float(self.options.nsp), np.float32)
        return {
            **mask(rng, input_ids, text, self.options, vocabulary),
            "token_type_ids": (inside & (column > a_end)).astype(np.int32),
            "position_ids": np.broadcast_to(column.astype(np.int32), text.shape).copy(),
            "sequence_ids": inside.astype(np.int32),
            "cls_positions": np.zeros((rows, 1), np.int32),
            "next_sentence_labels": segments.is_random.astype(np.int32)[:, None],
            "next_sentence_weights": weights,
        }


def prefetched(make: Callable[[int], Batch], steps: range, ahead: int = 4) -> Iterator[Batch]:
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
