"""The same fine-tuning with several seeds: how far its scores depend on chance."""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ms_bert.commands.training import free_folder
from ms_bert.errors import UserError
from ms_bert.finetuning_options import FinetuneOptions
from ms_bert.run.folder import RESULTS, RUN, RunFolder, check_free, read_description
from ms_bert.run.progress import Progress
from ms_bert.tasks import registry


def finetune(options: FinetuneOptions, once: Callable[[FinetuneOptions], int], progress: Progress) -> int:
    """Fine-tune with each seed in a folder of its own, seed-N, and write the results of all; returns the exit code.

    Stopped or killed, it goes on with --resume: complete runs stay, the one that was interrupted is resumed.

    Args:
        once: fine-tunes with one seed; returns the exit code, 0 if it is done.
    """
    folder, before = _folder(options)
    first = options.training.seed
    runs = {seed: folder.path / f"seed-{seed}" for seed in range(first, first + options.run.seeds)}
    contents = {path: _content(path) for path in runs.values()}
    for seed, path in runs.items():
        folder.check()
        training = dataclasses.replace(options.training, seed=seed)
        where = {"resume": path, "output": None} if contents[path] else {"resume": None, "output": path}
        run = dataclasses.replace(options.run, seeds=1, **where)  # type: ignore[arg-type]
        progress.say(f"seed {seed}:")
        try:
            stopped = once(dataclasses.replace(options, training=training, run=run))
        except UserError:
            if seed == first and _content(path) == contents[path]:  # nothing has gone on: as if it was not tried
                folder.describe(before) if before else folder.remove()
            raise
        if stopped:
            progress.say(f"stopped; continue all with --resume {folder.path}")
            return stopped
        gc.collect()  # the model and its graphs, before there are others
    if before and all(_content(path) == content for path, content in contents.items()):
        folder.describe(before)  # nothing has gone on, so the record stays that of what is there
    results = summary({seed: _results(path) for seed, path in runs.items()})
    folder.write(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    tests = ((f"--test {source}", metrics) for source, metrics in results.get("test", {}).items())
    for source, metrics in (("dev", results["metrics"]), *tests):
        for name, of_all in metrics.items():
            progress.say(
                f"{source} {name} {of_all['mean']:.4f} on average over {len(runs)} seeds, standard deviation "
                f"{of_all['standard_deviation']:.4f}, from {of_all['least']:.4f} to {of_all['greatest']:.4f}"
            )
    steps = [read_description(path)["options"]["training"]["steps"] for path in runs.values()]
    if len(set(steps)) > 1:
        numbers = " and ".join(map(str, dict.fromkeys(steps)))
        progress.say(
            f"the seeds were trained for {numbers} steps, by which their scores differ, too; give --steps {max(steps)} "
            f"to --resume {folder.path}"
        )
    progress.say(f"the run of the median is {folder.path / results['median_run']}")
    return 0


def _folder(options: FinetuneOptions) -> tuple[RunFolder, dict[str, Any]]:
    """That of all runs, the one to resume or a new one, with these options; and its run.json before, none of a new one.

    Each run has a full record of its own; this one says how to go on, whichever run is stopped.
    """
    before: dict[str, Any] = {}
    if options.run.resume is not None:
        folder, before = RunFolder(options.run.resume), read_description(options.run.resume)
    else:
        path = options.run.output or free_folder(options.data.task)
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
    new = {"task": registry.kind(options.data.task).name, "trained_by": []}
    folder.describe({**(before or new), "options": options.to_dict()})
    return folder, before


def _content(path: Path) -> bytes:
    """Of the run.json of a run; none before it has begun."""
    return (path / RUN).read_bytes() if (path / RUN).exists() else b""


def _results(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / RESULTS).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path / RESULTS} cannot be read ({error}); remove it and resume the run.") from None


def summary(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What several seeds gave, as JSON: of each metric the mean, the standard deviation (of a sample), the least, the
    greatest and the median, and by the first metric the run of the median, of an even number the lower one; with
    `test` also those of each file of --test.

    Args:
        results: results.json by seed, at least two.
    """
    values = _by_seed({seed: one["metrics"] for seed, one in results.items()})
    of_first = next(iter(values.values()))
    by_value = sorted(results, key=lambda seed: (of_first[seed], seed))
    tested = [one.get("test", {}) for one in results.values()]
    tests = {
        source: _by_seed({seed: one["test"][source]["metrics"] for seed, one in results.items()})
        for source in tested[0]
        if all(source in of_one for of_one in tested)
    }
    return {
        "seeds": list(results),
        "metrics": _spread(values),
        "median_run": f"seed-{by_value[(len(by_value) - 1) // 2]}",
        **({"test": {source: _spread(of_source) for source, of_source in tests.items()}} if tests else {}),
    }


def _by_seed(metrics: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The values of each metric by seed, of the metrics by seed."""
    names = list(next(iter(metrics.values())))
    return {name: {seed: one[name]["value"] for seed, one in metrics.items()} for name in names}


def _spread(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "mean": statistics.fmean(of_all.values()),
            "standard_deviation": statistics.stdev(of_all.values()),
            "least": min(of_all.values()),
            "median": statistics.median(of_all.values()),
            "greatest": max(of_all.values()),
            "by_seed": {str(seed): value for seed, value in of_all.items()},
        }
        for name, of_all in values.items()
    }
