"""How long does converting BERT-large take against copying the file, and how much memory?

Every round copies the safetensors file (`dd conv=fsync`: on the disk when it ends, as a conversion's output is; and
`cp`, which leaves that to the system) and converts it to safetensors; the first few rounds convert it to the other
formats too. All are processes of their own, and ratios are taken within a round. The weights are random.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from conversion import configs
from conversion.formats import safetensors_file
from conversion.parameters import ARCHITECTURES, BACKBONE, shapes
from conversion.tensors import Tensor
from ms_bert.config import PRESETS

ROUNDS, ROUNDS_OF_ALL = 15, 3
TARGETS = {
    "safetensors": "folder",
    "MindSpore .ckpt": "mindspore/model.ckpt",
    "TensorFlow": "tensorflow/model.ckpt.index",
    "ONNX": "onnx/model.onnx",
}


def measure(output):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In processes of their own: a command's peak memory begins with that of the process it is started from.
        with ProcessPoolExecutor(1) as pool:
            size = pool.submit(_write_large, folder / "source").result()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rounds = pool.submit(_rounds, folder).result()
    return {
        "bytes": size,
        "largest_tensor_mb": round(30522 * 1024 * 4 / 1e6),
        "rounds": ROUNDS,
        "median_seconds": {
            kind: _median(times[kind][0] for times in rounds if kind in times)
            for kind in ("copy, on disk", "copy", *TARGETS)
        },
        "times_a_copy_on_disk": _spread(times["safetensors"][0] / times["copy, on disk"][0] for times in rounds),
        "times_a_copy": _spread(times["safetensors"][0] / times["copy"][0] for times in rounds),
        "peak_memory_mb": {kind: round(max(t[kind][1] for t in rounds if kind in t)) for kind in TARGETS},
    }


def _rounds(folder: Path) -> list[dict[str, tuple[float, float]]]:
    """Seconds and peak megabytes of each command, round by round."""
    file, rounds = folder / "source" / "model.safetensors", []
    for number in range(ROUNDS + 1):
        times, copy = {}, folder / "copy"
        times["copy, on disk"] = _run("dd", f"if={file}", f"of={copy}", "bs=4M", "conv=fsync", "status=none")
        copy.unlink()
        times["copy"] = _run("cp", file, copy)
        copy.unlink()
        for kind, target in list(TARGETS.items())[: None if number <= ROUNDS_OF_ALL else 1]:
            place = folder / f"to-{number}"
            command = (sys.executable, "-m", "conversion", "convert", folder / "source", place / target)
            times[kind] = _run(*command)
            subprocess.run(["rm", "-r", place], check=True)
        print({kind: round(seconds, 2) for kind, (seconds, _) in times.items()}, flush=True)
        if number:  # the first fills the page cache
            rounds.append(times)
    return rounds


def _write_large(folder: Path) -> int:
    """BERT-large with its pre-training heads; returns the bytes of its file."""
    config, rng = PRESETS["large"], np.random.default_rng(1)
    named = shapes(config, {*BACKBONE, *ARCHITECTURES["BertForPreTraining"].parts})
    folder.mkdir()
    (folder / configs.HUGGING_FACE).write_bytes(configs.hugging_face(config, "BertForPreTraining", {"float32"}, {}))
    weights = {name: Tensor.of(rng.standard_normal(shape, np.float32)) for name, shape in named.items()}
    safetensors_file.write(folder / "model.safetensors", weights, {"format": "pt"})
    return os.path.getsize(folder / "model.safetensors")


def _run(*command) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command."""
    os.sync()
    begun = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the measured command failed: {' '.join(map(str, command))}")
    return time.perf_counter() - begun, usage.ru_maxrss * 1024 / 1e6


def _median(values) -> float:
    return round(statistics.median(values), 2)


def _spread(values) -> dict[str, float]:
    values = sorted(values)
    return {"least": round(values[0], 2), "median": _median(values), "most": round(values[-1], 2)}
