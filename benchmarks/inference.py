"""How long does all-MiniLM-L6-v2 take for one text, for sixteen, and for texts of many lengths, on the CPU?

The encoder, and in ms_bert stock, pt_reference and ONNX the pooler, one product of [CLS]; contenders take turns. The 32
texts that have the lengths of SST-2's sentences, or of PolicyQA's questions with their passages, ms_bert takes without
padding, the others in the way that is the fastest for them: see `benchmarks.contenders.inference`. OpenVINO contends
where it is installed, and bfloat16 and int8 where the processor multiplies them.
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
MIXES = {
    "lengths of SST-2": lambda: finetuning_speed.synthetic().lengths[:32],
    "lengths of PolicyQA": lambda: np.random.default_rng(0).permutation(POLICYQA),
}
WAYS = "the fastest of padded, in groups and one by one; those that compile each shape, padded"
ROUNDS = 11


def measure(output):
    for work in WORKS:
        yield measured(work, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        for name, lengths_of in MIXES.items():
            lengths = lengths_of()
            file = Path(folder) / f"{name}.npz"
            np.savez(file, starts=np.cumsum([0, *lengths]))
            work = Work("inference", "minilm", rows=len(lengths), tokens=0, file=str(file))
            yield {"texts": name, "others": WAYS, **measured(work, ROUNDS)}
