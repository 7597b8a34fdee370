"""The few operations worth a device-specific form, behind one small interface.

`stock` is written in MindSpore's own operations and runs on every device; `ascend` replaces what the NPU has a
fused operation for: `attention(device, dtype)` picks the form. `fused` has, for the CPU in float32, whole sublayers as
C++ operations, which `native` holds: `sublayers(device, dtype)` gives them where they can be used.

Rows are tokens: an activation is (rows, width) with rows = B * S, in the compute dtype; what needs range
(softmax, LayerNorm, GELU, losses) is computed in float32 inside.
"""

from ms_bert.errors import UserError
from ms_bert.kernels import ascend, native, stock
from ms_bert.kernels.stock import adam_update, cross_entropy, dropout, gelu, gelu_new, layer_norm, linear, relu, tanh

ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


def attention(device: str, dtype: str):
    """The attention function for a device ('CPU', 'GPU' or 'Ascend') and a compute dtype."""
    return ascend.attention if device == "Ascend" and dtype in ascend.ATTENTION_DTYPES else stock.attention


def fusible(device: str, dtype: str) -> bool:
    """Whether `fused` computes on this device in this dtype, where it was built."""
    return device == "CPU" and dtype == "float32"


def sublayers(device: str, dtype: str):
    """The module `fused` where it computes on this device in this dtype, and was built; else None."""
    if not fusible(device, dtype) or native.why_not():
        return None
    from ms_bert.kernels import fused

    return fused


def check(device: str, dtype: str, head_size: int, tokens: int) -> None:
    """Raise UserError where the form that would be picked cannot compute these sizes."""
    multiple = ascend.ATTENTION_MULTIPLE
    if attention(device, dtype) is ascend.attention and (head_size % multiple or tokens % multiple):
        raise UserError(
            f"Ascend's fused attention in {dtype} needs head size and --seq-length to be multiples of "
            f"{multiple}, found {head_size} and {tokens}; change them, or use --precision float32."
        )


__all__ = [
    "ACTIVATIONS",
    "adam_update",
    "attention",
    "check",
    "cross_entropy",
    "dropout",
    "fusible",
    "gelu",
    "gelu_new",
    "layer_norm",
    "linear",
    "relu",
    "sublayers",
    "tanh",
]
