"""How long does a training step take whose products are in bfloat16, beside float32 and PyTorch's bfloat16?

Of pre-training and of fine-tuning a sentence classifier; dropout 0.1, AdamW, clipping, rows without padding; contenders
take turns. In ms_bert products round what they multiply and what they keep for the gradients; in pt_reference
activations are bfloat16. transformers computes in what torch's autocast chooses.
"""

from benchmarks.contenders import Work, all_measured
from ms_bert.kernels import native

WORKS = (
    (Work("bfloat16", "mini", rows=16, tokens=128, slots=20), 4, 11),
    (Work("bfloat16", "mini", rows=128, tokens=128, slots=20), 4, 5),
    (Work("bfloat16", "small", rows=16, tokens=128, slots=20), 4, 9),
    (Work("bfloat16", "base", rows=8, tokens=128, slots=20), 4, 7),
    (Work("finetuning_bfloat16", "mini", rows=32, tokens=128), 4, 9),
    (Work("finetuning_bfloat16", "small", rows=32, tokens=128), 4, 7),
    (Work("finetuning_bfloat16", "base", rows=8, tokens=128), 4, 7),
)  # with the contenders held in memory at once, and the rounds


def measure(output):
    if reason := native.why_not("bfloat16"):
        raise SystemExit(f"there is nothing to measure: {reason}")
    return all_measured(WORKS)
