"""What does the run of `make pretrain` learn, and in what time?

Its command in full, with nothing kept from earlier runs; its curves are kept beside as learning.png. At the end
the model is asked for some words.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import run_pretraining
from ms_bert.run.folder import CURVES, METRICS, RUN, THROUGHPUT, read_log

OPTIONS = ("--phases", "32x128x600")  # of `make pretrain`
MASKED = (
    "The [MASK] statement is used to import a module.",
    "Return the [MASK] of the array.",
    "The [MASK] of a dictionary can be iterated over.",
)


def measure(output):
    with tempfile.TemporaryDirectory() as folder:
        run, cache = Path(folder) / "run", Path(folder) / "cache"
        whole = run_pretraining(*OPTIONS, "--output", run, "--cache", cache)
        shutil.copyfile(run / CURVES, output / "learning.png")
        description = json.loads(_portable((run / RUN).read_text(), folder))
        metrics, throughput = read_log(run, METRICS), read_log(run, THROUGHPUT)
        ask = [sys.executable, "-m", "ms_bert.predict", str(run), "--fill-mask", *MASKED]
        guesses = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()
    throughput = [line for line in throughput if "seconds" in line]  # another line tells what compiled
    training = sum(line["seconds"] for line in throughput)
    return {
        "seconds": whole["seconds"],
        "peak_memory_gb": whole["peak_memory_gb"],
        "printed": [_portable(line, folder) for line in whole["lines"]],
        "guesses": dict(zip(MASKED, guesses)),
        "parameters": description["parameters"],
        "text": description["text"],
        "options": description["options"],
        "held_out": [line for line in metrics if "held_out_mlm_loss" in line],
        "training_seconds": round(training, 1),
        "waited_for_batches_share": round(sum(line["waited_for_batches"] for line in throughput) / training, 5),
        "required": {
            "held_out_mlm_loss_under": description["text"]["held_out_unigram_entropy"],
            "held_out_nsp_accuracy_over": 0.5,
        },
    }


def _portable(text: str, folder: str) -> str:
    """The text with the places of the default run, and without this machine's paths."""
    text = text.replace(f"{folder}/run", "RUN").replace(f"{folder}/cache", "~/.cache/ms_bert")
    return text.replace(str(Path.home()), "~")
