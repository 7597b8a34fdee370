"""A step of fine-tuning BertForSequenceClassification with two labels, encoder and all; float32, dropout on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.contenders import THREADS, Work
from benchmarks.contenders.pretraining import options_of, transformers_steps, use_mindspore

INPUTS = ("input_ids", "sequence_ids", "token_type_ids", "position_ids", "cls_positions")
SEED, RATE = 1, 1e-5


def batch_of(work: Work) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random tokens, no padding, and labels."""
    rng, shape = np.random.default_rng(0), (work.rows, work.tokens)
    batch = {
        "input_ids": rng.integers(0, work.config.vocab_size, shape).astype(np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
        "position_ids": np.tile(np.arange(work.tokens, dtype=np.int32), (work.rows, 1)),
        "sequence_ids": np.ones(shape, np.int32),
        "cls_positions": np.zeros((work.rows, 1), np.int32),
    }
    return batch, rng.integers(0, 2, work.rows).astype(np.int32)


def _keys(work: Work, step: int):
    from ms_bert.randomness import DropoutColumns, dropout_keys

    return dropout_keys(SEED, step, work.rows * work.tokens, DropoutColumns(work.config).total)


def mindspore(kernels: str, precision: str = "float32"):
    def make(work: Work) -> Callable[[], float]:
        use_mindspore()
        from mindspore import Tensor

        from benchmarks.contenders.finetuning_step import FineTuningStep

        step = FineTuningStep(work.config, options_of(work, precision=precision).training, kernels)
        batch, labels = batch_of(work)
        inputs, numbers = [Tensor(batch[name]) for name in INPUTS], iter(range(10**9))

        def once() -> float:
            rows, columns = _keys(work, next(numbers))
            loss, _ = step(*inputs, Tensor(labels), Tensor(np.float32(RATE)), Tensor(rows), Tensor(columns))
            return float(loss.asnumpy())

        return once

    return make


def reference(compile: bool, precision: str = "float32"):
    def make(work: Work) -> Callable[[], float]:
        import torch

        from pt_reference import kernels
        from pt_reference.heads import BertForSequenceClassification
        from pt_reference.model import Numerics, initialize
        from pt_reference.training.step import Update

        torch.set_num_threads(THREADS)
        model = BertForSequenceClassification(work.config, Numerics(precision))
        initialize(model, work.config, SEED)
        training = options_of(work, precision=precision).training
        update = Update(dict(model.named_parameters()), training, model.bert.numerics.operations)
        forward = torch.compile(model, dynamic=False) if compile else model
        batch, labels = batch_of(work)
        inputs, labels = [torch.from_numpy(batch[name]) for name in INPUTS], torch.from_numpy(labels)
        numbers = iter(range(10**9))

        def once() -> float:
            keys = tuple(map(torch.from_numpy, _keys(work, next(numbers))))
            loss = kernels.cross_entropy(forward(*inputs, keys), labels).mean()
            loss.backward()
            update(RATE)
            return loss.item()

        return once

    return make


def transformers(work: Work, autocast: bool = False) -> Callable[[], float]:
    """See `transformers_steps`."""
    import torch
    import transformers

    batch, labels = batch_of(work)
    torch.manual_seed(SEED)
    inputs = {
        "input_ids": torch.from_numpy(batch["input_ids"]).long(),
        "attention_mask": torch.from_numpy(batch["sequence_ids"]),
        "token_type_ids": torch.from_numpy(batch["token_type_ids"]).long(),
        "labels": torch.from_numpy(labels).long(),
    }
    config = transformers.BertConfig(**work.config.to_dict())
    return transformers_steps(transformers.BertForSequenceClassification(config), inputs, autocast)


MAKERS = {
    "ms_bert fused": mindspore("fused"),
    "ms_bert stock": mindspore("stock"),
    "pt_reference": reference(False),
    "pt_reference --compile": reference(True),
    "transformers": transformers,
}
