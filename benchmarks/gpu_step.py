"""How long does a pre-training step take in PyTorch on a GPU, how near is it to the card's peak, and is it right?

pt_reference, AdamW, clipping, rows that several sequences fill, without dropout but for one; what does not run is named
with its error. It begins with what matters most and nothing new after seven minutes, for such machines are lent by the
minute.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.contenders import Work
from benchmarks.contenders.pretraining import batch_of
from conversion.agreement import full, goldens
from conversion.agreement.in_torch import PyTorch
from ms_bert.options import ExampleOptions, Options, PyTorchOptions, RunOptions, TrainingOptions
from pt_reference.device import torch_device, use_device
from pt_reference.training.trainer import TorchTrainer

BUDGET = 420  # seconds
PEAK_SIZE = 8192  # of the square product


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to compute a step.

    Attributes:
        rows, tokens: of the batch, all tokens real. sequences: of a row, equally long. compiled: by torch.compile.
    """

    preset: str
    rows: int
    tokens: int
    sequences: int
    precision: Any
    compiled: bool
    dropout: float = 0.0

    @property
    def work(self) -> Work:
        """Its batch, as if each sequence had a row of its own, which is what needs to be computed."""
        tokens = self.tokens // self.sequences
        return Work("pretraining", self.preset, self.rows * self.sequences, tokens, slots=-int(-tokens * 0.15 // 1))

    def batch(self) -> dict[str, np.ndarray]:
        """Random tokens; every slot in use."""
        apart, tokens = batch_of(self.work), self.tokens // self.sequences
        batch = {name: value.reshape(self.rows, -1) for name, value in apart.items()}
        numbers = np.repeat(np.arange(self.sequences, dtype=np.int32), tokens)
        begins = np.arange(self.sequences, dtype=np.int32) * tokens
        batch["sequence_ids"] = np.tile(numbers + 1, (self.rows, 1))
        batch["cls_positions"] = np.tile(begins, (self.rows, 1))
        batch["masked_positions"] += np.repeat(begins, self.work.slots)
        return batch


def _variants() -> list[Variant]:
    shapes = (("base", 256, 128, 1), ("large", 48, 512, 4), ("base", 96, 512, 4), ("large", 128, 128, 1))
    ways = (("bfloat16", True), ("bfloat16", False), ("float16", True), ("float16", False))
    found = [Variant(*shape, *way) for way in ways for shape in shapes]
    return [*found, Variant(*shapes[0], *ways[0], dropout=0.1), Variant(*shapes[0], "float32", True)]


def measure(output):
    use_device("GPU", compile=True)
    return measured("GPU", _variants(), PEAK_SIZE, BUDGET)


def measured(
    device: str,
    variants: Iterable[Variant],
    peak_size: int,
    budget: float,
    precisions: Sequence[str] = goldens.PRECISIONS,
) -> Iterator[dict]:
    """What is found, one thing after the other.

    Args:
        peak_size: of the square product. budget: seconds, after which nothing is begun.
    """
    end = time.perf_counter() + budget

    def tried(about: dict, find: Callable[[], dict]) -> dict:
        """What is found, or the error that came instead, for what runs on one machine may break on another."""
        if time.perf_counter() > end:
            found = {"left_out": "no time was left"}
        else:
            try:
                found = find()
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print({**about, **found}, flush=True)
        return {**about, **found}

    yield {"device": _described(device)}
    peaks: dict[str, float] = {}
    for precision in precisions:
        found = tried({"product": precision}, lambda: {"peak_tflops_a_second": _peak(device, precision, peak_size)})
        peaks[precision] = found.get("peak_tflops_a_second", math.nan)
        yield found
    agreement = [(precision, attention) for attention in ("plain", "fused") for precision in precisions]

    def checked(precision: str, attention: str) -> dict:
        contender = PyTorch(precision, device=device, fused=attention == "fused")
        return tried({"agreement": precision, "attention": attention}, lambda: _agreement(contender))

    # First whether it is right at all, then the steps, and then the rest.
    yield from (checked(*one) for one in agreement[:1])
    for variant in variants:
        yield tried(dataclasses.asdict(variant), lambda: _step(device, variant, peaks.get(variant.precision, math.nan)))
    yield from (checked(*one) for one in agreement[1:])


def _described(device: str) -> dict:
    import torch

    if device == "CPU":
        return {"name": "CPU", "torch": torch.__version__}
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": [found.major, found.minor],
        "memory_gib": round(found.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def _wait(device: str) -> None:
    import torch

    if device == "GPU":
        torch.cuda.synchronize()


def _peak(device: str, precision: str, size: int, rounds: int = 10) -> float:
    """TFLOP/s of a square product, the best of some."""
    import torch

    torch.manual_seed(0)
    a, b = (torch.randn(size, size, device=torch_device(device)).to(getattr(torch, precision)) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        begun = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return round(2 * size**3 / best / 1e12, 3)


def _agreement(contender: PyTorch) -> dict:
    """Of every number that PyTorch computes, those beyond its limit around the stored ones."""
    found = full.of_goldens(contender, goldens.Goldens())
    beyond = [str(finding) for finding in found if not finding.agrees]
    return {"checks": len(found), "largest_share_of_limit": max(one.share for one in found), "beyond": beyond[:20]}


def _step(device: Any, variant: Variant, peak: float) -> dict:
    """Seconds of a step, the share of the peak that its products reach, and what it needs."""
    import torch

    options = Options(
        training=TrainingOptions(batch_size=variant.rows, precision=variant.precision),
        examples=ExampleOptions(seq_length=variant.tokens),
        run=RunOptions(device=device),
        pytorch=PyTorchOptions(compile=variant.compiled),
    )
    torch.compiler.reset()
    gc.collect()
    if device == "GPU":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer, batch = TorchTrainer(variant.work.config.with_dropout(variant.dropout), options), variant.batch()
    losses, seconds = [], []
    for step in range(4 + 16):
        begun = time.perf_counter()
        sums = trainer.train_step(batch, step, 1e-4).sums
        seconds.append(time.perf_counter() - begun)
        losses.append(sums["masked_loss"] / batch["masked_weights"].sum())
        if step >= 4 + 3 and sum(seconds[4:]) > 5.0:
            break
    typical = statistics.median(seconds[4:])
    used = torch.cuda.max_memory_allocated() / 1e9 if device == "GPU" else None
    return {
        "seconds": round(typical, 5),
        "first_step_seconds": round(seconds[0], 2),
        "steps": len(seconds) - 4,
        "sequences_a_second": round(variant.work.rows / typical, 1),
        "tokens_a_second": round(variant.rows * variant.tokens / typical),
        "model_flops_utilisation": None if math.isnan(peak) else round(variant.work.flops / typical / (peak * 1e12), 4),
        "peak_memory_gb": None if used is None else round(used, 2),
        "mlm_loss_first_last": [round(float(losses[0]), 4), round(float(losses[-1]), 4)],
    }
