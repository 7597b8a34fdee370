"""Hostile input of every kind: seeded mutants of what the commands read, each met by a real command.

python -m tests.faults.mutants [--mutants N] [--seed S] [--only KIND] [--output FILE.json]
python -m tests.faults.mutants --only KIND --seed S --number I      one mutant again, with what it said; it stays there

test_mutants.py runs a few of each kind; all are run by hand.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Before NumPy and torch are imported: a fork has none of its parent's threads, and none must be waited for.
os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

from tests.faults.bench import FAILURES, OUTCOMES, Bench, Mutant, Unsound  # noqa: E402
from tests.faults.subjects import SUBJECTS  # noqa: E402


def warm() -> None:
    """Import what the commands import when they need it, so that no fork has to."""
    import datasets
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import numpy.testing
    import onnxruntime
    import torch._dynamo

    import conversion.__main__
    import conversion.formats.onnx_graph.bert
    import conversion.formats.onnx_graph.runtime
    import ms_bert.commands.pretraining
    import ms_bert.framework
    import pt_reference.training.trainer

    assert datasets and matplotlib and numpy and onnxruntime and pt_reference
    torch.set_num_threads(1)
    # tyro keeps what it finds out about the options.
    conversion.__main__.parse(["convert", "a", "b"])
    ms_bert.commands.pretraining.parse(ms_bert.framework.MindSpore, "python -m tests", "", [])
    sys.dont_write_bytecode = True
    gc.collect()
    gc.freeze()


def run(mutants: int, seed: int, kinds: list[str], tell: Callable[[str], None]) -> Iterator[Mutant]:
    """Meet so many mutants, spread evenly over the kinds."""
    warm()
    for at, kind in enumerate(kinds):
        count = mutants // len(kinds) + (at < mutants % len(kinds))
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            try:
                bench = Bench(Path(folder).resolve(), kind, SUBJECTS[kind], seed)
            except Unsound as error:
                yield Mutant(kind, None, "none", "", "sound", str(error))
                continue
            for number in range(count):
                try:
                    yield bench.meet(number)
                except Unsound as error:
                    yield Mutant(kind, number, "none", "", "sound", str(error))
                    break
        tell(f"{kind}: {count} mutants in {time.perf_counter() - begun:.0f} s")


def table(counts: dict[str, collections.Counter]) -> str:
    """Counts by kind and outcome, for people."""
    columns = [name for name in (*OUTCOMES, *FAILURES) if any(count[name] for count in counts.values())]
    width = max(map(len, (*counts, "all"))) + 2
    rows = [*counts.items(), ("all", sum(counts.values(), collections.Counter()))]
    lines = [" " * width + "".join(f"{name:>12}" for name in columns)]
    lines += [f"{kind:<{width}}" + "".join(f"{count[name] or '':>12}" for name in columns) for kind, count in rows]
    return "\n".join(lines)


def distinct(failures: list[Mutant]) -> dict[tuple, list[Mutant]]:
    """Failures of one kind of thing at one place together."""
    found = collections.defaultdict(list)
    for mutant in failures:
        place = mutant.where or (mutant.kind, mutant.command)
        found[mutant.outcome, place, mutant.detail.split(":")[0] if mutant.outcome == "traceback" else ""].append(
            mutant
        )
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(SUBJECTS), help="a kind; may be given several times")
    parser.add_argument("--quick", action="store_true", help="none of the kinds that import or draw for seconds")
    parser.add_argument("--number", type=int, help="of the one mutant to meet again")
    parser.add_argument("--output", type=Path, help="JSON to write: counts and failures")
    arguments = parser.parse_args()
    quick = [kind for kind, subject in SUBJECTS.items() if not subject.draws and not subject.needs]
    kinds = arguments.only or (quick if arguments.quick else list(SUBJECTS))
    if arguments.number is not None:
        return again(kinds[0], arguments.seed, arguments.number)
    met = []
    for mutant in run(arguments.mutants, arguments.seed, kinds, lambda line: print(line, file=sys.stderr, flush=True)):
        met.append(mutant)
    counts = {kind: collections.Counter(m.outcome for m in met if m.kind == kind) for kind in kinds}
    print(table(counts))
    failures = [mutant for mutant in met if mutant.outcome in FAILURES]
    for (outcome, place, _), mutants in distinct(failures).items():
        first = mutants[0]
        print(f"\n{outcome} ({len(mutants)}x) at {place}\n  {first.command}; {first.damage}\n  {first.detail!r:.300}")
        print(f"  python -m tests.faults.mutants --only {first.kind!r} --seed {arguments.seed} --number {first.number}")
    if arguments.output:
        arguments.output.write_text(json.dumps(summary(arguments, counts, failures), indent=1) + "\n")
    return 1 if failures else 0


def again(kind: str, seed: int, number: int) -> int:
    """Meet one mutant and show all; its folder stays."""
    warm()
    root = Path(tempfile.mkdtemp(prefix="mutant-")).resolve()
    bench = Bench(root, kind, SUBJECTS[kind], seed)
    mutant = bench.meet(number)
    print(bench.said())
    print(json.dumps(dataclasses.asdict(mutant), indent=1))
    print(bench.work)
    return 1 if mutant.outcome in FAILURES else 0


def summary(arguments: argparse.Namespace, counts: dict, failures: list[Mutant]) -> dict:
    """What is kept of a run: counts, and what they were counted with; nothing that depends on the clock."""
    import datasets
    import onnx
    import pyarrow
    import safetensors
    import tokenizers
    import torch

    modules = (torch, onnx, datasets, pyarrow, safetensors, tokenizers)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "mutants": sum(sum(count.values()) for count in counts.values()),
        "seed": arguments.seed,
        "commit": commit.stdout.strip(),
        "versions": {"python": sys.version.split()[0], **{m.__name__: m.__version__ for m in modules}},
        "outcomes": {**OUTCOMES, **FAILURES},
        "counts": {kind: dict(sorted(count.items())) for kind, count in counts.items()},
        "all": dict(sorted(sum(counts.values(), collections.Counter()).items())),
        "failures": [dataclasses.asdict(mutant) for mutant in failures],
    }


if __name__ == "__main__":
    sys.exit(main())
