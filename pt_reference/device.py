"""`--device` to a torch device, or one sentence that says what is missing."""

from __future__ import annotations

import shutil

from ms_bert.errors import UserError, missing


def use_device(device: str, compile: bool = False, threads: int | None = None) -> None:
    """Check that torch can compute on a device.

    Args:
        device: 'CPU', 'GPU' or 'Ascend'. compile: torch.compile will be asked for.
        threads: of the processor; None: as many as torch takes.

    Raises:
        UserError: torch, the device or what it needs is missing.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":  # it is there, and something that it needs is not
            raise
        raise missing("torch", "a BERT in PyTorch") from None
    if device == "Ascend":
        raise UserError("the PyTorch reference does not run on Ascend; use --device CPU or GPU, or ms_bert instead.")
    if device == "GPU" and not torch.cuda.is_available():
        raise UserError(
            "torch found no usable GPU: it needs an NVIDIA driver and a CUDA build of torch; check with "
            f"`nvidia-smi` and `python -c 'import torch; print(torch.version.cuda)'` (here: {torch.version.cuda})."
        )
    if compile and device == "CPU" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UserError("--compile needs a C++ compiler on the CPU, but none is on the PATH; install g++ or clang++.")
    if threads is not None:
        torch.set_num_threads(threads)


def torch_device(device: str):
    """The torch.device of a --device."""
    import torch

    return torch.device("cuda" if device == "GPU" else "cpu")
