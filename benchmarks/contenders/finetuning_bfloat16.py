"""A step of fine-tuning as in `finetuning`, with products in bfloat16 beside one in float32."""

import functools

from benchmarks.contenders.finetuning import mindspore, reference, transformers

MAKERS = {
    "ms_bert fused": mindspore("fused"),
    "ms_bert fused bfloat16": mindspore("fused", "bfloat16"),
    "pt_reference bfloat16": reference(False, "bfloat16"),
    "pt_reference bfloat16 --compile": reference(True, "bfloat16"),
    "transformers autocast": functools.partial(transformers, autocast=True),
}
