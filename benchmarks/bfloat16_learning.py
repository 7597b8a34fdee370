"""Does a BERT learn as well with products in bfloat16 as in float32?

The default pre-training for 600 steps, by the fused kernels, with some seeds in each precision: what it scores on
held-out text must not be farther from float32's mean than float32's own seeds are from each other. Two cores take about
ten minutes. The runs are kept in the cache, in a folder of the commit, so that an interrupted measurement goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import runs
from ms_bert.kernels import native

STEPS = ("--steps", "600", "--warmup-steps", "60", "--eval-every", "200")
SEEDS = (1, 2, 3)


def measure(output: Path, steps=STEPS, seeds=SEEDS, work: Path | None = None) -> Iterator[dict]:
    """A result for each run."""
    if reason := native.why_not("bfloat16"):
        raise SystemExit(f"there is nothing to measure: {reason}")
    folder = runs.folder("bfloat16_learning", work)
    for seed in seeds:  # by seeds first: so there is something to compare early
        for precision in ("float32", "bfloat16"):
            line = [*steps, "--precision", precision, "--seed", seed]
            run = runs.Run("ms_bert.pretrain", (), line, folder / f"{precision}-{seed}", {folder: "WORK"})
            yield {"precision": precision, "seed": seed, **run.done(), "held_out": run.held_out()}
