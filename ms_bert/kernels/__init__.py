"""The few operations worth a device-specific form, as sets of functions with one interface, `Operations`.

`stock` is written in MindSpore's own operations and runs on every device; `ascend` replaces what the NPU has a fused
operation for; `fused` has, for the CPU, whole sublayers as C++ operations, which `native` holds.
`operations(device, dtype, kind)` chooses one, with which a model and its step are built. MindSpore is imported there
and not before: `native` computes without it.
"""

import dataclasses

from ms_bert.errors import UserError
from ms_bert.kernels import native
from ms_bert.kernels.operations import Operations


def why_not_fused(device: str, dtype: str) -> str | None:
    """Why `fused` cannot compute on this device in this dtype, as part of a sentence; None where it can."""
    if device != "CPU" or dtype not in ("float32", "bfloat16"):
        return "they compute on the CPU, in float32 or bfloat16 only"
    return native.why_not()


def only_fused(device: str, dtype: str) -> bool:
    """Whether MindSpore has no operations of its own in this dtype, where the fused ones have products in it."""
    return device == "CPU" and dtype == "bfloat16"


def products(dtype: str) -> str:
    """The type that fused products multiply where this one is asked for: one of more bits where it is no gain."""
    no_less_exact = native.PRECISIONS[native.PRECISIONS.index(dtype) :: -1]
    return next((name for name in no_less_exact if native.why_not(name) is None), "float32")


def operations(device: str = "CPU", dtype: str = "float32", kind: str = "stock") -> Operations:
    """The operations for a device ('CPU', 'GPU' or 'Ascend') and a compute dtype.

    In bfloat16 there are none on the CPU but the fused ones, of which only products round to it.

    Args:
        kind: 'fused', or 'stock' for MindSpore's own. Where there are no fused ones the stock ones take their place,
        and where products in bfloat16 are no gain those in float32; `instead` says why.

    Raises:
        UserError: MindSpore has no operations of its own in this dtype.
    """
    from ms_bert.kernels import ascend, stock

    if only_fused(device, dtype) and kind == "stock":
        raise UserError(
            "--precision bfloat16 on the CPU needs the fused kernels, for MindSpore has no products in bfloat16 there; "
            "leave out --kernels stock, or use --precision float32."
        )
    own_dtype = "float32" if only_fused(device, dtype) else dtype
    own = ascend.operations(dtype) if device == "Ascend" else stock.composed(own_dtype)
    if kind == "stock":
        return own
    if reason := why_not_fused(device, dtype):
        missed = f"in {dtype} by the fused ones" if only_fused(device, dtype) else "by the faster fused ones"
        return dataclasses.replace(own, instead=f"not {missed}: {reason}")
    from ms_bert.kernels import fused

    made = fused.operations(own, products(dtype))
    if products(dtype) == dtype:
        return made
    return dataclasses.replace(made, instead=f"with products in float32: {native.why_not(dtype)}")


def check(device: str, dtype: str, head_size: int, tokens: int) -> None:
    """Raise UserError where the form that would be picked cannot compute these sizes."""
    from ms_bert.kernels import ascend

    multiple = ascend.ATTENTION_MULTIPLE
    if operations(device, dtype, "fused").own_dropout and (head_size % multiple or tokens % multiple):
        raise UserError(
            f"Ascend's fused attention in {dtype} needs head size and tokens of a row to be multiples of {multiple}, "
            f"found {head_size} and {tokens}; choose another model or --seq-length, or --precision float32."
        )


__all__ = ["Operations", "check", "only_fused", "operations", "products", "why_not_fused"]
