"""How many tokens of text a second does a training step take in, with and without packing?

BERT-mini on rows of 512 tokens of the built-in corpus, whose documents are shorter; 4 rows a step in float32, dropout
on. Both take turns, each on the batches of its own steps; padding does not count.
"""

import time

import numpy as np

from benchmarks.contenders import THREADS, need_fused_kernels, spread
from ms_bert.config import PRESETS
from ms_bert.data import tokenizer
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.device import use_device
from ms_bert.options import ExampleOptions, Options, TextOptions, TrainingOptions

TOKENS, ROWS, ROUNDS, STEPS = 512, 4, 15, 3
PACKS = (1, 4)


def measure(output):
    from ms_bert.training.trainer import MindSporeTrainer

    need_fused_kernels()
    text = TextOptions()
    corpus = Corpus(text)
    vocabulary = tokenizer.vocabulary(text, corpus)
    store, _ = open_store(text, corpus, vocabulary)
    use_device("CPU", threads=THREADS)
    config = PRESETS["mini"].replace(vocab_size=vocabulary.size)
    makers, trainers, shares, sequences = {}, {}, {}, {}
    for pack in PACKS:
        examples = ExampleOptions(seq_length=TOKENS, pack=pack)
        makers[pack] = BatchMaker(store.train, vocabulary, examples, ROWS, 1)
        trainers[pack] = MindSporeTrainer(config, Options(training=TrainingOptions(batch_size=ROWS), examples=examples))
        trainers[pack].compile(makers[pack].samples())
        trainers[pack].train_step(makers[pack](0), 0, 1e-4)
        shares[pack], sequences[pack] = [], []
    rates = {pack: [] for pack in PACKS}
    for round_ in range(ROUNDS):
        for pack in PACKS if round_ % 2 else reversed(PACKS):
            numbers = range(1 + round_ * STEPS, 1 + (round_ + 1) * STEPS)
            batches = [makers[pack](number) for number in numbers]
            begun = time.perf_counter()
            for number, batch in zip(numbers, batches):
                trainers[pack].train_step(batch, number, 1e-4)
            seconds = time.perf_counter() - begun
            real = [(batch["sequence_ids"] > 0).sum() for batch in batches]
            rates[pack].append(sum(real) / seconds)
            shares[pack] += [one / (ROWS * TOKENS) for one in real]
            sequences[pack] += [batch["sequence_ids"].max(1).mean() for batch in batches]
    return {
        "tokens_a_row": TOKENS,
        "rows": ROWS,
        "share_of_text": {f"pack {p}": round(float(np.mean(shares[p])), 3) for p in PACKS},
        "examples_a_row": {f"pack {p}": round(float(np.mean(sequences[p])), 2) for p in PACKS},
        "text_tokens_a_second": {f"pack {p}": spread(rates[p]) for p in PACKS},
        "gain": spread([packed / alone for alone, packed in zip(rates[PACKS[0]], rates[PACKS[1]])]),
        "required_gain": 1.7,
    }
