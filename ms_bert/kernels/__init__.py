"""The few operations worth a device-specific form, behind one small interface.

`stock` is written in MindSpore's own operations and runs on every device; `ascend` replaces what the NPU has a
fused operation for. `attention(device)` picks the form.

Rows are tokens: an activation is (rows, width) with rows = B * S, in the compute dtype; what needs range
(softmax, LayerNorm, GELU, losses) is computed in float32 inside.
"""

from ms_bert.kernels import ascend, stock
from ms_bert.kernels.stock import cross_entropy, dropout, gelu, gelu_new, layer_norm, linear, relu

ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


def attention(device: str):
    """The attention function for a device: 'CPU', 'GPU' or 'Ascend'."""
    return ascend.attention if device == "Ascend" else stock.attention


__all__ = ["ACTIVATIONS", "attention", "cross_entropy", "dropout", "gelu", "gelu_new", "layer_norm", "linear", "relu"]
