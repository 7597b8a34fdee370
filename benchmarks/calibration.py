"""How near to their limits do sound models come in `verify X X`, and how far beyond theirs are faults?

More than 200 models of many sizes, initialisers and seeds are each verified against themselves: every finding beyond
its limit is a false alarm. All faults of the agreement suite are planted in its problems, and those of the weights in
some of the models too. A part is done again with narrower instructions, of the fused kernels and of PyTorch.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from conversion.agreement import cases
from conversion.agreement.cases import Tensors
from conversion.agreement.findings import Finding, worst
from conversion.agreement.tolerances import kind
from conversion.checkpoint import Checkpoint
from conversion.names import Spelling
from conversion.parameters import shapes
from conversion.sources import Source
from conversion.tensors import Tensor
from ms_bert.config import PRESETS, BertConfig
from ms_bert.kernels import native
from ms_bert.options import Options, TrainingOptions
from ms_bert.randomness import initial_weights


def _shape(layers: int, heads: int, head: int, inner: int, positions: int, vocabulary: int, **fields) -> BertConfig:
    return BertConfig(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=heads * head,
        intermediate_size=inner,
        max_position_embeddings=positions,
        vocab_size=vocabulary,
        **fields,
    )


# 1 to 12 heads of 8 to 128, tables of 16 to 512 positions, every activation, epsilons from 1e-12 to 1e-5.
SHAPES: dict[str, BertConfig] = {
    "least": _shape(1, 1, 8, 16, 16, 50),
    "one wide head": _shape(2, 1, 128, 256, 64, 500),
    "odd": _shape(4, 3, 16, 80, 40, 120),
    "tanh": _shape(4, 4, 32, 256, 128, 1000, hidden_act="gelu_new"),
    "relu": _shape(6, 6, 8, 96, 32, 97, hidden_act="relu"),
    "many heads": _shape(2, 12, 16, 384, 256, 2000, layer_norm_eps=1e-5),
    "deep": _shape(12, 2, 32, 128, 64, 200, layer_norm_eps=1e-7),
    "long": _shape(2, 4, 24, 200, 512, 300),
    "one segment": _shape(3, 2, 48, 300, 100, 3000, type_vocab_size=1),
    "wide heads": _shape(3, 2, 128, 512, 96, 700, hidden_act="gelu_new", layer_norm_eps=1e-6),
    "all 30522": _shape(2, 2, 32, 128, 128, 30522),
    "five heads": _shape(5, 5, 20, 64, 77, 333, layer_norm_eps=1e-8),
}

Initialiser = Callable[[BertConfig, int], Tensors]


def _normal(spread: float, truncated: bool = False) -> Initialiser:
    def made(config: BertConfig, seed: int) -> Tensors:
        named = shapes(config, cases.PRETRAINING)
        return {name: initial_weights(name, shape, spread, seed, truncated) for name, shape in named.items()}

    return made


def _wide(spread: float) -> Initialiser:
    """Every number normal, LayerNorm's and the biases too."""

    def made(config: BertConfig, seed: int) -> Tensors:
        rng = np.random.default_rng(seed)
        named = shapes(config, cases.PRETRAINING)
        return {name: rng.normal(0.0, spread, shape).astype(np.float32) for name, shape in named.items()}

    return made


def _random(config: BertConfig, seed: int) -> Tensors:
    return cases.random_weights(shapes(config, cases.PRETRAINING), seed)


def _xavier(config: BertConfig, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    weights = _normal(0.02)(config, seed)
    for name, value in weights.items():
        if value.ndim == 2:
            bound = (6.0 / sum(value.shape)) ** 0.5
            weights[name] = rng.uniform(-bound, bound, value.shape).astype(np.float32)
    return weights


def _gains(spread: float) -> Initialiser:
    """LayerNorm gains far from 1, as trained models have a few."""

    def made(config: BertConfig, seed: int) -> Tensors:
        rng, weights = np.random.default_rng(seed), _normal(0.05)(config, seed)
        for name, value in weights.items():
            if name.endswith("LayerNorm.weight"):
                weights[name] = np.exp(rng.normal(0.0, spread, value.shape)).astype(np.float32)
            elif name.endswith("bias"):
                weights[name] = rng.normal(0.0, 0.1, value.shape).astype(np.float32)
        return weights

    return made


def _sharp(config: BertConfig, seed: int) -> Tensors:
    """Attention near a choice of one token."""
    weights = _random(config, seed)
    return {name: value * np.float32(2.0 if ".query." in name else 1.0) for name, value in weights.items()}


def _alike(config: BertConfig, seed: int) -> Tensors:
    """All tokens' vectors nearly the same: a collapsed model, whose attention is flat."""
    weights = _normal(0.02)(config, seed)
    for table in ("word", "position"):
        name = f"bert.embeddings.{table}_embeddings.weight"
        weights[name] = (weights[name][:1] + weights[name] * np.float32(1e-3)).astype(np.float32)
    return weights


def _collapsed(config: BertConfig, seed: int) -> Tensors:
    """All tokens' vectors the same."""
    weights = _normal(0.02)(config, seed)
    for table in ("word", "position", "token_type"):
        name = f"bert.embeddings.{table}_embeddings.weight"
        weights[name] = np.repeat(weights[name][:1], len(weights[name]), 0)
    return weights


def _constant(config: BertConfig, seed: int) -> Tensors:
    """Every number the same but LayerNorm's gain: no variance anywhere."""
    return {name: np.full_like(value, 0.02) for name, value in _normal(0.02)(config, seed).items()}


def _trained(steps: int, rate: float) -> Initialiser:
    """By pt_reference, on batches of random tokens."""

    def made(config: BertConfig, seed: int) -> Tensors:
        from pt_reference.training.trainer import TorchTrainer

        training = TrainingOptions(steps=steps, batch_size=4, learning_rate=rate, seed=seed)
        trainer = TorchTrainer(config, Options(training=training))
        tokens = min(config.max_position_embeddings, 64)
        for step in range(steps):
            lengths = tuple((tokens - row,) for row in range(4))
            trainer.train_step(cases.make_batch(config, lengths, tokens, seed=seed * 1000 + step), step, rate)
        return dict(trainer.state()[0])

    return made


INITIALISERS: dict[str, Initialiser] = {
    "normal 0.02": _normal(0.02),
    "truncated 0.02": _normal(0.02, truncated=True),
    "normal 0.1": _normal(0.1),
    "normal 0.002": _normal(0.002),
    "random": _random,
    "wide 0.3": _wide(0.3),
    "wide 1": _wide(1.0),
    "xavier": _xavier,
    "gains 1": _gains(1.0),
    "gains 2": _gains(2.0),
    "sharp": _sharp,
    "alike": _alike,
    "collapsed": _collapsed,
    "constant": _constant,
    "trained": _trained(3, 1e-3),
    "trained longer": _trained(60, 3e-3),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of the calibration.

    Attributes:
        shape: of SHAPES or PRESETS. initialiser: of INITIALISERS. precision: at which it is verified.
    """

    shape: str
    initialiser: str
    seed: int = 1
    precision: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.shape}, {self.initialiser}, seed {self.seed}, {self.precision}"

    def checkpoint(self) -> Checkpoint:
        config = SHAPES.get(self.shape) or PRESETS[self.shape]
        weights = {name: Tensor.of(value) for name, value in INITIALISERS[self.initialiser](config, self.seed).items()}
        return _checkpoint(self.name, config, weights)


def _checkpoint(name: str, config: BertConfig, weights: dict[str, Tensor]) -> Checkpoint:
    """As if it had been read from a file without a tokenizer beside it."""
    source = Source(Path(name), "memory", Path("nowhere"), weights)
    spelling = Spelling("hugging-face", ("bert.", ""))
    return Checkpoint(source, spelling, "BertForPreTraining", cases.PRETRAINING, weights, {}, {}, config, (), ())


_OF_PRESETS = {
    "tiny": ("normal 0.02", "trained longer", "random", "gains 1"),
    "mini": ("normal 0.02", "trained"),
    "small": ("normal 0.02",),
    "medium": ("normal 0.02",),
    "base": ("normal 0.02",),
}
_IN_FLOAT16 = ("normal 0.02", "random", "trained")
MODELS = (
    *(Model(shape, initialiser) for shape in SHAPES for initialiser in INITIALISERS),
    *(Model(shape, initialiser, 1, "float16") for shape in ("odd", "many heads") for initialiser in _IN_FLOAT16),
    *(Model(shape, initialiser) for shape, of_shape in _OF_PRESETS.items() for initialiser in of_shape),
)
# Those that are done again with narrower instructions, and those that faults are planted in.
AGAIN = tuple(model for model in MODELS if model.shape in ("odd", "wide heads") and model.precision == "float32")
SPOILED = tuple(model for model in AGAIN if model.shape == "odd" and model.initialiser != "constant")
FAULTS = "faults"  # a part of its own
PROCESSES = 2  # at a time, of one thread each
_OF_TORCH = {"avx512": "avx512", "avx2": "avx2", "baseline": "default"}  # PyTorch's words for instructions


def measure(output):
    known = native.INSTRUCTIONS["float32"]
    widest = known.index(native.instructions())
    first, second = known[widest : widest + 2]
    shapes_of = {first: MODELS, second: AGAIN}
    parts = [(name, shape) for name, models in shapes_of.items() for shape in dict.fromkeys(m.shape for m in models)]
    # The largest first: what the machine has no memory for fails at once.
    parts.sort(key=lambda part: list(_OF_PRESETS).index(part[1]) if part[1] in _OF_PRESETS else -1, reverse=True)
    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        planted = pool.submit(_in_a_process, first, FAULTS)
        found = list(pool.map(lambda part: _in_a_process(*part), parts))
    smallest = {}
    for fault, told in planted.result()["planted"].items():
        if told["kind"] not in smallest or told["times"] < smallest[told["kind"]]["times"]:
            smallest[told["kind"]] = {"fault": fault, "times": told["times"]}
    return {
        "models_verified_against_themselves": sum(run["models"] for run in found),
        "by_instructions": {
            name: sum(run["models"] for run, part in zip(found, parts) if part[0] == name) for name in shapes_of
        },
        "false_alarms": [alarm for run in found for alarm in run["false_alarms"]],
        "sound": _merged([run["sound"] for run in found]),
        "smallest_fault": smallest,
        **planted.result(),
    }


def _in_a_process(instructions: str, part: str) -> dict:
    """What a process of its own finds: PyTorch chooses its instructions once, and compiled graphs are never freed."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": _OF_TORCH[instructions], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.calibration", instructions, part]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(instructions: str, part: str) -> dict:
    """The models of one shape, or the faults."""
    import torch  # noqa: F401 - before MindSpore, whose import leaves later ones a single thread

    from conversion.agreement.verify import Settings, verify
    from ms_bert.device import quiet_logs

    quiet_logs()
    of_all = MODELS if instructions == native.instructions() else AGAIN
    if not native.use(instructions):
        raise SystemExit(f"this processor has no {instructions}")
    if part == FAULTS:
        return {"planted": _planted(), "planted_in_models": _planted_in_models()}
    models, sound, alarms = [model for model in of_all if model.shape == part], {}, []
    for model in models:
        checkpoint = model.checkpoint()
        report = verify(checkpoint, checkpoint, Settings(precision=model.precision))
        sound = _merged([sound, _shares(model.name, report.findings)])
        if not report.agrees:
            alarms.append(f"{model.name}: {report.verdict}")
        told = "agrees" if report.agrees else f"FALSE ALARM: {report.verdict}"
        print(f"{instructions} {model.name}: {told}", file=sys.stderr, flush=True)
    return {"models": len(models), "false_alarms": alarms, "sound": sound}


def _shares(model: str, findings: Iterable[Finding]) -> dict:
    """By kind of tensor and precision: the largest share of its limit that a judged tensor came to, and where."""
    by_kind = collections.defaultdict(list)
    for finding in findings:
        if finding.check != "tables" and finding.yardstick is not None:
            by_kind[f"{kind(finding.check, finding.name)} {finding.precision}"].append(finding)
    found = {}
    for key, of_kind in by_kind.items():
        judged = [finding for finding in of_kind if finding.judged]
        nearest = worst(judged) if judged else None
        found[key] = {
            "largest_share": round(nearest.share, 3) if nearest else 0.0,
            "where": f"{model}: {nearest.contender}, {nearest.case}, {nearest.name}" if nearest else "",
            "judged": len(judged),
            "not_judged": len(of_kind) - len(judged),
        }
    return found


def _merged(parts: list[dict]) -> dict:
    merged: dict[str, dict] = {}
    for part in parts:
        for key, told in part.items():
            before = merged.setdefault(key, {**told, "judged": 0, "not_judged": 0})
            counts = {name: before[name] + told[name] for name in ("judged", "not_judged")}
            nearest = max(before, told, key=lambda one: one["largest_share"])
            merged[key] = {**nearest, **counts}
    return merged


def _planted() -> dict:
    """Each fault of the suite in its problem: how many times its limit the farthest finding is."""
    from conversion.agreement import faults
    from conversion.agreement.full import as_caught
    from conversion.agreement.in_mindspore import MindSpore
    from conversion.agreement.suite import Reference

    small, quiet = ((problem, Reference(problem)) for problem in (cases.small_problem(), cases.quiet_problem()))
    healthy, found = MindSpore(), {}
    for name, fault in faults.FAULTS.items():
        caught = as_caught(name, fault.what, faults.planted(fault, healthy, *(quiet if fault.quiet else small)))
        precision = fault.precision
        found[name] = {
            "kind": f"{kind(caught.check, caught.tensor)} {precision}",
            "times": _rounded(caught.times),
            "caught": caught.caught,
        }
        print(f"fault {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def _planted_in_models() -> dict:
    """Each fault of the weights, and of LayerNorm's epsilon, in models that it changes, as PyTorch computes them."""
    from conversion.agreement import faults
    from conversion.agreement.verify import Pair, Settings

    found: dict[str, dict] = {}
    for model in SPOILED:
        sound = model.checkpoint()
        assert sound.config is not None
        arrays = {name: tensor.read() for name, tensor in sound.weights.items()}
        for name, fault in faults.FAULTS.items():
            if fault.weights is faults.FAULTS["tanh-gelu"].weights:  # not one of the weights
                continue
            try:
                spoiled = fault.weights(arrays)
            except ValueError:  # a width that is not three heads'
                continue
            if all(np.array_equal(spoiled[key], value) for key, value in arrays.items()):
                continue
            other = _checkpoint(
                f"{model.name} with {name}", sound.config, {k: Tensor.of(v) for k, v in spoiled.items()}
            )
            pair = Pair(sound, other, Settings())
            pair.sides = [side for side in pair.sides if side.name.startswith("PyTorch")]
            report = pair.report()
            beyond = worst(finding for finding in report.findings if finding.check != "tables")
            told = found.setdefault(name, {"models": 0, "caught": 0, "smallest_times": math.inf, "where": ""})
            told["models"] += 1
            told["caught"] += not report.agrees
            if beyond.share < told["smallest_times"]:
                told |= {"smallest_times": _rounded(beyond.share), "where": model.name}
        print(f"faults in {model.name}", file=sys.stderr, flush=True)
    return found


def _rounded(times: float) -> float:
    return float(f"{times:.3g}") if math.isfinite(times) else 1e99


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
