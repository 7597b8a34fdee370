"""How long does all-MiniLM-L6-v2 take for one text, for sixteen, and for texts of many lengths, on the CPU?

The encoder, and in MindSpore and PyTorch the pooler; contenders take turns. Of the 32 texts that have the lengths of
SST-2's sentences, or of PolicyQA's questions with their passages, ms_bert pads none, the others pad them to the
longest. OpenVINO contends where it is installed, and bfloat16 and int8 where the processor multiplies them.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import finetuning_speed
from benchmarks.contenders import Work, measured

WORKS = (
    Work("inference", "minilm", rows=1, tokens=16),
    Work("inference", "minilm", rows=1, tokens=128),
    Work("inference", "minilm", rows=16, tokens=128),
)
# Of 3,809 questions with their passages, the quantiles; special tokens included, the longest cut at 384.
POLICYQA = (
    *(32, 41, 46, 51, 56, 60, 64, 68, 72, 75, 79, 83, 86, 91, 95, 103, 107, 110, 114, 118, 122, 128, 135, 140, 148),
    *(154, 164, 178, 193, 213, 247, 295),
)
ROUNDS = 11


def measure(output):
    for work in WORKS:
        yield measured(work, ROUNDS)
    mixes = {
        "lengths of SST-2": finetuning_speed.synthetic().lengths[:32],
        "lengths of PolicyQA": np.random.default_rng(0).permutation(POLICYQA),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, lengths in mixes.items():
            file = Path(folder) / f"{name}.npz"
            np.savez(file, starts=np.cumsum([0, *lengths]))
            work = Work("inference", "minilm", rows=len(lengths), tokens=0, file=str(file))
            yield {"texts": name, **measured(work, ROUNDS)}
