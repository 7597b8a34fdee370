"""What memory does a BERT-base step of 8 sequences of 128 tokens take, and does a BERT-large train at all?

The real command on the built-in corpus with a vocabulary of 30522 entries, float32 with dropout, on the CPU.
"""

import json
import tempfile
from pathlib import Path

from benchmarks.machine import run_pretraining

RUNS = {
    "base": ("--preset", "base", "--batch-size", 8, "--steps", 4),
    "large": ("--preset", "large", "--batch-size", 1, "--steps", 2),
}


def measure(output):
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in RUNS.items():
            run = Path(folder) / name
            whole = run_pretraining(
                *arguments,
                "--seq-length",
                128,
                "--dropout",
                0.1,
                "--vocab-size",
                30522,
                "--held-out",
                0,
                "--no-graph-cache",
                "--log-every",
                1,
                "--output",
                run,
            )
            lines = [json.loads(line) for line in (run / "throughput.jsonl").read_text().splitlines()]
            steps = [line["seconds"] for line in lines if "seconds" in line]
            losses = [json.loads(line)["mlm_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
            results[name] = {
                "command": " ".join(map(str, arguments)),
                "parameters": json.loads((run / "run.json").read_text())["parameters"],
                "peak_memory_gb": whole["peak_memory_gb"],
                "compile_seconds": lines[0]["compile_seconds"],
                "step_seconds": steps[1:],  # the first makes room for all that follow
                "mlm_losses": losses,
            }
    return {**results, "required_base_peak_memory_gb": 8}
