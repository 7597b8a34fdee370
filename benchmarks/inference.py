"""How long does all-MiniLM-L6-v2 take for one text, and for sixteen, on the CPU in float32?

Rows of 128 tokens without padding; the encoder, and in MindSpore and PyTorch the pooler. Contenders take turns.
"""

from benchmarks.contenders import Work, measured

WORKS = (Work("inference", "minilm", rows=1, tokens=128), Work("inference", "minilm", rows=16, tokens=128))
ROUNDS = 15


def measure(output):
    for work in WORKS:
        yield measured(work, ROUNDS)
