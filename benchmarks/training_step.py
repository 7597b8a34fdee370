"""How long does a pre-training step take on the CPU, in each framework, and how near is it to the machine's peak?

Float32, dropout 0.1, AdamW, clipping, rows without padding; contenders take turns. transformers scores every token, the
others the masked ones only.
"""

from benchmarks.contenders import Work, measured

WORKS = (
    Work("train", "tiny", rows=16, tokens=128, slots=20),
    Work("train", "mini", rows=16, tokens=128, slots=20),
    Work("train", "small", rows=16, tokens=128, slots=20),
)
ROUNDS = 11


def measure(output):
    return [measured(work, ROUNDS) for work in WORKS]
