"""What a comparison ran on: the machine and the versions, for its report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from ms_bert.errors import missing

# Sets of instructions that matrix products and kernels choose between, by Linux' names: those of x86-64, those of ARM.
INSTRUCTIONS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm", "sme"),
)
PACKAGES = ("ms-bert", "mindspore", "torch", "onnxruntime", "transformers", "numpy")


def is_installed(name: str) -> bool:
    """Whether a package can be imported here."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def check_installed(*names: str) -> None:
    """Raise UserError where a package that the comparison needs is not installed."""
    for name in names:
        if not is_installed(name):
            raise missing(name, "this comparison")


@dataclasses.dataclass(frozen=True)
class Processor:
    """What speed and rounding depend on; one name may be that of processors of several generations.

    Attributes:
        name: as the processor, or a hypervisor, gives it. family, model, stepping: of x86's cpuid; None elsewhere.
        instructions: those of INSTRUCTIONS that it has.
    """

    name: str
    family: int | None
    model: int | None
    stepping: int | None
    instructions: tuple[str, ...]

    @classmethod
    def here(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
        """That of this machine."""
        try:
            lines = cpuinfo.read_text().splitlines()
        except OSError:
            lines = []
        fields: dict[str, str] = {}
        for line in lines:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())  # the first core's
        numbers = (fields.get(key, "") for key in ("cpu family", "model", "stepping"))
        family, model, stepping = (int(text) if text.isdigit() else None for text in numbers)
        has = set((fields.get("flags") or fields.get("Features") or "").split())
        name = fields.get("model name") or platform.machine()
        return cls(name, family, model, stepping, tuple(name for name in INSTRUCTIONS if name in has))

    def __str__(self) -> str:
        known = {"family": self.family, "model": self.model, "stepping": self.stepping}
        numbers = "".join(f", {name} {number}" for name, number in known.items() if number is not None)
        return f"{self.name}{numbers} ({' '.join(self.instructions) or 'no vector instructions known here'})"


def environment(device: str) -> dict[str, str]:
    """Names and values, for people."""
    described = {"MindSpore's device": device, "processor": str(Processor.here())}
    described |= {"cores": str(len(os.sched_getaffinity(0)))}
    described |= {"system": platform.platform(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            described[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            described[name] = "not installed"
    return described
