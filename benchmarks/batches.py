"""How many sequences of 128 tokens a second does one core make into masked batches?

The built-in corpus, batches of 256; each masking in turn, 15 rounds, processor time of the whole process.
"""

import os
import statistics
import time

from ms_bert.data import tokenizer
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.options import ExampleOptions, TextOptions

ROWS, STEPS, ROUNDS = 256, 10, 15


def measure(output):
    options = TextOptions()
    corpus = Corpus(options)
    vocabulary = tokenizer.vocabulary(options, corpus)
    store, _ = open_store(options, corpus, vocabulary)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    makers = {
        masking: BatchMaker(store.train, vocabulary, ExampleOptions(seq_length=128, masking=masking), ROWS, 1)
        for masking in ("token", "whole-word", "ngram")
    }
    rates = {masking: [] for masking in makers}
    for round_ in range(ROUNDS):
        for masking, make in makers.items():
            begun = time.process_time()
            for step in range(STEPS):
                make(round_ * STEPS + step)
            rates[masking].append(ROWS * STEPS / (time.process_time() - begun))
    os.sched_setaffinity(0, cores)
    return {
        "sequences_per_second": {
            masking: {
                "median": round(statistics.median(values)),
                "least": round(min(values)),
                "most": round(max(values)),
            }
            for masking, values in rates.items()
        },
        "required": 2000,
    }
