"""A pre-training step as in `pretraining`, with products in bfloat16 beside one in float32."""

import functools

from benchmarks.contenders.pretraining import mindspore, reference, transformers

MAKERS = {
    "ms_bert fused": mindspore("fused"),
    "ms_bert fused bfloat16": mindspore("fused", precision="bfloat16"),
    "pt_reference bfloat16": reference(False, precision="bfloat16"),
    "pt_reference bfloat16 --compile": reference(True, precision="bfloat16"),
    "transformers autocast": functools.partial(transformers, autocast=True),
}
