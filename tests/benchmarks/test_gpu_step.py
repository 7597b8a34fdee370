"""The command for a GPU, at a tiny size on the CPU."""

import dataclasses

import pytest

from benchmarks import __main__ as command
from benchmarks import gpu_step
from benchmarks.gpu_step import Variant
from ms_bert.options import Options, TrainingOptions

torch = pytest.importorskip("torch")

TINY = Variant("tiny", 2, 64, 2, "float32", False)


def test_it_measures_steps_and_agreement_and_goes_on_after_an_error():
    broken = dataclasses.replace(TINY, tokens=1024, sequences=1)  # more than the position table has
    first, peak, plain, step, failed, fused = gpu_step.measured("CPU", [TINY, broken], 64, 1000, ("float32",))
    assert first["device"]["torch"] == torch.__version__ and peak["peak_tflops_a_second"] > 0
    for one, attention in ((plain, "plain"), (fused, "fused")):
        assert (one["attention"], one["beyond"]) == (attention, []) and one["checks"] > 1000
    assert 0 < step["model_flops_utilisation"] and step["tokens_a_second"] > 0
    first_loss, last_loss = step["mlm_loss_first_last"]
    assert first_loss == pytest.approx(10.3, abs=0.2) and last_loss < first_loss - 0.5
    assert "ValueError" in failed["error"] and "1024 tokens" in failed["error"] and "seconds" not in failed


def test_nothing_is_begun_when_the_time_is_up():
    first, *others = gpu_step.measured("CPU", [TINY], 64, -1.0, ("float32",))
    assert first["device"]["name"] == "CPU" and len(others) == 4
    assert all(one["left_out"] and "error" not in one for one in others)


def test_results_of_another_gpu_are_kept_apart():
    ours, theirs = ({"result": [{"device": {"name": name}}], "machine": {}} for name in ("NVIDIA A100", "NVIDIA H100"))
    assert (command.processor(ours), command.processor(theirs)) == ("nvidia-a100", "nvidia-h100")


def test_a_packed_batch_is_that_of_sequences_apart():
    from pt_reference.training.trainer import TorchTrainer

    apart, config = TINY.work, TINY.work.config.with_dropout(0.0)
    packed, single = TINY.batch(), dataclasses.replace(TINY, rows=4, tokens=32, sequences=1).batch()
    assert (apart.rows, apart.tokens) == (4, 32) and packed["sequence_ids"].max() == 2
    sums = [
        TorchTrainer(config, Options(training=TrainingOptions(batch_size=rows))).evaluate(batch)[0]
        for rows, batch in ((2, packed), (4, single))
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu_step", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="no usable GPU"):
        command.main()
