"""How long until the default command trains, with the token store there, and how much of that is compilation?

Five starts of the default run without the evaluation before its first step, each stopped after two steps.
"""

import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.machine import run_pretraining

STARTS = 5


def measure(output):
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        run_pretraining(
            "--steps", 1, "--eval-every", 0, "--no-graph-cache", "--output", Path(folder) / "first"
        )  # makes the store
        for number in range(STARTS):
            run = Path(folder) / str(number)
            seconds = run_pretraining(
                "--steps", 2, "--eval-every", 0, "--no-graph-cache", "--output", run, watch="compiled in"
            )
            line = json.loads((run / "throughput.jsonl").read_text().splitlines()[0])
            starts.append(
                {
                    "to_first_step_seconds": seconds["watched_seconds"],
                    "compile_seconds": line["compile_seconds"],
                }
            )
    return {
        "starts": starts,
        "median": {k: statistics.median(s[k] for s in starts) for k in starts[0]},
        "required_to_first_step_seconds": 60,
    }
