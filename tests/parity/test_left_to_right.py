"""A left-to-right language model: what transformers computes with is_decoder, in both frameworks, from text to task."""

import json

import mindspore as ms
import numpy as np
import pytest
import torch
import transformers

from conversion.agreement import cases
from ms_bert.commands import finetuning, prediction, pretraining
from ms_bert.config import BertConfig
from ms_bert.data.batches import FIELDS, BatchMaker
from ms_bert.device import use_device
from ms_bert.kernels import native
from ms_bert.model import BertModel, Numerics
from ms_bert.native_model import NativeModel
from ms_bert.options import ExampleOptions, MindSporeOptions, Options, TrainingOptions
from ms_bert.training.trainer import MindSporeTrainer
from pt_reference import model as pt_model
from pt_reference.framework import PyTorch
from pt_reference.training.trainer import TorchTrainer
from tests.unit.bert import random_weights

pytestmark = pytest.mark.slow
CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    is_decoder=True,
)
LEFT = ("--objective", "left-to-right", "--no-nsp")
NEEDS_KERNELS = pytest.mark.skipif(native.why_not() is not None, reason=f"the C++ kernels: {native.why_not()}")


@pytest.fixture(scope="module")
def batch():
    return cases.make_batch(CONFIG, ((20,), (31, 1), (9, 12, 3), (2,)), 32)


@pytest.fixture(scope="module")
def reference(batch):
    """The weights of a BertModel, and transformers' hidden states (B * S, H), computed sequence by sequence."""
    other = transformers.BertModel(transformers.BertConfig(**CONFIG.to_dict())).double().eval()
    weights = random_weights({name: tuple(p.shape) for name, p in other.named_parameters()})
    other.load_state_dict({name: torch.from_numpy(value).double() for name, value in weights.items()})
    hidden = np.zeros((*batch["input_ids"].shape, CONFIG.hidden_size))
    for row, ids in enumerate(batch["sequence_ids"]):
        for number in range(1, ids.max() + 1):
            names = ("input_ids", "token_type_ids", "position_ids")
            alone = {name: torch.from_numpy(batch[name][row, ids == number][None]).long() for name in names}
            with torch.no_grad():
                hidden[row, ids == number] = other(**alone).last_hidden_state[0].numpy()
    return weights, hidden.reshape(-1, CONFIG.hidden_size)


def differences(found, batch, reference) -> float:
    inside = batch["sequence_ids"].reshape(-1) > 0
    return np.abs(found - reference[1])[inside].max() / np.abs(reference[1]).max()


@pytest.mark.parametrize("kernels", ["stock", pytest.param("fused", marks=NEEDS_KERNELS)])
def test_packed_rows_give_what_transformers_gives_alone(kernels, batch, reference):
    use_device("CPU")
    model = BertModel(CONFIG, Numerics(kernels=kernels))
    for parameter in model.get_parameters():
        parameter.set_data(ms.Tensor(reference[0][parameter.name]))
    hidden, _, _ = model(*(ms.Tensor(batch[name]) for name in FIELDS[:5]))
    assert differences(hidden.asnumpy(), batch, reference) < 2e-6


@NEEDS_KERNELS
def test_the_library_alone_gives_what_transformers_gives(batch, reference):
    model = NativeModel("BertHiddenStates", CONFIG, reference[0], layers=(CONFIG.num_hidden_layers,))
    assert differences(model(batch).reshape(-1, CONFIG.hidden_size), batch, reference) < 2e-6


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_reference_gives_what_transformers_gives(probabilities, batch, reference):
    model = pt_model.BertModel(CONFIG, pt_model.Numerics("float64", probabilities=probabilities))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in reference[0].items()})
    with torch.no_grad():
        hidden, _, _ = model.double()(*(torch.from_numpy(batch[name]) for name in FIELDS[:5]))
    assert differences(hidden.numpy(), batch, reference) < 1e-12


def test_both_frameworks_take_the_same_steps(store, vocabulary):
    use_device("CPU")
    examples = ExampleOptions(seq_length=32, objective="left-to-right", nsp=False, pack=2)
    training = TrainingOptions(batch_size=8, warmup_steps=2, steps=10)
    options = Options(examples=examples, training=training, mindspore=MindSporeOptions())
    batches = BatchMaker(store.train, vocabulary, examples, 8, 1)
    config = CONFIG.replace(num_hidden_layers=1)
    one, other = MindSporeTrainer(config, options), TorchTrainer(config, options)
    for step in range(2):
        mine, theirs = (trainer.train_step(batches(step), step, 1e-3) for trainer in (one, other))
        assert mine.sums["masked_loss"] == pytest.approx(theirs.sums["masked_loss"], rel=1e-5)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-4)


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    """The folder of a left-to-right run."""
    folder = tmp_path_factory.mktemp("left") / "run"
    arguments = (*options, *LEFT, "--output", folder)
    assert pretraining.main(PyTorch(), "pretrain", "", [*map(str, arguments)]) == 0
    return folder


def test_a_run_tells_the_loss_of_next_words_and_is_evaluated_again(trained, capsys):
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert "held_out_lm_perplexity" in last and not any("mlm" in name or "nsp" in name for name in last)
    assert transformers.AutoConfig.from_pretrained(trained).is_decoder
    assert pretraining.main(PyTorch(), "pretrain", "", ["--evaluate", str(trained)]) == 0
    assert f"LM loss {last['held_out_lm_loss']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, words",
    [
        (("--objective", "masked"), "add --objective left-to-right --no-nsp"),
        (LEFT[:2], "add --no-nsp"),
    ],
)
def test_a_left_to_right_model_is_not_trained_otherwise(command, words, options, trained, tmp_path, capsys):
    arguments = (*options, *command, "--config", trained, "--output", tmp_path / "run")
    assert pretraining.main(PyTorch(), "pretrain", "", [*map(str, arguments)]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_it_is_fine_tuned_by_the_mean_of_its_tokens_and_not_by_cls(trained, tmp_path, cache, capsys):
    lines = [f"the {word} of an object\t{word}\n" for word in ("name", "class") * 20]
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    command = [
        *("--model", trained, "--train", tmp_path / "train.tsv", "--cache", cache, "--output", tmp_path / "run"),
        *("--longest", 32, "--epochs", 1),
    ]
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, command)]) == 2
    assert "add --pooling mean" in capsys.readouterr().err
    assert finetuning.main(PyTorch(), "finetune", "", [*map(str, command), "--pooling", "mean"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["is_decoder"]
    assert prediction.Predictor(tmp_path / "run", PyTorch())(["the name of an object"])[0]["label"]
    assert prediction.main(PyTorch(), "predict", "", [str(trained), "a [MASK]", "--fill-mask"]) == 2
    assert "both sides" in capsys.readouterr().err
