"""How long does a pre-training step take on the CPU, in each framework, and how near is it to the machine's peak?

Float32, dropout 0.1, AdamW, clipping, rows without padding; contenders take turns. transformers computes all tokens,
the others in the MLM head and after the last attention those alone that are read. BERT-base does not fit beside itself
six times into 24 GB: it comes in two groups.
"""

from benchmarks.contenders import Work, all_measured

WORKS = (
    (Work("pretraining", "tiny", rows=16, tokens=128, slots=20), 6, 11),
    (Work("pretraining", "mini", rows=16, tokens=128, slots=20), 6, 11),
    (Work("pretraining", "small", rows=16, tokens=128, slots=20), 6, 11),
    (Work("pretraining", "base", rows=8, tokens=128, slots=20), 4, 9),
    (Work("pretraining", "tiny", rows=4, tokens=512, slots=77), 6, 11),
    (Work("pretraining", "mini", rows=4, tokens=512, slots=77), 6, 11),
    (Work("pretraining", "small", rows=4, tokens=512, slots=77), 6, 9),
    (Work("pretraining", "base", rows=2, tokens=512, slots=77), 4, 7),
)  # with the contenders held in memory at once, and the rounds


def measure(output):
    return all_measured(WORKS)
