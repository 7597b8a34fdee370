"""The seam of tasks: one that the package does not know is trained by both frameworks, logged, drawn and resumed."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops

from ms_bert import heads
from ms_bert.config import BertConfig
from ms_bert.data.batches import FirstRows
from ms_bert.device import use_device
from ms_bert.kernels import stock
from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions
from ms_bert.run import checkpoints
from ms_bert.run.folder import CURVES, METRICS, RunFolder, read_description, read_log
from ms_bert.run.loop import Loop
from ms_bert.run.progress import Progress
from ms_bert.tasks import Curve, Panel, registry
from ms_bert.tasks.pretraining import PRETRAINING
from ms_bert.training import losses as mindspore_losses
from ms_bert.training import trainer as mindspore_trainer
from pt_reference import heads as torch_heads
from pt_reference import kernels as torch_kernels
from pt_reference.training import losses as torch_losses
from pt_reference.training import trainer as torch_trainer

pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    vocab_size=600,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=16,
)
ROWS, TOKENS, KINDS = 16, 12, 8


@dataclasses.dataclass(frozen=True)
class Halves:
    """Whether the token after [CLS] is of the upper half of those there are. Its F1 does not add up over batches."""

    name = "halves"
    architecture = "BertForSequenceClassification"
    fields = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions", "labels", "weights")
    weights = ("weights",)
    sums = ("loss", "correct", "count")
    count = "count"
    measure = None

    def panels(self):
        return (Panel("Halves", "nats", (Curve("loss", "tab:blue"),)), Panel("F1", "", (Curve("f1", "tab:red"),)))

    def metrics(self, sums):
        return {"loss": sums["loss"] / sums["count"], "accuracy": sums["correct"] / sums["count"]}

    def shown(self, metrics):
        return f"loss {metrics['loss']:.3f}"

    def evaluation(self, held_out):
        return F1(self)

    def told(self, metrics):
        return f"F1 {metrics['f1']:.3f}"


class F1:
    def __init__(self, task):
        self.task, self.sums, self.right = task, {}, []

    def add(self, batch, sums, outputs):
        (logits,) = outputs
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        counted = batch["weights"][:, 0] > 0
        self.right += zip(logits.argmax(-1)[counted], batch["labels"][counted, 0])

    def metrics(self):
        found = np.array(self.right)
        both = (found == 1).all(1).sum()
        return {**self.task.metrics(self.sums), "f1": float(2 * both / max((found == 1).sum(), 1)), "seen": len(found)}


@dataclasses.dataclass(frozen=True)
class Batches:
    seed: int
    batch_size: int = ROWS

    def __call__(self, step):
        rng, shape = np.random.default_rng((self.seed, step)), (ROWS, TOKENS)
        ids = rng.integers(0, KINDS, shape).astype(np.int32)
        return {
            "input_ids": ids,
            "sequence_ids": np.ones(shape, np.int32),
            "token_type_ids": np.zeros(shape, np.int32),
            "position_ids": np.tile(np.arange(TOKENS, dtype=np.int32), (ROWS, 1)),
            "cls_positions": np.zeros((ROWS, 1), np.int32),
            "labels": (ids[:, 1:2] >= KINDS // 2).astype(np.int32),
            "weights": np.ones((ROWS, 1), np.float32),
        }

    def samples(self, step=0):
        return [self(0)]


HELD_OUT = FirstRows(Batches(2), 40, Halves.weights)


class MindSporeLoss(nn.Cell):
    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, ids, sequences, types, positions, firsts, labels, weights, total, scale, dropout_keys=None):
        logits = self.model(ids, sequences, types, positions, firsts, dropout_keys)
        labels = ops.reshape(labels, (-1,))
        losses, right = stock.cross_entropy(logits, labels), stock.correct(logits, labels)
        sums = mindspore_losses.weighted_sums(losses, right, weights)
        return sums[0] / total * scale, ops.stack(sums), (logits,)


class TorchLoss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, sequences, types, positions, firsts, labels, weights, total, scale, dropout_keys=None):
        logits = self.model(ids, sequences, types, positions, firsts, dropout_keys)
        labels = labels.flatten()
        losses, right = torch_kernels.cross_entropy(logits, labels), torch_kernels.correct(logits, labels)
        sums = torch_losses.weighted_sums(losses, right, weights)
        return sums[0] / total * scale, torch.stack(sums).detach(), (logits,)


def options(steps, accumulate=1) -> Options:
    return Options(
        examples=ExampleOptions(seq_length=TOKENS),
        training=TrainingOptions(
            batch_size=ROWS, steps=steps, decay_steps=80, warmup_steps=5, learning_rate=4e-3, accumulate=accumulate
        ),
        run=RunOptions(log_every=10, eval_every=20, eval_sequences=40, checkpoint_every=20),
    )


def in_mindspore(chosen):
    use_device("CPU")
    objective = mindspore_losses.Objective(heads.BertForSequenceClassification, MindSporeLoss)
    return mindspore_trainer.MindSporeTrainer(CONFIG, chosen, Halves(), objective=objective)


def in_torch(chosen):
    objective = torch_losses.Objective(torch_heads.BertForSequenceClassification, TorchLoss)
    return torch_trainer.TorchTrainer(CONFIG, chosen, Halves(), objective=objective)


def train(path, make, vocabulary, chosen) -> list[dict]:
    """Begin a run, or go on with it; returns what it logged."""
    begun = path.exists()
    if begun:
        folder = RunFolder(path)
    else:
        description = {"task": "halves", "options": chosen.to_dict(), "trained_by": [BY]}
        folder = RunFolder.create(path, description, Halves.architecture, CONFIG, vocabulary)
    loop = Loop(Halves(), chosen.training, chosen.run, make(chosen), folder, Batches(1), HELD_OUT, Progress(0.0))
    if begun:
        loop.resume(checkpoints.load_newest(path, warn=pytest.fail))
    loop.run()
    return read_log(path, METRICS)


BY = {"from_step": 0, "framework": "MindSpore"}


@pytest.mark.parametrize("make", [in_mindspore, in_torch])
def test_a_task_of_a_users_is_learned_evaluated_drawn_and_resumed(make, vocabulary, tmp_path, capsys):
    whole = train(tmp_path / "whole", make, vocabulary, options(80))
    held_out = [line for line in whole if "held_out_f1" in line]
    assert [line["step"] for line in held_out] == [0, 20, 40, 60, 80]
    assert all(line["held_out_seen"] == 40 for line in held_out)  # of three batches of 16
    assert held_out[-1]["held_out_f1"] > 0.85 > held_out[0]["held_out_f1"]
    assert whole[-2]["loss"] < 0.5 * whole[1]["loss"] and "mlm_loss" not in whole[-2]
    assert "halves" == read_description(tmp_path / "whole")["task"] and (tmp_path / "whole" / CURVES).stat().st_size > 0
    assert f"step 80 held-out: F1 {held_out[-1]['held_out_f1']:.3f}" in capsys.readouterr().out
    train(tmp_path / "halved", make, vocabulary, options(20))
    train(tmp_path / "halved", make, vocabulary, options(80))
    for name in (METRICS, "model.safetensors", "config.json"):
        assert (tmp_path / "halved" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert b'"BertForSequenceClassification"' in (tmp_path / "halved" / "config.json").read_bytes()


def test_both_frameworks_train_it_alike_whatever_its_parts(vocabulary, tmp_path):
    runs = [
        train(tmp_path / f"{make.__name__}-{parts}", make, vocabulary, options(20, parts))
        for make in (in_mindspore, in_torch)
        for parts in (1, 2)
    ]
    for other in runs[1:]:
        for mine, whole in zip(other, runs[0], strict=True):
            assert mine.keys() == whole.keys()
            for name in whole.keys() & {"step", "loss", "held_out_loss", "gradient_norm", "learning_rate"}:
                assert mine[name] == pytest.approx(whole[name], rel=1e-3), name  # an answer may tip over, a loss not


def test_every_task_of_the_package_has_a_loss_in_both_frameworks():
    assert mindspore_losses.OBJECTIVES.keys() == torch_losses.OBJECTIVES.keys() == {PRETRAINING.name, *registry.KINDS}
    assert ms.__version__  # the cells above were made
