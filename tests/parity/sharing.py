"""A worker that trains a small model by each of several ways, right and wrong, with the others or alone.

    python -m tests.parity.sharing WAYS FOLDER

FOLDER holds batch-STEP.npz. For each of the WAYS (a package, or what more MindSpore can do wrong), "WAYS WAY WORKERS
RANK.json" is left there: what the steps said, and a hash of the weights and moments after them.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ms_bert.config import BertConfig
from ms_bert.framework import MindSpore
from ms_bert.options import ExampleOptions, Options, RunOptions, TrainingOptions
from ms_bert.run import leaves, shards
from ms_bert.run.recipe import learning_rate
from ms_bert.tasks.pretraining import PRETRAINING
from pt_reference.framework import PyTorch

FRAMEWORKS = {"pt_reference": PyTorch(), "ms_bert": MindSpore(), "ms_bert-recompiled": MindSpore()}
STEPS, LEAVES = 3, 8
CONFIG = BertConfig(
    vocab_size=40_000,  # so that the word embeddings are more than one tile
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)


def options(**training) -> Options:
    """Dropout is on, and the clipping norm amid the norms."""
    return Options(
        # Short ones, so that the leaves of a batch differ in their masked tokens.
        examples=ExampleOptions(seq_length=32, short_sequences=0.5, pack=2),
        training=TrainingOptions(
            **{
                "batch_size": 16,
                "leaves": LEAVES,
                "steps": STEPS,
                "warmup_steps": 0,
                "learning_rate": 1e-3,
                "clip_norm": 1.4,
                **training,
            }
        ),
        run=RunOptions(threads=1),
    )


@dataclasses.dataclass(frozen=True)
class Way:
    """What the workers do.

    Attributes:
        training: options. fault: what is wrong, told the trainer; else it is as the base of the package. compiled:
            whether it is wrong within the compiled graph.
    """

    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    fault: Callable[[Any], contextlib.AbstractContextManager] | None = None
    compiled: bool = False


@dataclasses.dataclass(frozen=True)
class _As:
    """These workers, but this one has the place of another."""

    workers: Any
    rank: int

    @property
    def count(self) -> int:
        return self.workers.count

    def gather(self, array: np.ndarray) -> np.ndarray:
        return self.workers.gather(array)


def _leaves_exchanged(trainer):
    """The second worker and the third have each other's leaves."""
    right, taken = leaves.own_rows, {1: 2, 2: 1}.get(trainer.workers.rank, trainer.workers.rank)
    return mock.patch.object(leaves, "own_rows", lambda batch, workers: right(batch, _As(workers, taken)))


def _own_counts(trainer):
    """The losses are divided by the counts of the worker's leaves."""
    right = leaves.leaves

    def wrong(*arguments):
        found = right(*arguments)
        parts = [part for leaf in found for part in leaf]
        weights = arguments[1]
        own = tuple(np.float32(max(sum(part.batch[name].sum() for part in parts), 1.0)) for name in weights)
        return [[dataclasses.replace(part, totals=own) for part in leaf] for leaf in found]

    return _in_trainers("leaves", wrong)


def _averaged(trainer):
    """The gradients are averaged over the workers."""
    right, count = leaves.leaves, trainer.workers.count

    def wrong(*arguments):
        found = right(*arguments)
        return [
            [dataclasses.replace(p, totals=tuple(np.float32(t * count) for t in p.totals)) for p in leaf]
            for leaf in found
        ]

    return _in_trainers("leaves", wrong)


def _first_keys(trainer):
    """All workers drop by the keys of the first one's rows."""
    right = leaves.leaves

    def wrong(own, weights, options, step, columns, workers):
        return right(own, weights, options, step, columns, _As(workers, 0))

    return _in_trainers("leaves", wrong)


@contextlib.contextmanager
def _in_trainers(name: str, value) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in ("ms_bert.training.trainer", "pt_reference.training.trainer"):
            if module in sys.modules:
                stack.enter_context(mock.patch.object(sys.modules[module], name, value))
        yield


@contextlib.contextmanager
def _recompiled(trainer, name: str) -> Iterator[None]:
    """MindSpore's update with a wrong exchange."""
    from ms_bert.training.step import UpdateFromBuffers

    from . import wrong_exchange

    finish, exchange = trainer.finish, trainer.update.exchange
    right = type(exchange)
    object.__setattr__(exchange, "__class__", getattr(wrong_exchange, name))
    trainer.finish = UpdateFromBuffers(trainer.update, finish.buffers)
    yield
    object.__setattr__(exchange, "__class__", right)
    trainer.finish = finish


def _is_of_mindspore(trainer) -> bool:
    return type(trainer).__module__.startswith("ms_bert.")


def _chain(trainer):
    """The workers' sums are added one after the other, as a ring does."""
    if _is_of_mindspore(trainer):
        return _recompiled(trainer, "Chain")

    def wrong(rows):
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total

    from pt_reference.training import exchange

    return mock.patch.object(exchange, "in_tree_order", wrong)


def _tile_not_sent(trainer):
    """The second worker's first tile does not come to the others."""
    if _is_of_mindspore(trainer):
        return _recompiled(trainer, "TileNotSent")
    right = shards.Shards.segment

    def wrong(self, bucket, worker):
        found = right(self, bucket, worker)
        return found[1:] if bucket == 0 and worker == 1 and wrong.publishing else found

    wrong.publishing = False
    from pt_reference.training.exchange import Sharded

    publish = Sharded.publish

    def published(self):
        wrong.publishing = True
        publish(self)
        wrong.publishing = False

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(shards.Shards, "segment", wrong))
    stack.enter_context(mock.patch.object(Sharded, "publish", published))
    return stack


def _stale(trainer):
    """The parameters of other workers' tiles stay as they were before the update."""
    if _is_of_mindspore(trainer):
        return _recompiled(trainer, "Stale")
    from pt_reference.training.exchange import Sharded

    def wrong(self):
        for piece in self.pieces.values():
            piece.grad = None

    return mock.patch.object(Sharded, "publish", wrong)


RIGHT = {
    "adamw": Way(),
    "lamb, in parts": Way({"optimizer": "lamb", "accumulate": 2}),
    "float16, overflowing": Way({"precision": "float16", "loss_scale": 2.0**40}),
    "adam-weight-decay": Way({"optimizer": "adam-weight-decay"}),
    "by the library": Way({"reduction": "vendor"}),
}
FAULTS = {
    "leaves exchanged": Way(fault=_leaves_exchanged),
    "own counts": Way(fault=_own_counts),
    "averaged": Way(fault=_averaged),
    "keys of other rows": Way(fault=_first_keys),
    "a ring": Way(fault=_chain, compiled=True),
    "a tile not sent": Way(fault=_tile_not_sent, compiled=True),
    "stale parameters": Way(fault=_stale, compiled=True),
}
# A graph takes long to compile: MindSpore goes one right way, in which all is exchanged that there is, and what needs
# graphs of its own is apart.
BASE = {"pt_reference": "adamw", "ms_bert": "lamb, in parts", "ms_bert-recompiled": "lamb, in parts"}
WAYS = {
    "pt_reference": {**RIGHT, **FAULTS},
    "ms_bert": {
        BASE["ms_bert"]: RIGHT[BASE["ms_bert"]],
        **{name: way for name, way in FAULTS.items() if not way.compiled},
    },
    "ms_bert-recompiled": {**RIGHT, **{name: way for name, way in FAULTS.items() if way.compiled}},
}


def trained(trainer, given: TrainingOptions, batches: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """What the steps said and left."""
    results = [trainer.train_step(batch, step, learning_rate(given, step + 1)) for step, batch in enumerate(batches)]
    weights, moments, scalars = trainer.state()
    digest = hashlib.sha256()
    for name, value in sorted({**weights, **moments}.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return {
        "results": [dataclasses.asdict(result) for result in results],
        "scalars": scalars,
        "sha256": digest.hexdigest(),
    }


def go(kind: str, folder: Path) -> None:
    """Go all ways of a kind, alone or with the other workers, as the environment says."""
    framework = FRAMEWORKS[kind]
    chosen = options()
    if framework.scheduled(chosen):
        return
    framework.check(chosen)
    workers = framework.workers(chosen)
    batches = [dict(np.load(folder / f"batch-{step}.npz")) for step in range(STEPS)]
    trainers: dict[str, Any] = {}
    for name, way in WAYS[kind].items():
        if workers.count < 4 and way.fault is not None:
            continue
        right = BASE[kind] if way.fault else name
        given = options(**RIGHT[right].training)
        if right not in trainers:
            trainers[right] = framework.trainer(CONFIG, given, PRETRAINING, workers), None
        trainer, beginning = trainers[right]
        if beginning is None:
            beginning = copy.deepcopy(trainer.state())
            trainers[right] = trainer, beginning
        trainer.load(*beginning)
        with way.fault(trainer) if way.fault else contextlib.nullcontext():
            found = trained(trainer, given.training, [leaves.own_rows(batch, workers) for batch in batches])
        (folder / f"{kind} {name} {workers.count} {workers.rank}.json").write_text(json.dumps(found))
    workers.close()


if __name__ == "__main__":
    go(sys.argv[1], Path(sys.argv[2]))
