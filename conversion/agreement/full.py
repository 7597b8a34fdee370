"""The suite as a whole: on a device against the goldens, or everything, planted faults and a training run included."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from conversion.agreement import cases, goldens, suite, trajectories
from conversion.agreement.environment import check_installed, environment
from conversion.agreement.figures import CaughtFault, Trajectory
from conversion.agreement.findings import Finding, worst
from conversion.agreement.html_report import Report
from conversion.agreement.suite import Reference, findings
from conversion.agreement.tolerances import kind
from ms_bert.config import PRESETS
from ms_bert.data.batches import BatchMaker
from ms_bert.data.corpus import Corpus
from ms_bert.data.store import open_store
from ms_bert.data.tokenizer import vocabulary
from ms_bert.device import PRECISIONS
from ms_bert.kernels import native
from ms_bert.options import ExampleOptions, Options, RunOptions, TextOptions, TrainingOptions

SIZES = ("tiny", "mini", "small", "medium", "base")
STEPS = 200  # of the training run
Tell = Callable[[str], None]


def against_goldens(device: str, precisions: tuple[str, ...] | None = None, tell: Tell = print) -> Report:
    """MindSpore on a device against the oracle's numbers on file, without PyTorch.

    Args:
        precisions: None: all that MindSpore has on the device. tell: takes a line of progress.
    """
    check_installed("mindspore")
    from conversion.agreement.in_mindspore import in_graph_mode

    oracle, found = goldens.Goldens(), []
    contenders = [one for precision in precisions or PRECISIONS[device] for one in in_graph_mode(device, precision)]
    for contender in contenders:
        of_one = of_goldens(contender, oracle)
        found += of_one
        tell(f"{contender.name} on {device} in {contender.precision}: {_told(of_one)}")
    about = (
        f"Does ms_bert compute correctly on this machine? MindSpore on {device} computed small BERTs with random "
        "weights, and every intermediate number was compared with the stored one that PyTorch had computed in 64 bits."
    )
    return _report(f"ms_bert on {device} against stored numbers of the oracle", device, found, about)


def of_goldens(contender: suite.Contender, oracle: goldens.Goldens) -> list[Finding]:
    """How a contender's numbers compare with those on file."""
    found: list[Finding] = []
    for problem, groups in goldens.problems().values():
        found += findings(contender, problem, oracle, (*groups, *(suite.EXACT if len(groups) > 2 else ())))
    return found


def of_library(device: str) -> list[str]:
    """The precisions of the C++ library that is compared by itself: those in which PyTorch's own errors are known."""
    known = [precision for precision in native.PRECISIONS if precision in goldens.PRECISIONS]
    return [precision for precision in known if device == "CPU" and not native.why_not(precision)]


def everything(device: str, tell: Tell = print) -> Report:
    """All frameworks, modes and precisions of this machine, the preset sizes, the planted faults, a training run."""
    check_installed("mindspore", "torch", "onnx", "onnxruntime")
    import torch  # noqa: F401 - before MindSpore, whose import leaves later ones a single thread

    from conversion.agreement import faults
    from conversion.agreement.in_mindspore import MindSpore, in_graph_mode
    from conversion.agreement.in_native import Native
    from conversion.agreement.in_onnx import OnnxRuntime
    from conversion.agreement.in_torch import PyTorch

    small, quiet = ((problem, Reference(problem)) for problem in (cases.small_problem(), cases.quiet_problem()))
    graphs = in_graph_mode(device, "float32")
    mindspore = graphs[0]
    of_halves = [made for precision in PRECISIONS[device][1:] if (made := in_graph_mode(device, precision))]
    halves = [one for made in of_halves for one in made]
    contenders = [
        *graphs,
        *halves,
        MindSpore(device=device, graph=False),
        *(PyTorch(precision) for precision in goldens.PRECISIONS),
        PyTorch(compiled=True),
    ]
    found: list[Finding] = []
    for contender in contenders:
        before = len(found)
        found += findings(contender, *small)
        found += findings(contender, *quiet, ("forward", "gradients"))
        # The slope of ReLU jumps at 0: in half precision a rounded activation may have the other one.
        for act in ("gelu_new", "relu") if contender.precision == "float32" else ("gelu_new",):
            problem = cases.activation_problem(act)
            found += findings(contender, problem, Reference(problem), ("forward", "gradients"))
        tell(f"{contender.name} in {contender.precision}: {_told(found[before:])}")
    libraries = [Native(precision) for precision in of_library(device)]
    for contender in (*libraries, OnnxRuntime(), OnnxRuntime(fused=True)):
        problem = small[0] if contender in libraries else cases.unpacked_only(small[0])
        of_graph = findings(contender, problem, small[1], ("forward",))
        found += of_graph
        tell(f"{contender.name}: {_told(of_graph)}")
    for size in SIZES:
        problem = cases.large_problem(size, PRESETS[size])
        reference = Reference(problem)
        for contender in (*in_graph_mode(device, "float32"), *libraries):  # new ones, that no size stays in memory
            of_size = findings(contender, problem, reference, ("forward",))
            found += of_size
            tell(f"{contender.name}, {size}: {_told(of_size)}")
    curves, of_run = training_run([*graphs, MindSpore(device=device, graph=False), PyTorch(compiled=True)], device)
    found += of_run
    tell(f"{STEPS} steps of training: {_told(of_run)}")
    caught, unseen = [], []
    for name, fault in faults.FAULTS.items():
        told = faults.planted(fault, mindspore, *(quiet if fault.quiet else small))
        caught.append(as_caught(name, fault.what, told))
        tell(f"fault {name}: {'caught' if caught[-1].caught else 'MISSED'} by {caught[-1].check}")
        for half, *_ in of_halves if fault.of_numbers else ():
            told = faults.planted(fault, half, *small)
            again = as_caught(f"{name}, {half.precision}", fault.what, told)
            (caught if again.caught else unseen).append(again)
    notes = [f"{fault.name}: not caught, because rounding at this precision is larger" for fault in unseen]
    about = (
        "Do all frameworks, modes and precisions of this machine compute the same? They computed the same BERTs, from "
        "small ones with random weights to BERT-base, and one training run, and every intermediate number was compared "
        "with that of PyTorch in 64 bits. Then faults were planted in ms_bert: are they found?"
    )
    return _report("The whole agreement suite", device, found, about, notes, curves, caught)


def as_caught(name: str, what: str, found: Iterable[Finding]) -> CaughtFault:
    """A planted fault, by the finding that is farthest beyond its limit, infinities aside if there are others."""
    found = list(found)
    finite = [finding for finding in found if math.isfinite(finding.share)]
    beyond = worst(finite) if finite and not worst(finite).agrees else worst(found)
    by_norm = beyond.error.norm * beyond.limit.largest >= beyond.error.largest * beyond.limit.norm
    error, limit = (beyond.error.norm, beyond.limit.norm) if by_norm else (beyond.error.largest, beyond.limit.largest)
    return CaughtFault(name, what, f"{beyond.check}, {beyond.case}", beyond.name, error, limit, not beyond.agrees)


def training_run(contenders: list, device: str = "CPU") -> tuple[Trajectory, list[Finding]]:
    """The losses of a tiny BERT on the built-in corpus, dropout off, in all frameworks."""
    text, examples = TextOptions(), ExampleOptions(seq_length=64)
    corpus = Corpus(text)
    entries = vocabulary(text, corpus)
    store = open_store(text, corpus, entries)[0]
    training = TrainingOptions(batch_size=16, steps=STEPS, warmup_steps=20, learning_rate=1e-3)
    options = Options(examples=examples, training=training, run=RunOptions(device=device))
    config = PRESETS["tiny"].replace(vocab_size=entries.size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return trajectories.compare(contenders, config, options, BatchMaker(store.train, entries, examples, 16, 1))


def summary(report: Report) -> dict:
    """The figures of a report as JSON values: what was compared, the noise and the smallest fault of each tolerance."""
    by_tolerance: dict[str, list[Finding]] = collections.defaultdict(list)
    for finding in report.findings:
        by_tolerance[f"{kind(finding.check, finding.name)} {finding.precision}"].append(finding)
    smallest: dict[str, CaughtFault] = {}
    for fault in report.faults:
        precision = fault.name.partition(", ")[2] or "float32"
        check = f"{kind(fault.check, fault.tensor)} {precision}"
        if fault.caught and (check not in smallest or fault.times < smallest[check].times):
            smallest[check] = fault
    contenders = collections.Counter(f"{f.contender} {f.precision}" for f in report.findings)
    return {
        "agrees": report.agrees,
        "tensors_compared": dict(contenders),
        "tensors_beyond_their_limits": sum(not finding.agrees for finding in report.findings),
        "tolerances": {
            name: {
                "largest_error": max(f.error.norm for f in of_kind),
                "largest_share_of_limit": round(worst(of_kind).share, 3),
                "where": f"{worst(of_kind).contender}, {worst(of_kind).case}, {worst(of_kind).name}",
            }
            for name, of_kind in by_tolerance.items()
        },
        "smallest_fault": {check: [fault.name, fault.error, fault.limit] for check, fault in smallest.items()},
        "faults": [dataclasses.asdict(fault) for fault in report.faults],
        "drift": {name: max(values) for name, values in report.trajectory.drift.items()} if report.trajectory else {},
    }


def _told(found: list[Finding]) -> str:
    beyond = sum(not finding.agrees for finding in found)
    return f"{len(found)} tensors, " + (f"{beyond} BEYOND THEIR LIMITS" if beyond else "all within their limits")


def _report(
    title: str,
    device: str,
    found: list[Finding],
    about: str,
    notes: Sequence[str] = (),
    curves: Trajectory | None = None,
    caught: Sequence[CaughtFault] = (),
) -> Report:
    beyond, missed = sum(not finding.agrees for finding in found), sum(not fault.caught for fault in caught)
    verdict = f"{len(found)} tensors were compared and {'all' if not beyond else len(found) - beyond} agree"
    if caught:
        verdict += (
            f"; {len(caught)} faults were planted and {'all' if not missed else len(caught) - missed} were caught"
        )
    return Report(
        title,
        f"{verdict}.",
        not beyond and not missed,
        tuple(found),
        environment(device),
        tuple(notes),
        curves,
        tuple(caught),
        about,
    )
