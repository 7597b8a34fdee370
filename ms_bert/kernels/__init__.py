"""The few operations worth a device-specific form, as sets of functions with one interface, `Operations`.

`stock` is written in MindSpore's own operations and runs on every device; `ascend` replaces what the NPU has a fused
operation for; `fused` has, for the CPU in float32, whole sublayers as C++ operations, which `native` holds.
`operations(device, dtype, kind)` chooses one, with which a model and its step are built. MindSpore is imported there
and not before: `native` computes without it.
"""

import dataclasses

from ms_bert.errors import UserError
from ms_bert.kernels import native
from ms_bert.kernels.operations import Operations


def why_not_fused(device: str, dtype: str) -> str | None:
    """Why `fused` cannot compute on this device in this dtype, as part of a sentence; None where it can."""
    if device != "CPU" or dtype != "float32":
        return "they compute on the CPU in float32 only"
    return native.why_not()


def operations(device: str = "CPU", dtype: str = "float32", kind: str = "stock") -> Operations:
    """The operations for a device ('CPU', 'GPU' or 'Ascend') and a compute dtype.

    Args:
        kind: 'fused', or 'stock' for MindSpore's own. Where there are no fused ones the stock ones take their place,
        and say why in `instead`.
    """
    from ms_bert.kernels import ascend, stock

    of_ascend = device == "Ascend" and dtype in ascend.ATTENTION_DTYPES
    own = ascend.operations(dtype) if of_ascend else stock.composed(dtype)
    if kind == "stock":
        return own
    reason = why_not_fused(device, dtype)
    if reason:
        return dataclasses.replace(own, instead=reason)
    from ms_bert.kernels import fused

    return fused.operations(own)


def check(device: str, dtype: str, head_size: int, tokens: int) -> None:
    """Raise UserError where the form that would be picked cannot compute these sizes."""
    from ms_bert.kernels import ascend

    multiple = ascend.ATTENTION_MULTIPLE
    if operations(device, dtype).own_dropout and (head_size % multiple or tokens % multiple):
        raise UserError(
            f"Ascend's fused attention in {dtype} needs head size and --seq-length to be multiples of "
            f"{multiple}, found {head_size} and {tokens}; change them, or use --precision float32."
        )


__all__ = ["Operations", "check", "operations", "why_not_fused"]
