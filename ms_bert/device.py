"""`--device` to a MindSpore context in graph mode, or one sentence that says what is missing."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

from ms_bert.errors import UserError, missing
from ms_bert.process import own_threads

_MISSING = {
    "Ascend": "MindSpore found no usable Ascend NPU: CANN (its libge_runner.so) is not on the library path; install "
    "CANN, its toolkit and its kernels, run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`, and check with "
    "`npu-smi info`.",
    "GPU": "MindSpore found no usable GPU: its plugin needs CUDA 11.1 or 11.6 with cuDNN 8, and CUDA_HOME pointing to "
    "it; check with `nvidia-smi` and `$CUDA_HOME/bin/nvcc --version`.",
}

# Of bfloat16 MindSpore 2.10 has products on the NPU only, and none for CPU or GPU; on the CPU the fused kernels have.
PRECISIONS = {
    "CPU": ("float32", "float16", "bfloat16"),
    "GPU": ("float32", "float16"),
    "Ascend": ("float32", "float16", "bfloat16"),
}


def quiet_logs() -> None:
    """Keep MindSpore, before it is imported, from warning in pages about plugins for devices that are not there.

    And from leaving `rank_0/om` in the working directory, with the graph that it was compiling when a signal came.
    """
    os.environ.setdefault("GLOG_v", "3")
    user = getattr(os, "getuid", os.getpid)()
    os.environ.setdefault("MS_OM_PATH", os.path.join(tempfile.gettempdir(), f"mindspore-{user}"))


def use_device(device: str, precision: str = "float32", recompute: bool = False, threads: int | None = None) -> None:
    """Make MindSpore compute on a device, in graph mode.

    Args:
        device: 'CPU', 'GPU' or 'Ascend'. precision, recompute: that will be asked of it.
        threads: of the processor, for MindSpore's own operations and for the fused ones; None: all there are.

    Raises:
        UserError: MindSpore, the device or what it needs is missing, or it cannot do what is asked.
    """
    if recompute and device == "CPU":
        # Seen on MindSpore 2.10: BERT-base's step takes 14% more memory with it, for all activations stay.
        raise UserError(
            "--recompute saves no memory on CPU, because MindSpore also keeps what it computed the first time; "
            "use --accumulate instead."
        )
    if precision not in PRECISIONS[device]:
        able = [name for name, precisions in PRECISIONS.items() if precision in precisions]
        elsewhere = f"--device {' or '.join(able)}" if able else "pt_reference instead of ms_bert"
        raise UserError(
            f"--precision {precision} is not supported by MindSpore on {device}; use {' or '.join(PRECISIONS[device])} "
            f"there, or {elsewhere}."
        )
    quiet_logs()
    try:
        import mindspore
    except ModuleNotFoundError as error:
        if error.name != "mindspore":  # it is there, and something that it needs is not
            raise
        raise missing("mindspore", "a BERT in MindSpore") from None

    # Without the device MindSpore logs its own list of errors before it raises.
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        mindspore.set_device(device)
    except RuntimeError as error:
        running = mindspore.get_context("device_target")
        if "initialized" not in str(error):
            if device == "CPU":
                raise
            raise UserError(_MISSING[device]) from error
        if running != device:  # after its first operation MindSpore changes no more
            raise UserError(
                f"MindSpore already computes on {running} in this process; choose {device} before its first operation."
            ) from error
    finally:
        logging.disable(level)
    if device == "Ascend" and precision != "float32" and _is_first_ascend():
        raise UserError(
            f"--precision {precision} needs an Ascend 910B or later, and this is a 910: MindSpore's fused attention is "
            "not on it, and an overflow in float16 is not seen there; use --precision float32."
        )
    if device != "CPU":
        # A resumed run is to write the same bytes. On the CPU MindSpore always gives the same, elsewhere if told to.
        with contextlib.suppress(RuntimeError):  # it has been told before, by this function or by the user
            mindspore.set_deterministic(True)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    threads = own_threads(threads)
    if threads is not None:
        from ms_bert.kernels import native

        mindspore.set_context(runtime_num_threads=threads)
        if not native.why_not():
            native.set_threads(threads)


def _is_first_ascend() -> bool:
    """Whether the NPU is of Ascend's first generation for training, which saturates where others give infinity."""
    from mindspore._c_expression import MSContext

    return MSContext.get_instance().get_ascend_soc_version() == "ascend910"


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Within it, MindSpore computes one operation after the other, and compiles nothing."""
    import mindspore

    mode = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    try:
        yield
    finally:
        mindspore.set_context(mode=mode)
