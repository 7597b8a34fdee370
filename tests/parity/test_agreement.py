"""Every tensor that a framework computes, in every mode and precision it has here, is the oracle's up to rounding."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration
from conversion.agreement import cases, full, suite
from conversion.agreement.findings import Finding
from conversion.agreement.in_mindspore import MindSpore
from conversion.agreement.in_native import Native
from conversion.agreement.in_onnx import OnnxRuntime
from conversion.agreement.in_torch import PyTorch
from conversion.agreement.tolerances import TOLERANCES
from ms_bert.config import PRESETS
from ms_bert.kernels import native

WHOLE = tuple(suite.CHECKS)
NEEDS_KERNELS = pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}")


def in_bfloat16() -> MindSpore:
    """By the fused kernels, whether or not this processor has products in bfloat16 or gains by them."""
    if native.why_not():
        return MindSpore()  # which its marks leave out
    from ms_bert.kernels import fused, stock

    return MindSpore("bfloat16", fused=True, operations=fused.operations(stock.composed("float32"), "bfloat16"))


CONTENDERS = {
    "MindSpore float32": (MindSpore(), WHOLE),
    "MindSpore PyNative float32": (MindSpore(graph=False), ("forward", "gradients", "step adamw", "evaluation")),
    "MindSpore fused float32": (MindSpore(fused=True), WHOLE),
    "MindSpore fused bfloat16": (in_bfloat16(), ("forward", "gradients", "step adamw", "evaluation")),
    "C++ library, fused float32": (Native(), ("forward",)),
    "C++ library, fused bfloat16": (Native("bfloat16"), ("forward",)),
    "MindSpore float16": (MindSpore("float16"), ("forward", "gradients", "step adamw", "overflow", "evaluation")),
    "PyTorch float32": (PyTorch(), WHOLE),
    "PyTorch float16": (PyTorch("float16"), WHOLE),
    "PyTorch bfloat16": (PyTorch("bfloat16"), WHOLE),
    "PyTorch compiled float32": (PyTorch(compiled=True), ("forward", "gradients", "step adamw")),
}
# Each shape is a compilation: these two are compiled for all shapes by `python -m conversion verify --full` only.
# What takes long to compile and has tests of its own kind besides.
FULL = (
    ("PyTorch compiled float32", "forward"),  # which its step takes
    ("PyTorch compiled float32", "gradients"),
    ("MindSpore PyNative float32", "gradients"),  # which its step takes
    ("MindSpore float16", "gradients"),
    ("MindSpore float16", "evaluation"),
    ("MindSpore float16", "overflow"),
    ("MindSpore float32", "step accumulated"),
    ("MindSpore float32", "step lamb"),
    ("MindSpore fused float32", "step accumulated"),
)
ONE_SHAPE = ("MindSpore float16", "PyTorch compiled float32")


def marks_of(name, group) -> list:
    return [*([NEEDS_KERNELS] if "fused" in name else []), *([pytest.mark.full] if (name, group) in FULL else [])]


def assert_agree(findings: list[Finding]) -> None:
    beyond = sorted((f for f in findings if not f.agrees), key=lambda f: -f.share)
    assert not beyond, "\n".join([f"{len(beyond)} of {len(findings)} tensors", *map(str, beyond[:10])])


@pytest.mark.parametrize(
    "name, group",
    [
        pytest.param(name, group, marks=marks_of(name, group))
        for name, (_, groups) in CONTENDERS.items()
        for group in groups
    ],
)
def test_every_tensor_agrees_with_the_oracle(name, group, small, quiet):
    contender = CONTENDERS[name][0]
    for problem, reference in (small, quiet):
        if name in ONE_SHAPE:
            problem = cases.of_one_shape(problem)
        if problem is not quiet[0] or group in ("forward", "gradients"):
            findings = suite.findings(contender, problem, reference, [group])
            assert findings or (group == "overflow" and contender.precision != "float16")
            assert_agree(findings)


def test_the_library_is_compared_in_those_precisions_that_pytorch_has(monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda precision="float32": None)  # as on a processor that has all
    assert full.of_library("CPU") == ["float32", "bfloat16"] and full.of_library("Ascend") == []
    assert all(f"C++ library, fused {precision}" in CONTENDERS for precision in full.of_library("CPU"))


@pytest.mark.parametrize("fused", [False, True])
def test_the_onnx_graph_agrees_with_the_oracle(fused, small):
    problem, reference = small
    assert_agree(suite.findings(OnnxRuntime(fused), cases.unpacked_only(problem), reference, ["forward"]))


@pytest.mark.parametrize(
    "act, fused",
    [
        pytest.param("gelu_new", False, marks=pytest.mark.full),
        pytest.param("relu", False, marks=pytest.mark.full),
        pytest.param("gelu_new", True, marks=(NEEDS_KERNELS, pytest.mark.full)),
        pytest.param("relu", True, marks=NEEDS_KERNELS),
    ],
)
def test_the_other_activations_agree_with_the_oracle(act, fused):
    problem = cases.activation_problem(act)
    assert_agree(suite.findings(MindSpore(fused=fused), problem, suite.Reference(problem), ["forward", "gradients"]))


@pytest.mark.parametrize(
    "preset, fused",
    [
        ("tiny", False),
        ("mini", False),
        pytest.param("base", False, marks=pytest.mark.full),
        pytest.param("mini", True, marks=NEEDS_KERNELS),
        pytest.param("base", True, marks=(NEEDS_KERNELS, pytest.mark.full)),
    ],
)
def test_the_forward_pass_of_a_whole_size_agrees_with_the_oracle(preset, fused):
    problem = cases.large_problem(preset, PRESETS[preset])
    findings = suite.findings(MindSpore(fused=fused), problem, suite.Reference(problem), ["forward"])
    assert len(findings) == 1 + (2 if fused else 3) * PRESETS[preset].num_hidden_layers + 3
    assert_agree(findings)


def test_every_parameter_and_sublayer_is_compared(small):
    problem, reference = small
    exact = reference.exact("gradients")["gradients", "ragged"]
    assert exact.keys() == problem.weights.keys() | {"global norm"}
    assert len(reference.exact("forward")["forward", "ragged"]) == 1 + 3 * 2 + 3
    for check in suite.STEPS:
        changed = reference.exact(check)[check, "ragged"]
        assert len(changed) == 3 * len(problem.weights) + 2
        assert (check, "first update") in reference.exact(check)


def test_the_inputs_can_expose_faults(small, quiet):
    """No two sizes alike, no weight as it is first, each position, segment and end of the vocabulary in use."""
    problem, reference = small
    config = problem.config
    sizes = [config.vocab_size, config.hidden_size, config.intermediate_size, config.max_position_embeddings]
    sizes += [config.head_size, config.num_attention_heads, cases.ROWS, cases.SLOTS]
    assert len(set(sizes)) == len(sizes)
    for weights in (problem.weights, quiet[0].weights):
        assert all(value.all() and len(np.unique(value)) > 1 for value in weights.values())
    batches = {case.name: case.batch for case in problem.cases}
    real = {name: batch["sequence_ids"] > 0 for name, batch in batches.items()}
    ragged, packed = batches["ragged"], batches["packed"]
    assert set(ragged["position_ids"][real["ragged"]]) == set(range(config.max_position_embeddings))
    assert {0, config.vocab_size - 1} <= set(ragged["input_ids"][real["ragged"]])
    assert set(ragged["token_type_ids"][real["ragged"]]) == {0, 1} and len(set(real["ragged"].sum(1))) == cases.ROWS
    assert packed["sequence_ids"].max() == cases.SEQUENCES
    assert (ragged["masked_weights"].sum(1) == 0).any() and not batches["labels ignored"]["masked_weights"].any()
    # The exact gradients are clipped, and none is nothing but that of the keys' biases.
    gradients = reference.exact("gradients")["gradients", "ragged"]
    assert gradients["global norm"] > 2 * cases.step_options("adamw", "float32", 4).training.clip_norm
    for name, value in gradients.items():
        assert name.endswith("key.bias") == (abs(value).max() < 1e-12), name


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_tolerances_say_what_the_last_full_run_measured():
    measured = json.loads((RESULTS / "agreement.json").read_text())["result"]
    for (check, precision), allowed in TOLERANCES.items():
        found = measured["tolerances"][f"{check} {precision}"]
        assert found["largest_share_of_limit"] <= 1
        assert allowed.noise == pytest.approx(found["largest_error"], rel=0.1), (check, precision)
        fault = measured["smallest_fault"].get(f"{check} {precision}")
        assert (allowed.fault is None) == (fault is None), (check, precision)
        if fault:
            name, error, limit = fault
            assert allowed.fault == (name.split(",")[0], pytest.approx(error, rel=0.1)) and error > 10 * limit
            # No cap is so wide that a fault as small as this would pass where PyTorch itself is poor.
            assert error > min(allowed.cap.norm, allowed.cap.largest)


def test_no_sound_model_was_accused_and_every_fault_was_found_with_room_on_both_sides():
    measured = json.loads((RESULTS / "calibration.json").read_text())["result"]
    assert measured["models_verified_against_themselves"] >= 200 and measured["false_alarms"] == []
    assert len(measured["by_instructions"]) == 2
    assert len(measured["planted"]) >= 20
    assert all(told["caught"] and told["times"] > 3 for told in measured["planted"].values())
    for (check, precision), allowed in TOLERANCES.items():
        sound = measured["sound"].get(f"{check} {precision}")
        assert (allowed.margins is None) == (sound is None), (check, precision)
        if sound:
            share, times = allowed.margins
            assert share == pytest.approx(sound["largest_share"], abs=0.01) and share < 1 / 1.4
            fault = measured["smallest_fault"].get(f"{check} {precision}")
            assert (times is None) == (fault is None), (check, precision)
            assert fault is None or times == pytest.approx(fault["times"], rel=0.1)


def test_the_models_of_the_calibration_are_many_and_varied():
    assert len({model.name for model in calibration.MODELS}) == len(calibration.MODELS) >= 200
    assert {model.shape for model in calibration.MODELS} >= {"tiny", "mini", "small", "medium", "base"}
    configs = list(calibration.SHAPES.values())
    assert {config.num_attention_heads for config in configs} >= {1, 12}
    assert {config.head_size for config in configs} >= {8, 128}
    assert {config.max_position_embeddings for config in configs} >= {16, 512}
    assert len({config.layer_norm_eps for config in configs}) >= 4
    assert {config.hidden_act for config in configs} == {"gelu", "gelu_new", "relu"}
    least = calibration.SHAPES["least"]
    drawn = [make(least, 1) for make in calibration.INITIALISERS.values()]
    assert all(np.isfinite(value).all() for weights in drawn for value in weights.values())
    bytes_of = {b"".join(value.tobytes() for value in weights.values()) for weights in drawn}
    assert len(bytes_of) == len(drawn)
