"""How long does a step of fine-tuning a sentence classifier take on the CPU, in each framework?

BertForSequenceClassification, float32, dropout 0.1, AdamW, clipping, rows without padding; contenders take turns.
"""

from benchmarks.contenders import Work, all_measured

WORKS = (
    (Work("finetuning", "mini", rows=32, tokens=128), 5, 11),
    (Work("finetuning", "base", rows=8, tokens=128), 5, 9),
)


def measure(output):
    return all_measured(WORKS)
