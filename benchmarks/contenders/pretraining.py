"""A pre-training step: forward pass, gradients, clipping, AdamW; dropout on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import THREADS, Work

GRAPHS = "MS_BERT_BENCHMARK_GRAPHS"  # the folder in which compiled steps are kept, where it is set


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


def options_of(work: Work, kernels: Any = "fused", compile: bool = False, **training):
    from ms_bert.options import ExampleOptions, MindSporeOptions, Options, PyTorchOptions, RunOptions, TrainingOptions

    return Options(
        training=TrainingOptions(batch_size=work.rows, **training),
        examples=ExampleOptions(seq_length=work.tokens),
        run=RunOptions(threads=THREADS),
        mindspore=MindSporeOptions(kernels=kernels),
        pytorch=PyTorchOptions(compile=compile),
    )


def use_mindspore(graph: bool = True) -> None:
    from ms_bert.device import use_device

    use_device("CPU", threads=THREADS)
    if not graph:
        import mindspore

        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


def mindspore(kernels: str, graph: bool = True, **training):
    """Args: training: options of the step."""

    def make(work: Work) -> Callable[[], float]:
        use_mindspore(graph)
        from ms_bert.training.trainer import MindSporeTrainer

        graphs = os.environ.get(GRAPHS)
        options = options_of(work, kernels=kernels, **training)
        trainer = MindSporeTrainer(work.config, options, graphs=Path(graphs) if graphs else None)
        return _steps(trainer, work, trainer.compile if graph else None)

    return make


def reference(compile: bool, **training):
    """Args: training: options of the step."""

    def make(work: Work) -> Callable[[], float]:
        from pt_reference.device import use_device
        from pt_reference.training.trainer import TorchTrainer

        use_device("CPU", compile, THREADS)
        return _steps(TorchTrainer(work.config, options_of(work, compile=compile, **training)), work)

    return make


def _steps(trainer, work: Work, compile: Callable | None = None) -> Callable[[], float]:
    """Steps of a trainer, the first one after `compile`; torch compiles when it is called."""
    batch, steps, begun = batch_of(work), iter(range(10**9)), []

    def once() -> float:
        if compile and not begun:
            begun.append(compile([batch]))
        sums = trainer.train_step(batch, next(steps), 1e-4).sums
        return sums["masked_loss"] / (work.rows * work.slots) + sums["next_sentence_loss"] / work.rows

    return once


def transformers(work: Work, autocast: bool = False) -> Callable[[], float]:
    """BertForPreTraining as it is: its MLM head scores every token. autocast: as of `transformers_steps`."""
    import torch
    import transformers

    batch = {name: torch.from_numpy(value).long() for name, value in batch_of(work).items()}
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_positions"], batch["masked_labels"])
    config = transformers.BertConfig(**work.config.to_dict())
    torch.manual_seed(1)
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["sequence_ids"],
        "token_type_ids": batch["token_type_ids"],
        "labels": labels,
        "next_sentence_label": batch["next_sentence_labels"].reshape(-1),
    }
    return transformers_steps(transformers.BertForPreTraining(config), inputs, autocast)


def transformers_steps(model, inputs: dict, autocast: bool = False) -> Callable[[], float]:
    """Steps of a model of transformers. autocast: whether torch computes in bfloat16 what it thinks fit."""
    import torch

    torch.set_num_threads(THREADS)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def once() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return once


MAKERS = {
    "ms_bert fused": mindspore("fused"),
    "ms_bert stock": mindspore("stock"),
    "pt_reference": reference(False),
    "pt_reference --compile": reference(True),
    "ms_bert PyNative": mindspore("stock", graph=False),
    "transformers": transformers,
}
