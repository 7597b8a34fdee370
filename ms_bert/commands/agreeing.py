"""What workers check before they train: that they are alike, and that what one sends is what the others receive."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ms_bert.commands.framework import Framework
from ms_bert.data.files import file_hash
from ms_bert.errors import UserError
from ms_bert.options import TrainerOptions
from ms_bert.run.workers import Workers

# Options in which workers may differ, and those of a group of them that decide when workers send what.
OWN = ("run", "text.cache", "text.processes", "data.cache")
SHARED = ("run.device", "run.eval_every", "run.eval_sequences", "run.checkpoint_every", "run.patience")
REMEDIES = {
    "code": "install the same version on all machines",
    "libraries": "install the same versions on all machines",
    "options": "start all workers with the same command",
    "beginning": "let all workers see the same --output, also what was written there a moment ago",
    "data": "give all workers the same files",
    "kernels": "use machines whose processors have the same instruction sets, or those on which the kernels were built",
}


def check(workers: Workers, framework: Framework, options: TrainerOptions, data: Mapping[str, Any]) -> None:
    """Check it, on all workers at once.

    Args:
        data: what run.json says of the config, the vocabulary and the data.

    Raises:
        UserError: on all of them, the worker and what differs.
    """
    if workers.count == 1:
        return
    _check_exchange(workers)
    facts = {
        "code": [_code("ms_bert"), _code(framework.package)],
        "libraries": framework.versions(),
        "options": _shared(options.to_dict()),
        "beginning": options.run.resume is not None,
        "data": data,
        "kernels": framework.kernels(options),
    }
    found = workers.gather(np.stack([_digest(fact) for fact in facts.values()]))
    for name, of_workers in zip(facts, found.swapaxes(0, 1)):
        for rank, digest in enumerate(of_workers):
            if (digest != of_workers[0]).any():
                raise UserError(f"worker {rank} has other {name} than worker 0; {REMEDIES[name]}.")


def _digest(fact: Any) -> np.ndarray:
    content = json.dumps(fact, sort_keys=True, default=str).encode()
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def _check_exchange(workers: Workers) -> None:
    """Each sends other numbers, which all others know."""
    for rank, found in enumerate(workers.gather(_numbers(workers.rank))):
        if found.tobytes() != _numbers(rank).tobytes():
            raise UserError(
                f"worker {workers.rank} received other numbers than worker {rank} sent; check the network between "
                "their machines.",
                exit_code=1,
            )


def _numbers(rank: int) -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(1000).astype(np.float32)


def _code(package: str) -> str:
    """A hash of the sources of a package."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    sources = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    return hashlib.sha256("".join(f"{path} {file_hash(folder / path)}" for path in sources).encode()).hexdigest()


def _shared(options: dict[str, dict]) -> dict[str, Any]:
    """Those that all workers must have alike."""
    flat = {f"{group}.{name}": value for group, values in options.items() for name, value in values.items()}
    own = {name for name in flat if {name, name.partition(".")[0]} & {*OWN}} - {*SHARED}
    return {name: value for name, value in flat.items() if name not in own}
