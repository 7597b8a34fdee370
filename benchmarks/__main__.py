"""`python -m benchmarks QUESTION ...`: measure, print, and keep the result with machine, versions and commit.

The last result of another processor is kept in machines/. `python -m benchmarks report` draws the charts and the tables
of the README, of docs/results.md and docs/speed.md from the results on file; with another --output, it draws there and
prints the tables. `python -m benchmarks.real_tasks` measures how well models do that are fine-tuned on real data.
"""

import argparse
import importlib
import inspect
import itertools
import json
import operator
import os
import pkgutil
import re
import sys
from pathlib import Path

import benchmarks
from benchmarks import report
from benchmarks.machine import describe
from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError

NO_QUESTIONS = ("__main__", "contenders", "machine", "real_tasks", "report", "runs")


def _so_far(parts):
    """Of an iterable a, b, c: [a], [a, b], [a, b, c]."""
    return itertools.accumulate(([part] for part in parts), operator.add)


def keep_of_others(path: Path, new: dict) -> None:
    """Put the result on file aside if another processor gave it than the new one: in `machines/`, by that."""
    if not path.exists():
        return
    old = json.loads(path.read_text())
    if (name := processor(old)) != processor(new):
        kept = path.parent / report.MACHINES / name / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, path.read_bytes())


def processor(result: dict) -> str:
    """Of a result, or the GPU that it names, as the name of a folder.

    What is older than the family and the model is known by its date.
    """
    machine = result.get("machine", {})
    found = result.get("result")
    if isinstance(found, list) and "device" in found[0]:
        return re.sub(r"\W+", "-", found[0]["device"]["name"]).lower()
    if machine.get("cpu_family") is None:
        return f"unknown-{result.get('date')}"
    return f"family-{machine['cpu_family']}-model-{machine['cpu_model']}"


def main() -> int:
    questions = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in NO_QUESTIONS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "questions",
        nargs="+",
        choices=[*questions, "report"],
        metavar="QUESTION",
        help=f"what to measure: {', '.join(questions)}; or report",
    )
    parser.add_argument(
        "--output", type=Path, default=report.RESULTS, help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="folder of labelled data, each in a subfolder by its name, for questions that take some: finetuning_speed "
        "reads sst2/train.tsv, and makes sentences of the same lengths without it; sentence_vectors reads "
        "mrpc/msr_paraphrase_test.txt, and fewer_bits sst2/dev.tsv besides; embedding_speed reads sst2/dev.tsv and "
        "policyqa/dev.json; time_to_quality reads sst2 and cola; ablations reads all of corpus_en, mrpc, sst2 and "
        "wnut17; chinese reads corpus_zh and chnsenticorp_htl",
    )
    arguments = parser.parse_args()
    for question in arguments.questions:
        if question == "report":
            ours = arguments.output.resolve() == report.RESULTS
            report.write(arguments.output, report.PAGES if ours else None)
            continue
        module = importlib.import_module(f"benchmarks.{question}")
        path = arguments.output / f"{question}.json"
        partial = path.with_suffix(".partial.json")
        try:
            arguments.output.mkdir(parents=True, exist_ok=True)
            write_atomically(partial, b"")
            partial.unlink()
        except OSError as error:
            raise SystemExit(
                f"{arguments.output} cannot be written to ({error.strerror}); name another --output."
            ) from None
        # Described before, for the commit must be that of the measured code.
        result = {"question": module.__doc__.splitlines()[0], **describe()}
        takes_data = "data" in inspect.signature(module.measure).parameters
        try:
            measured = module.measure(arguments.output, **({"data": arguments.data} if takes_data else {}))
        except UserError as error:
            raise SystemExit(str(error)) from None
        # A question of many parts gives one after the other; each is kept beside the last whole result until all are.
        for result["result"] in _so_far(measured) if inspect.isgenerator(measured) else [measured]:
            write_atomically(partial, (json.dumps(result, indent=2) + "\n").encode())
        print(json.dumps(result["result"], indent=2))
        keep_of_others(path, result)
        os.replace(partial, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
