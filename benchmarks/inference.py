"""How long does all-MiniLM-L6-v2 take for one text, for sixteen, and for texts of many lengths, on the CPU?

The encoder, and in MindSpore and PyTorch the pooler; contenders take turns. Of the 32 texts that have the lengths of
SST-2's sentences ms_bert pads none, the others pad them to the longest. OpenVINO contends where it is installed, and
bfloat16 and int8 where the processor multiplies them.
"""

import contextlib
import dataclasses
import tempfile
from pathlib import Path

from benchmarks import finetuning_speed
from benchmarks.contenders import Work, measured, sentences

WORKS = (
    Work("inference", "minilm", rows=1, tokens=16),
    Work("inference", "minilm", rows=1, tokens=128),
    Work("inference", "minilm", rows=16, tokens=128),
)
MIXED = Work("inference", "minilm", rows=32, tokens=0)  # of as many tokens as the sentences have
ROUNDS = 11


def measure(output):
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sentences.npz"
        sentences.saved(file, finetuning_speed.synthetic())
        for work in (*WORKS, dataclasses.replace(MIXED, file=str(file))):
            yield measured(work, ROUNDS)
