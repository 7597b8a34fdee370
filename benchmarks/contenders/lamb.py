"""A pre-training step as in `pretraining`, with LAMB beside one with AdamW."""

from benchmarks.contenders.pretraining import mindspore, reference

MAKERS = {
    "ms_bert fused": mindspore("fused"),
    "ms_bert fused LAMB": mindspore("fused", optimizer="lamb"),
    "pt_reference LAMB": reference(False, optimizer="lamb"),
}
