"""How many sentences of SST-2's lengths a second does a fine-tuning run learn from, and how many in transformers?

all-MiniLM-L6-v2 is fine-tuned in float32 with batches of 32 sentences of at most 128 tokens, AdamW, dropout 0.1. The
contenders are the twins, which pack, and transformers' own Trainer: padding to the full length, as its run_glue does,
and padding each batch of sentences of about the same length to the longest of them (group_by_length with
DataCollatorWithPadding). They take turns. Compilation and the first step do not count. All have huge pages, as the
twins' commands ask for them.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.contenders import Work, by_turns, minilm, spread, started
from benchmarks.contenders.sentences import FULL, MAKERS, SORTED, saved
from ms_bert.data import tokenizer
from ms_bert.data.sequences import Sequences
from ms_bert.tasks import glue
from ms_bert.tasks.classification import Classification

SENTENCES, LONGEST, ROUNDS = 32, 128, 5
# Of a turn. group_by_length sorts the sentences of 50 batches, so 50 in a row have all lengths; the others' are alike.
STEPS = {name: {FULL: 5, SORTED: 50}.get(name, 20) for name in MAKERS}
TWINS = tuple(name for name in MAKERS if name not in (FULL, SORTED))
# Sentences of SST-2's train.tsv with 3, 4, ... 66 tokens, special tokens included.
SST2 = (
    *(1978, 5322, 6065, 5345, 4749, 4155, 3713, 3267, 2947, 2650, 2413, 2138, 1950, 1777, 1661, 1515, 1373, 1285, 1132),
    *(1106, 1046, 909, 820, 806, 733, 692, 628, 538, 491, 442, 448, 400, 337, 304, 286, 242, 195, 203, 192, 155, 148),
    *(130, 89, 82, 85, 73, 55, 42, 50, 40, 36, 19, 21, 22, 15, 8, 6, 3, 2, 5, 5, 1, 2, 2),
)


def measure(output, data: Path | None = None):
    sequences = synthetic() if data is None else read(data / "sst2" / "train.tsv")
    busy = [os.getloadavg()[0]]
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sentences.npz"
        saved(file, sequences)
        work = Work("sentences", "minilm", SENTENCES, LONGEST, file=str(file))
        processes = started(stack, work, MAKERS)
        seconds = dict(zip(MAKERS, by_turns(processes, [STEPS[name] for name in MAKERS], ROUNDS)))
    busy.append(os.getloadavg()[0])
    return {
        "sentences": "synthetic, of the lengths of SST-2" if data is None else "train.tsv of SST-2",
        "number": len(sequences),
        "tokens_on_average": round(float(sequences.lengths.mean()), 2),
        "batch": SENTENCES,
        "longest": LONGEST,
        "rounds": ROUNDS,
        "load_average_before_and_after": [round(load, 2) for load in busy],
        "contenders": {
            process.name: {
                "sentences_a_second": spread([SENTENCES / one for one in seconds[process.name]]),
                "steps_a_round": STEPS[process.name],
                "first_step_seconds": round(process.first_seconds, 2),
                "loss_of_first_step": process.loss,
                "peak_memory_gb": process.peak_memory_gb,
                "seconds_a_step_by_round": [round(one, 5) for one in seconds[process.name]],
            }
            for process in processes
        },
        "times_as_fast": {
            twin: {other: spread(np.divide(seconds[other], seconds[twin])) for other in (FULL, SORTED)}
            for twin in TWINS
        },
    }


def read(file: Path) -> Sequences:
    """The sentences of a file of SST-2."""
    dataset = glue.DATASETS["sst2"]
    examples, _ = glue.examples(dataset, str(file))
    return Classification(dataset.labels, dataset.metrics, LONGEST).sequences(examples, tokenizer.load(minilm()))


def synthetic() -> Sequences:
    """Random tokens in sentences of SST-2's lengths, for who does not have it."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.repeat(np.arange(3, 3 + len(SST2)), SST2))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1000, 30000, starts[-1]).astype(np.int32)
    labels = rng.integers(0, 2, len(lengths)).astype(np.int32)
    return Sequences(ids, np.zeros_like(ids), starts, np.zeros(len(lengths), bool), of_sequences={"labels": labels})
