"""`python -m benchmarks report`: the charts and the blocks of numbers of the README, docs/results.md and docs/speed.md,
from the results on file."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev

from benchmarks.contenders import COMPUTES_ALL, FIRST, Work, all_makers, can_contend
from benchmarks.contenders.sentences import FULL, SORTED
from benchmarks.contenders.sentences import MAKERS as SENTENCE_MAKERS
from benchmarks.real_tasks import CONTENDERS, RECIPES, TASKS
from benchmarks.scale_plan import MOST_ERROR
from ms_bert.data.files import write_atomically

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
SPEED, PROFILE = "speed.png", "step_profile.png"
Makers = Mapping[str, Callable[[Path], str]]  # of the blocks of a page, by their names
MACHINES = "machines"  # the folder of what other processors gave
NOTHING = "Nothing is measured yet."
ABOUT_STEPS = (
    "Steps of training in float32, dropout on: milliseconds with the fused kernels, and how many times as long the",
    "others take (medians of pairs; quartiles in the raw results). The last column is the rate at which the whole",
    "fused step computes its matrix products, as a share of the fastest matrix product on the machine in the same",
    "run.",
)
ABOUT_INFERENCE = (
    "The encoder of all-MiniLM-L6-v2: milliseconds with the fused kernels, and how many times as long the others",
    "take. 32 texts of many lengths the fused kernels take without padding, the others in the fastest of three",
    "ways: all at once, padded to the longest, in groups of about the same length, or one by one; those that compile",
    "each shape (ms_bert stock, --compile), all at once.",
)
WHOLE_LAST_LAYER = "\n\nThen all contenders computed the last layer for all tokens."
PADDED = "\n\nHere the others padded the texts of many lengths to the longest, all at once."
COMPUTED = (
    "`transformers` computes all tokens, the others in the MLM head and after the last attention those alone that are "
    "read."
)
STEPS_OF = ("pretraining_step", "finetuning_step")  # the questions about a step of training
STEPS = {
    "pretraining": "pre-training",
    "bfloat16": "pre-training",
    "finetuning": "fine-tuning",
    "finetuning_bfloat16": "fine-tuning",
}


def write(results: Path, pages: Mapping[Path, Makers] | None) -> None:
    """Draw the charts, put the blocks into the pages, and print what was required beside what was measured.

    Args:
        results: the folder of the results, and of the charts. pages: None: the blocks of all pages are printed.
    """
    made = {path: blocks(results, makers) for path, makers in (pages or PAGES).items()}
    draw_speed(results / SPEED, results)
    draw_profile(results / PROFILE, results)
    for path, found in made.items():
        if pages is None:
            print("\n\n".join(found.values()))
        else:
            _replace(path, found)
    for what, required, measured, met in requirements(results):
        print(f"{'met    ' if met else 'NOT MET'} {what}: {measured}, required {required}")


def _replace(path: Path, made: dict[str, str]) -> None:
    """The blocks of a page by these."""
    text = path.read_text()
    for name, block in made.items():
        begin, end = map(re.escape, marks(name))
        text = re.sub(f"{begin}.*{end}", lambda _, block=block: block, text, flags=re.S)
    write_atomically(path, text.encode())


def marks(name: str) -> tuple[str, str]:
    """Between which a block of a page stands. All around the blocks is written by hand."""
    return f"<!-- {name}, made by `python -m benchmarks report` -->", f"<!-- /{name} -->"


def blocks(results: Path, makers: Makers) -> dict[str, str]:
    """A page's blocks of measured numbers by name, with their marks."""
    made = {name: (*marks(name), make(results)) for name, make in makers.items()}
    return {name: f"{begin}\n\n{text}\n\n{end}" for name, (begin, end, text) in made.items()}


def _learning(results: Path) -> str:
    """What the default run prints and learns."""
    learning = load(results, "learning")
    printed = [line.replace("RUN", "runs/tiny") for line in learning["printed"]]
    last, entropy = learning["held_out"][-1], learning["text"]["held_out_unigram_entropy"]
    return "\n\n".join(
        [
            _paragraph(
                f"On {_machine(results, 'learning')} it took {learning['seconds'] / 60:.1f} minutes and printed",
                "([the result](benchmarks/results/learning.json)):",
            ),
            "\n".join(["```", *printed[:6], "...", *printed[-3:], "```"]),
            _paragraph(
                f"Held-out text has a unigram entropy of {entropy:.2f} nats: that would be the MLM loss of a model",
                "that knows how frequent each word is and nothing of context. The run ends at an MLM loss of",
                f"**{last['held_out_mlm_loss']:.2f}** (accuracy {last['held_out_mlm_accuracy']:.1%}) and a",
                f"next-sentence accuracy of **{last['held_out_nsp_accuracy']:.1%}**, where chance is 50%.",
            ),
            *_guesses(learning),
        ]
    )


def _guesses(learning: dict) -> list[str]:
    """What the model guesses behind masks; older results have none."""
    if "guesses" not in learning:
        return []
    asked = " ".join(f'"{text}"' for text in learning["guesses"])
    command = f"python -m ms_bert.predict runs/tiny --fill-mask {asked}"
    found = [line.replace("\t", "    ") for line in learning["guesses"].values()]
    return [
        "Asked for masked words, it guesses some of its text that may stand there:",
        "\n".join(["```", command, "```"]),
        "\n".join(["```", *found, "```"]),
    ]


def _crossing(results: Path) -> str:
    """How far a run that changes its framework is from one that does not."""
    differences = load(results, "crossing")["largest_relative_difference_of_the_loss"]
    return _paragraph(
        "Over 600 steps with dropout, the loss of a run that changes its framework every 150 steps stays within",
        f"{differences['crossed from MindSpore alone']:.3%} of the loss of MindSpore alone; the loss of PyTorch alone",
        f"stays within {differences['PyTorch alone from MindSpore alone']:.3%}.",
    )


def _weights(results: Path) -> str:
    """What real weights are after a journey through all formats."""
    found = load(results, "sentence_embeddings")
    largest = max(found["largest_difference_from_float64"].values())
    return _paragraph(
        f"The last line prints that {found['tensors_equal_after_all_formats']} tensors are equal, byte for byte. The",
        "sentence embeddings (mean-pooled, normalised) that ms_bert, pt_reference, transformers and ONNX Runtime",
        "compute in float32 differ from float64 by",
        f"[at most {largest:.1e}](benchmarks/results/sentence_embeddings.json).",
    )


def _agreement(results: Path) -> str:
    """What the last full run of the agreement suite and the calibration of `verify` found."""
    agreement, calibration = load(results, "agreement"), load(results, "calibration")
    faults = [fault for fault in agreement["faults"] if "," not in fault["name"]]
    smallest = min(faults, key=lambda fault: fault["error"] / fault["limit"])
    largest = max(told["largest_share"] for told in calibration["sound"].values())
    margin = min(told["times"] for told in calibration["planted"].values())
    caught = sum(fault["caught"] for fault in faults)
    return "\n\n".join(
        [
            _paragraph(
                "The [last full run](benchmarks/results/agreement.json) compared",
                f"{sum(agreement['tensors_compared'].values()):,} tensors, of which",
                f"{agreement['tensors_beyond_their_limits'] or 'none'} were beyond their limits. Of {len(faults)}",
                f"planted faults it caught {caught}. The nearest to its limit is `{smallest['name']}`",
                f"({smallest['what']}), at {smallest['error'] / smallest['limit']:.0f} times the limit.",
            ),
            _paragraph(
                f"[{calibration['models_verified_against_themselves']} models](benchmarks/results/calibration.json) of",
                "many sizes, initialisers and seeds, trained and untrained, were verified against themselves.",
                f"{len(calibration['false_alarms']) or 'None'} was reported to differ. The largest error was",
                f"{largest:.0%} of its limit, and the smallest planted fault is at {margin:.0f} times its own.",
            ),
        ]
    )


def _measured(results: Path) -> str:
    """Data, start, large models and conversion."""
    batches, store, models, start, converted = (
        load(results, name) for name in ("batches", "token_store", "large_models", "start", "conversion")
    )
    (small, large), base, larger = store["runs"], models["base"], models["large"]
    seconds, ratio = converted["median_seconds"], converted["times_a_copy"]
    others = ", ".join(str(seconds[kind]) for kind in ("MindSpore .ckpt", "TensorFlow", "ONNX"))
    waited = f"{load(results, 'learning')['waited_for_batches_share']:.2%}"
    rows = [
        (
            "batches made by one core, S = 128",
            f"{batches['sequences_per_second']['token']['median']:,} sequences/s",
            "batches",
        ),
        ("what the default run waited for batches", f"{waited} of its time", "learning"),
        (
            "token store",
            f"{large['megabytes_per_minute']} MB of text a minute; {small['peak_memory_gb']:.2f} GB of memory for "
            f"0.1 GB of text, {large['peak_memory_gb']:.2f} GB for 1 GB",
            "token_store",
        ),
        (
            "from the command until the step is compiled, with the token store there and without an evaluation",
            f"{start['median']['to_first_step_seconds']:.1f} s",
            "start",
        ),
        (
            "BERT-base, 8 x 128 tokens",
            f"{median(base['step_seconds']):.1f} s a step, {base['peak_memory_gb']:.1f} GB at most",
            "large_models",
        ),
        (
            "BERT-large, 1 x 128 tokens",
            f"{median(larger['step_seconds']):.1f} s in the one step that was timed, "
            f"{larger['peak_memory_gb']:.1f} GB at most",
            "large_models",
        ),
        (
            "BERT-large (1.34 GB), safetensors to safetensors",
            f"{seconds['safetensors']} s, {ratio['median']} times as long as a copy (from {ratio['least']} to "
            f"{ratio['most']}); {converted['peak_memory_mb']['safetensors']} MB of memory",
            "conversion",
        ),
        ("BERT-large to MindSpore .ckpt, TensorFlow, ONNX", f"{others} s", "conversion"),
    ]
    lines = [(what, found, _machine(results, question)) for what, found, question in rows]
    return _rows([("what", "result", "on"), ("---",) * 3, *lines])


def _speed(results: Path) -> str:
    """Steps on rows of 128, and inference, on two machines each."""
    return "\n\n".join(
        [
            _paragraph(*ABOUT_STEPS, COMPUTED),
            *_of_machines(results, STEPS_OF, _of_short_rows, most=2),
            _paragraph(*ABOUT_INFERENCE),
            *_of_machines(results, ("inference",), _by_contender, most=2),
        ]
    )


def _of_short_rows(works: list[dict]) -> str:
    """Rows of 512 tokens stand on the page about speed."""
    return _table([work for work in works if work["tokens"] == 128])


def _steps(results: Path) -> str:
    """Steps of training, where their time goes, and their memory."""
    pretraining, finetuning = (load(results, name) for name in STEPS_OF)
    mini, base = find(pretraining, "mini", 128), find(pretraining, "base", 128)
    profiled = find(load(results, "step_profile"), "mini", 128)
    share = {name: one["share_of_gemm_peak"] for name, one in mini["contenders"].items()}
    stock = share["ms_bert stock"]
    memory = ", ".join(f"{name} {one['peak_memory_gb']:.1f}" for name, one in base["contenders"].items())
    parts = [
        _paragraph(*ABOUT_STEPS),
        *_of_machines(results, STEPS_OF, _table),
        _paragraph(
            f"{COMPUTED} In the first of these tables that is {_more(mini)} more products for mini and {_more(base)}",
            "for base, which explain a part of its time: for mini it computes its products at",
            f"{share[COMPUTES_ALL]:.0%} of the peak, pt_reference at {share['pt_reference']:.0%}, the stock operations",
            f"at {stock:.0%} and the fused kernels at {share[FIRST]:.0%}. The fastest products of torch and of the",
            "fused kernels reach",
            f"{_peaks(results)}. Where the time of a step goes, on {_machine(results, 'step_profile')}, at",
            f"{profiled['step_milliseconds']:.0f} ms for mini in this measurement:",
        ),
        "![Milliseconds of each kernel, and what its products would take at the peak]"
        f"(../benchmarks/results/{PROFILE})",
        _paragraph(
            f"Peak memory of the step of base on rows of 128, in GB: {memory}. mindnlp's BERT is not measured: version",
            "0.5.1 needs MindSpore 2.7 or older, and 0.4.1 cannot be imported with MindSpore 2.10.",
        ),
    ]
    return "\n\n".join(parts)


def _bfloat16(results: Path) -> str:
    """Steps in bfloat16, and what LAMB costs."""
    return "\n\n".join(
        [
            _paragraph(
                f"`--precision bfloat16` on {_machine(results, 'bfloat16_step')}, where the processor multiplies it:",
                "milliseconds of a step in float32, and how many times as long the others take; the last column is of",
                "the step in float32.",
            ),
            _table(load(results, "bfloat16_step")),
            *_not_measured(results, ("bfloat16_step",)),
            *_lamb(results),
        ]
    )


def _inference(results: Path) -> str:
    """The encoder, in all precisions, and what fewer bits cost."""
    fewer = load(results, "fewer_bits")
    parts = [
        _paragraph(*ABOUT_INFERENCE),
        *_of_machines(results, ("inference",), _by_contender),
        _paragraph(
            "What fewer bits cost: the cosine of each token's last hidden state to that in float32, on",
            f"{fewer['tokens']:,} tokens of SST-2 and MRPC. int8 needs no calibration: weights have scales by output,",
            "inputs by token, each for 128 numbers at a time.",
        ),
        _rows(
            [
                ("", "mean", "least"),
                ("---",) * 3,
                *(
                    (name, f"{one['token_cosine_mean']:.5f}", f"{one['token_cosine_least']:.4f}")
                    for name, one in fewer["contenders"].items()
                    if name != "ms_bert float32"
                ),
            ]
        ),
    ]
    return "\n\n".join(parts)


def _compiling(results: Path) -> str:
    """Compilation, and packing."""
    packing, compiled = load(results, "packing"), load(results, "compile_time")
    gain = packing["gain"]
    alone, packed = (f"{share:.0%}" for share in packing["share_of_text"].values())
    cold = {name: times["cold"]["median"] for name, times in compiled[-1]["compile_seconds"].items()}
    warm = {name: times["warm"]["median"] for name, times in compiled[-1]["compile_seconds"].items()}
    parts = [
        _paragraph(
            f"On {_machine(results, 'compile_time')}, the training step of BERT-base compiles in {cold[FIRST]:.1f} s",
            f"({cold['ms_bert stock']:.1f} s with stock kernels; torch.compile takes",
            f"{cold['pt_reference --compile']:.1f} s). When an earlier run of the same shape has kept it",
            f"(`--graph-cache`, in `--cache`), it loads in {warm[FIRST]:.1f} s ({warm['ms_bert stock']:.1f} s with",
            f"stock kernels; torch.compile, which also keeps its code, {warm['pt_reference --compile']:.1f} s).",
        ),
        _paragraph(
            f"On {_machine(results, 'packing')}, with `--pack 4`, a step of BERT-mini on rows of",
            f"{packing['tokens_a_row']} tokens processes {gain['median']:.2f} times as much text per second: {packed}",
            f"of the rows is text, instead of {alone}.",
        ),
    ]
    return "\n\n".join(parts)


def _of_machines(
    results: Path, names: Sequence[str], table: Callable[[list[dict]], str], most: int | None = None
) -> Iterator[str]:
    """For each processor that has a result for the first of these questions, a table of those that it has, and what of
    them it has not. most: processors; None: all; the newest results of others come first."""
    others = sorted(of_others(results, names[0]), key=lambda folder: load(folder, names[0], "date"), reverse=True)
    for folder in (results, *others)[:most]:
        works = [work for name in names if (folder / f"{name}.json").exists() for work in load(folder, name)]
        yield f"On {_machine(folder, names[0])}:"
        yield table(works)
        yield from _not_measured(folder, names)


def _not_measured(results: Path, names: Sequence[str]) -> list[str]:
    """What these questions measure today, but did not when they were asked on this processor, in a line."""
    missing: list[str] = []
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        there = load(results, name) if (results / f"{name}.json").exists() else []
        titles = {_title(work) for work in there}
        works = [dataclasses.asdict(_work(given)) for given in module.WORKS]
        works += [{**works[0], "rows": 32, "tokens": 0, "texts": texts} for texts in getattr(module, "MIXES", ())]
        missing += [title for title in map(_title, works) if title not in titles]
        instructions = load(results, name, "machine").get("cpu_instructions", ()) if there else ()
        for kind in dict.fromkeys(work["kind"] for work in there):
            ran = {contender for work in there if work["kind"] == kind for contender in work["contenders"]}
            missing += [one for one in all_makers(kind) if one not in ran and can_contend(one, instructions)]
    return [_paragraph(f"Not measured there: {'; '.join(dict.fromkeys(missing))}.")] if missing else []


def _work(given) -> Work:
    """Of a work alone, or with how it is measured."""
    return given if isinstance(given, Work) else given[0]


def _peaks(results: Path) -> str:
    """Of torch and the fused kernels, on each processor that steps were measured on."""
    found = []
    for folder in (results, *of_others(results, STEPS_OF[0])):
        peak = find(load(folder, STEPS_OF[0]), "mini", 128)["gemm_peak_gflops_a_second"]
        where = "there" if folder == results else f"on {_machine(folder, STEPS_OF[0])}"
        found.append(f"{peak['torch']:.0f} and {peak['ms_bert']:.0f} GFLOP/s {where}")
    return ", ".join(found)


def _lamb(results: Path) -> list[str]:
    """What LAMB costs, where it is measured."""
    if not (results / "lamb_step.json").exists():
        return []
    _, *works = load(results, "lamb_step")
    ratios = [(work["preset"], work["contenders"]["ms_bert fused LAMB"]["times_the_first"]["median"]) for work in works]
    times = ", ".join(f"{ratio:.2f} times as long for {preset}" for preset, ratio in ratios)
    return [_paragraph(f"Compared with AdamW, a step with LAMB takes {times}.")]


def _real_tasks(results: Path) -> str:
    """The scores of fine-tuned models: mean and standard deviation over the seeds, and how many these are."""
    if not (results / "real_tasks.json").exists():
        return NOTHING
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for run in load(results, "real_tasks").values():
        for measure, value in run["metrics"].items():
            row = found.setdefault((run["task"], run["recipe"], measure), {})
            row.setdefault(run["contender"], []).append(100 * value)
    rows = [("task", "recipe", "measure", *CONTENDERS), ("---",) * (3 + len(CONTENDERS))]
    for name in sorted(found, key=lambda name: list(TASKS).index(name[0])):  # measures stay as they are
        cells = (_mean(found[name].get(contender, [])) for contender in CONTENDERS)
        rows.append((name[0], name[1], name[2].replace("_", " "), *cells))
    return _rows(rows)


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


def _recipes(results: Path) -> str:
    """The recipes that are measured."""
    if not (results / "real_tasks.json").exists():
        return NOTHING
    used = {run["recipe"] for run in load(results, "real_tasks").values()}
    rows = [("recipe", "model", "epochs", "learning rate", "further options"), ("---",) * 5]
    for name, recipe in RECIPES.items():
        if name in used:
            further = f"`{' '.join(recipe.twins)}`" if recipe.twins else ""
            further += f", `--teacher`: by {recipe.teacher}, of the same seed" if recipe.teacher else ""
            rows.append((name, recipe.model, f"{recipe.epochs:g}", f"{recipe.learning_rate:g}", further))
    return _rows(rows)


def _finetuning_speed(results: Path) -> str:
    """Sentences a second, and how many times as many as the Trainer."""
    if not (results / "finetuning_speed.json").exists():
        return NOTHING
    parts = []
    for folder in (results, *of_others(results, "finetuning_speed")):
        found = load(folder, "finetuning_speed")
        rows = [("", "sentences/s", "times as fast as full length", "times as fast as sorted"), ("---",) * 4]
        for name, one in found["contenders"].items():
            ratios = found["times_as_fast"].get(name, {})
            cells = (f"{ratios[other]['median']:.2f}" if other in ratios else "" for other in (FULL, SORTED))
            rows.append((name, f"{one['sentences_a_second']['median']:.4g}", *cells))
        before, after = found["load_average_before_and_after"]
        missing = [name for name in SENTENCE_MAKERS if name not in found["contenders"]]
        parts += [
            _paragraph(
                f"On {_machine(folder, 'finetuning_speed')}, with sentences of {found['tokens_on_average']:.1f}",
                f"tokens on average; medians of {found['rounds']} rounds. The load average of the machine was {before}",
                f"before and {after} after it.",
            ),
            _rows(rows),
            *([f"Not measured there: {'; '.join(missing)}."] if missing else []),
        ]
    return "\n\n".join(parts)


# Of BERT-base, in percent: table 5, and the F1 of named entities in table 7, both of development data (Devlin et al.,
# 2019). A task stands beside ours if we have it.
_PAPERS_MODELS = {
    "default": {"MRPC": 86.7, "SST-2": 92.7, "MNLI": 84.4, "QNLI": 88.4, "SQuAD": 88.5},
    "no NSP": {"MRPC": 86.5, "SST-2": 92.6, "MNLI": 83.9, "QNLI": 84.9, "SQuAD": 87.9},
    "LTR & no NSP": {"MRPC": 77.5, "SST-2": 92.1, "MNLI": 82.1, "QNLI": 84.3, "SQuAD": 77.8},
    "LTR & no NSP + BiLSTM": {"MRPC": 75.7, "SST-2": 91.6, "MNLI": 82.1, "QNLI": 84.1, "SQuAD": 84.9},
}
_PAPERS_FEATURES = {
    "embeddings": 91.0,
    "second-to-last layer": 95.6,
    "last layer": 94.9,
    "sum of the last four layers": 95.9,
    "concatenation of the last four layers": 96.1,
}
_PAPERS_SUM_OF_ALL, _PAPERS_TUNED = 95.5, 96.4


def _ablations(results: Path) -> str:
    """The scores of models that were pre-trained and fine-tuned differently, and the paper's."""
    if not (results / "ablations.json").exists():
        return NOTHING
    found = load(results, "ablations")
    machine = _paragraph(f"On {_machine(results, 'ablations')}.")
    return "\n\n".join([machine, *(_rows(make(found)) for make in (_models, _layers))])


def _models(found: list[dict]) -> Iterator[tuple[str, ...]]:
    """Table 5: a row for each model and pooling."""
    tasks = [name for name in _PAPERS_MODELS["default"] if name not in ("MRPC", "SST-2")]
    ours = ("MRPC accuracy", "MRPC, paper", "SST-2 accuracy", "SST-2, paper", "WNUT-17 F1")
    header = ("pre-training", "held-out loss", "pooling", *ours, *(f"{task}, paper" for task in tasks))
    yield from (header, ("---",) * len(header))
    losses = {one["model"]: one["held_out"] for one in found if one["kind"] == "pretraining"}
    for model, papers in _PAPERS_MODELS.items():
        held_out = losses[model.removesuffix(" + BiLSTM")]
        name = "lm" if "held_out_lm_loss" in held_out else "mlm"
        loss = f"{name.upper()} {held_out[f'held_out_{name}_loss']:.3f}"
        tuned = [one for one in found if one["kind"] == "finetuning" and one["model"] == model]
        for pooling in dict.fromkeys(one["pooling"] for one in tuned if one["pooling"]):
            mrpc, sst2 = (_scores(tuned, "accuracy", task=task, pooling=pooling) for task in ("mrpc", "sst2"))
            cells = (mrpc, f"{papers['MRPC']}", sst2, f"{papers['SST-2']}", _scores(tuned, "f1", task="wnut17"))
            yield model, loss, pooling, *cells, *(f"{papers[task]}" for task in tasks)


def _layers(found: list[dict]) -> Iterator[tuple[str, ...]]:
    """Table 7: a row for each choice of layers, and one for a model that is trained with its classifier."""
    models = [one["model"] for one in found if one["kind"] == "pretraining"]
    default, used = models[0], [one for one in found if one["kind"] == "features"]
    sst2 = (*(f"SST-2 accuracy, {model}" for model in models), "SST-2 accuracy, BiLSTM")
    header = ("layers", *sst2, "WNUT-17 F1, BiLSTM", "CoNLL-2003 F1, paper")
    yield from (header, ("---",) * len(header))
    for features, paper in _PAPERS_FEATURES.items():
        of = [one for one in used if one["features"] == features]
        simple = (_scores(of, "accuracy", classifier="logistic regression", model=model) for model in models)
        lstm = (
            _scores(of, name, classifier="BiLSTM", task=task) for task, name in (("sst2", "accuracy"), ("wnut17", "f1"))
        )
        yield features, *simple, *lstm, f"{paper}"
    yield "weighted sum of all 12 layers", *[""] * (len(models) + 2), f"{_PAPERS_SUM_OF_ALL}"
    tuned = [one for one in found if one["kind"] == "finetuning"]
    simple = (_scores(tuned, "accuracy", task="sst2", model=model, pooling="mean") for model in models)
    yield "all, fine-tuned", *simple, "", _scores(tuned, "f1", task="wnut17", model=default), f"{_PAPERS_TUNED}"


def _chinese(results: Path) -> str:
    """The scores of Chinese models that were pre-trained differently."""
    if not (results / "chinese.json").exists():
        return NOTHING
    machine = _paragraph(f"On {_machine(results, 'chinese')}.")
    return "\n\n".join([machine, _rows(_chinese_models(load(results, "chinese")))])


def _chinese_models(found: list[dict]) -> Iterator[tuple[str, ...]]:
    """A row for each model and way of fine-tuning."""
    header = ("pre-training", "held-out MLM loss before", "after", "fine-tuning", "accuracy", "macro F1")
    yield from (header, ("---",) * len(header))
    losses = {one["model"]: one for one in found if one["kind"] == "pretraining"}
    tuned = [one for one in found if one["kind"] == "finetuning"]
    for model, way in dict.fromkeys((one["model"], one["way"]) for one in tuned):
        before, after = (f"{losses[model][name]['held_out_mlm_loss']:.3f}" for name in ("held_out_before", "held_out"))
        scores = (_scores(tuned, measure, model=model, way=way) for measure in ("accuracy", "f1_macro"))
        yield model, before, after, way, *scores


def _time_to_quality(results: Path) -> str:
    """Of each recipe of pre-training its time, its losses, and what its fine-tuned models score."""
    if not (results / "time_to_quality.json").exists():
        return NOTHING
    found = load(results, "time_to_quality")
    trained, tuned = ([one for one in found if one["kind"] == kind] for kind in ("pretraining", "finetuning"))
    rows = [("pre-training", "minutes", "MLM loss", "MLM accuracy", "NSP accuracy", "SST-2", "CoLA"), ("---",) * 7]
    for one in trained:
        held_out, recipe = one["held_out"], one["recipe"]
        accuracies = (f"{held_out[f'held_out_{head}_accuracy']:.1%}" for head in ("mlm", "nsp"))
        scores = (
            _scores(tuned, measure, recipe=recipe, task=task)
            for task, measure in (("sst2", "accuracy"), ("cola", "matthews_correlation"))
        )
        minutes = f"{one['training_seconds'] / 60:.1f}"
        rows.append((recipe, minutes, f"{held_out['held_out_mlm_loss']:.3f}", *accuracies, *scores))
    return "\n\n".join([_paragraph(f"On {_machine(results, 'time_to_quality')}."), _rows(rows)])


def _workers(results: Path) -> str:
    """What several workers cost and give."""
    if not (results / "workers.json").exists():
        return NOTHING
    found: dict[str, list[dict]] = {}
    for one in load(results, "workers"):
        found.setdefault(one["kind"], []).append(one)
    header = ("model", "batch", "1 worker, 2 threads", "2 workers, 1 thread each", "times as fast")
    throughput = [header, ("---",) * len(header)]
    for one in found["throughput"]:
        rates = (f"{rate:.4g} sequences/s" for rate in one["sequences_per_second"].values())
        batch = f"{one['rows']} x 128 in {one['leaves']} leaves"
        throughput.append((one["preset"], batch, *rates, f"{one['two_to_one']:.2f}"))
    memory = [("workers", "peak memory of each", "start to first step"), ("---",) * 3]
    for one in found["memory"]:
        peaks = ", ".join(f"{peak:.2f}" for peak in one["peak_memory_gb"])
        memory.append((str(one["workers"]), f"{peaks} GB", f"{one['to_first_step_seconds']:.0f} s"))
    (exchange,), (restart,), (first, *_) = found["exchange"], found["restart"], found["memory"]
    sizes = [("exchanged by 2 workers", *(f"{size['megabytes']:.4g} MB" for size in exchange["sizes"]))]
    sizes += [("---",) * len(sizes[0]), ("time", *(f"{size['milliseconds']:.0f} ms" for size in exchange["sizes"]))]
    return "\n\n".join(
        [
            _paragraph(f"On {_machine(results, 'workers')}."),
            _rows(throughput),
            _paragraph(
                f"Memory of BERT-{first['preset']}, {first['rows']} x 128 tokens in 8 leaves, one thread for each",
                "worker:",
            ),
            _rows(memory),
            _paragraph(
                "An exchange is the sum of so many gradients, divided between two workers, and of the updated rows to",
                "both:",
            ),
            _rows(sizes),
            _paragraph(
                f"From the death of a worker until all trained again, a BERT-{restart['preset']} by two workers took",
                f"{restart['seconds']:.0f} seconds, and {restart['to_first_step_seconds']:.0f} from the command to the",
                "first step; most of both is compilation.",
            ),
        ]
    )


def _scale_plan(results: Path) -> str:
    """What was foretold of two workers, and the curves."""
    if not (results / "scale_plan.json").exists():
        return NOTHING
    found = load(results, "scale_plan")
    header = ("model", "batch", "exchange", "predicted", "measured", "ratio")
    told = [header, ("---",) * len(header)]
    for one in found["foretold"]:
        seconds = (f"{one[name]:.2f} s" for name in ("exchange_seconds", "foretold_seconds", "measured_seconds"))
        batch = f"{one['rows']} in {one['leaves']}"
        told.append((one["preset"], batch, *seconds, f"{one['foretold_to_measured']:.2f}"))
    counts = [point["workers"] for point in found["curves"][0]["points"]]
    chosen = [count for count in counts if count in (1, 8, 64, 512)]
    header = ("model", "each device, network of each", *(f"{n} worker{'s' * (n > 1)}" for n in chosen))
    curves = [header, ("---",) * len(header)]
    for curve in found["curves"]:
        points = {point["workers"]: point for point in curve["points"]}
        cells = (f"{points[n]['step_seconds']:.3g} s, {points[n]['efficiency']:.0%}" for n in chosen)
        curves.append((curve["preset"], curve["device"], *cells))
    return "\n\n".join(
        [
            _paragraph(f"On {_machine(results, 'scale_plan')}, steps of two workers with one thread each:"),
            _rows(told),
            _paragraph(
                "The following is a model, not a measurement: a batch of 65,536 rows of 128 tokens in 512 leaves, with",
                "nothing of the exchange overlapped. Seconds of a step, and the efficiency:",
            ),
            _rows(curves),
        ]
    )


_MACHINES, _CORES, _TEXT = (1, 4, 16, 64), 32, 1e6  # of a plan; megabytes


def _corpus(results: Path) -> str:
    """What a token store in parts takes, and a plan for much text."""
    store = load(results, "token_store")
    if "shards" not in store:  # an older result
        return NOTHING
    made, processes = store["shards"], store["processes"]
    megabytes, tokenized = made["megabytes"], sum(made["part_seconds"])
    written = made["bytes"] / 1e6  # megabytes
    core_hours = tokenized * processes / megabytes * _TEXT / 3600
    merging = made["merge_seconds"] / megabytes * _TEXT / 60
    header = (f"machines of {_CORES} cores", *map(str, _MACHINES))
    hours = [core_hours / _CORES / machines for machines in _MACHINES]
    times = ("tokenizing", *(f"{h:.1f} h" if h >= 1.0 else f"{60 * h:.0f} min" for h in hours))
    return "\n\n".join(
        [
            _paragraph(
                f"On {_machine(results, 'token_store')}, by {processes} processes: {megabytes / 1000:.2g} GB of text",
                f"in {len(made['part_seconds'])} files became as many parts in {tokenized:.0f} s and one store of them",
                f"in {made['merge_seconds']:.1f} s more, with at most {made['merge_peak_memory_gb']:.2g} GB of memory.",
                f"The store takes {written / megabytes:.2g} bytes for each byte of text.",
            ),
            _paragraph(
                f"The following is a model, not a measurement: {_TEXT / 1e6:.0f} TB of text takes {core_hours:.0f}",
                f"hours of one core, and then one machine {merging:.0f} minutes to merge the parts. That reads and",
                f"writes {written / megabytes * _TEXT / 1e6:.2g} TB, {written / made['merge_seconds']:.0f} MB a",
                "second; a disk that does less needs longer.",
            ),
            _rows([header, ("---",) * len(header), times]),
        ]
    )


def _scores(found: list[dict], measure: str, **about: str) -> str:
    """The mean of a measure over the seeds, of the results of which this is so."""
    chosen = (one for one in found if about.items() <= one.items())
    return _mean([100 * one["metrics"][measure] for one in chosen if measure in one["metrics"]])


# What the README and two pages of docs/ show, by the names of the blocks.
BLOCKS = {
    "learning": _learning,
    "crossing": _crossing,
    "weights": _weights,
    "agreement": _agreement,
    "speed": _speed,
}
RESULTS_BLOCKS = {
    "scores": _real_tasks,
    "recipes": _recipes,
    "fine-tuning speed": _finetuning_speed,
    "ablations": _ablations,
    "chinese": _chinese,
    "time to quality": _time_to_quality,
    "workers": _workers,
    "scale plan": _scale_plan,
    "corpus": _corpus,
}
SPEED_BLOCKS = {
    "steps": _steps,
    "bfloat16": _bfloat16,
    "inference": _inference,
    "compiling": _compiling,
    "measured": _measured,
}
PAGES = {README: BLOCKS, DOCS / "results.md": RESULTS_BLOCKS, DOCS / "speed.md": SPEED_BLOCKS}


def _rows(rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown: its header, a line below it, and what follows."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), 120, break_long_words=False, break_on_hyphens=False)


def requirements(results: Path = RESULTS) -> Iterator[tuple[str, str, str, bool]]:
    """What, the bar, what was measured, and whether it is met."""
    pretraining = load(results, "pretraining_step")

    def ratio(work, name, least):
        measured = work["contenders"][name]["times_the_first"]["median"]
        what = f"{work['kind']}, {work['preset']}, {work['rows']} x {work['tokens']}: {name} / {FIRST}, seconds"
        return what, f"at least {least}", f"{measured}", measured >= least

    for preset in ("mini", "base"):
        yield ratio(find(pretraining, preset, 128), "ms_bert stock", 3.0)
    for preset in ("mini", "small", "base"):
        yield ratio(find(pretraining, preset, 128), "pt_reference", 1.0)
        yield ratio(find(pretraining, preset, 128), "pt_reference --compile", 0.9)
    yield ratio(find(pretraining, "mini", 128), "transformers", 2.0)
    yield from _of_inference(results)
    yield from _of_bfloat16(results)
    if (results / "lamb_step.json").exists():
        for work in load(results, "lamb_step")[1:]:
            measured = work["contenders"]["ms_bert fused LAMB"]["times_the_first"]["median"]
            yield (
                f"a step of {work['preset']} with LAMB, times AdamW's",
                "at most 1.15",
                f"{measured}",
                measured <= 1.15,
            )
    if (results / "time_to_quality.json").exists():
        yield _times_sooner(load(results, "time_to_quality"))
    yield from _of_workers(results)
    learned = load(results, "learning")["held_out"][-1]["held_out_mlm_loss"]
    yield "the MLM loss of the default run", "at most 4.3", f"{learned:.2f}", learned <= 4.3
    for work in pretraining:
        ours, theirs = (work["contenders"][name]["peak_memory_gb"] for name in (FIRST, "pt_reference"))
        what = f"peak memory of {work['preset']}, {work['rows']} x {work['tokens']}, times pt_reference's"
        yield what, "at most 1.2", f"{ours / theirs:.2f}", ours <= 1.2 * theirs
    gain = load(results, "packing")["gain"]["median"]
    yield "gain of packing", "at least 1.7", f"{gain}", gain >= 1.7
    speed = load(results, "finetuning_speed") if (results / "finetuning_speed.json").exists() else {"times_as_fast": {}}
    for twin, ratios in speed["times_as_fast"].items():
        for other, least in ((FULL, 4.0), (SORTED, 1.2)):
            measured = ratios[other]["median"]
            yield (
                f"fine-tuning: times as fast as {other}, {twin}",
                f"at least {least}",
                f"{measured}",
                measured >= least,
            )
    compiled = find(load(results, "compile_time"), "base", 128)["compile_seconds"][FIRST]
    for state, most in (("cold", 20), ("warm", 5)):
        seconds = compiled[state]["median"]
        yield f"compilation of base, {state}, seconds", f"under {most}", f"{seconds}", seconds < most


def _of_inference(results: Path) -> Iterator[tuple[str, str, str, bool]]:
    rivals = {
        FIRST: (("ONNX Runtime", "ONNX Runtime fused", "OpenVINO"), 1.1),
        f"{FIRST} bfloat16": (("OpenVINO bfloat16",), 1.1),
        f"{FIRST} int8": (("ONNX Runtime int8", "ONNX Runtime fused int8"), 1.0),
    }
    for work in load(results, "inference"):
        times = work["contenders"]
        for ours, (others, least) in rivals.items():
            if ours not in times:  # the processor does not multiply it
                continue
            there = [name for name in others if name in times]
            if not there:
                continue
            measured = min(_times(work, name, ours) for name in there)
            what = f"inference, {_title(work)}: the fastest other / {ours}"
            yield what, f"at least {least}", f"{measured:.2f}", measured >= least


def _times(work: dict, name: str, ours: str) -> float:
    """How many times as long as `ours` a contender takes: the median of pairs, if they took turns in one group.

    Else it is the quotient of how long both take beside the first.
    """
    one, other = (work["contenders"][which] for which in (name, ours))
    if one["seconds_of_the_first_by_round"] == other["seconds_of_the_first_by_round"]:
        return median(a / b for a, b in zip(one["seconds_by_round"], other["seconds_by_round"]))
    return one["times_the_first"]["median"] / other["times_the_first"]["median"]


def _of_bfloat16(results: Path) -> Iterator[tuple[str, str, str, bool]]:
    ours = f"{FIRST} bfloat16"
    for work in load(results, "bfloat16_step"):
        times = {name: one["times_the_first"]["median"] for name, one in work["contenders"].items()}
        memory = {name: one["peak_memory_gb"] for name, one in work["contenders"].items()}
        title, gain = _title(work), 1 / times[ours]
        if least := {"mini": 1.4, "base": 1.6}.get(work["preset"]):
            yield f"{title}: float32 / {ours}, seconds", f"at least {least}", f"{gain:.2f}", gain >= least
        fastest = min(times[name] for name in times if not name.startswith("ms_bert")) / times[ours]
        yield f"{title}: the fastest of torch / {ours}, seconds", "at least 1.1", f"{fastest:.2f}", fastest >= 1.1
        share = memory[ours] / memory[FIRST]
        yield f"{title}: peak memory of {ours} / float32", "at most 0.75", f"{share:.2f}", share <= 0.75


def _times_sooner(found: list[dict]) -> tuple[str, str, str, bool]:
    """How many times as fast as the first recipe another one is that reaches its loss."""
    first, *others = (one for one in found if one["kind"] == "pretraining")
    loss = first["held_out"]["held_out_mlm_loss"]
    as_good = (one["training_seconds"] for one in others if one["held_out"]["held_out_mlm_loss"] <= loss)
    times = first["training_seconds"] / min(as_good, default=float("inf"))
    return (
        "time to the loss that a recipe as in the paper reaches, times as short",
        "at least 2",
        f"{times:.1f}",
        times >= 2,
    )


def _of_workers(results: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Whether two workers are about as fast as one, and are foretold."""
    if (results / "workers.json").exists():
        for one in (one for one in load(results, "workers") if one["kind"] == "throughput"):
            ratio, what = one["two_to_one"], "2 workers x 1 thread, times as fast as 1 x 2"
            yield f"{one['preset']}, {one['rows']} x 128: {what}", "at least 0.9", f"{ratio:.2f}", ratio >= 0.9
    if (results / "scale_plan.json").exists():
        for one in load(results, "scale_plan")["foretold"]:
            ratio, what = one["foretold_to_measured"], "step of 2 workers, predicted / measured"
            yield f"{one['preset']}: {what}", "0.8 to 1.2", f"{ratio:.2f}", abs(ratio - 1.0) <= MOST_ERROR


def load(results: Path, name: str, part: str = "result"):
    path = results / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing; measure it first: python -m benchmarks {name}")
    return json.loads(path.read_text())[part]


def _machine(results: Path, name: str) -> str:
    """On what a result was measured, and when, as far as it says."""
    machine, date = load(results, name, "machine"), load(results, name, "date")
    model = "model not recorded, "  # by older results, and of other processors than x86
    if machine.get("cpu_family") is not None:
        model = f"family {machine['cpu_family']}, model {machine['cpu_model']}, "
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    return f"{cores} of an {machine['cpu']} ({model}{date})"


def _short_machine(results: Path, name: str) -> str:
    """The same where there is little room."""
    machine, date = load(results, name, "machine"), load(results, name, "date")
    model = f"family {machine['cpu_family']}, model {machine['cpu_model']}, " if machine.get("cpu_family") else ""
    cpu = machine["cpu"].replace("(R)", "").replace(" Processor", "")
    return f"{cpu}, {model}{date}"


def find(works: list[dict], preset: str, tokens: int) -> dict:
    for work in works:
        if (work["preset"], work["tokens"]) == (preset, tokens):
            return work
    raise SystemExit(f"no result for {preset} on rows of {tokens} tokens; measure again")


def _more(work: dict) -> str:
    return f"{work['gflops_of_all_tokens'] / work['gflops'] - 1:.0%}"


def _title(work: dict) -> str:
    kind = f", {STEPS[work['kind']]}" if work["kind"] in STEPS else ""
    return f"{work['preset']}{kind}, {work['rows']} x {work['tokens'] or work.get('texts', 'many lengths')}"


def _table(works: list[dict]) -> str:
    names = list(dict.fromkeys(name for work in works for name in work["contenders"]))
    rows = [["", *names, "of the peak"], ["---"] * (len(names) + 2)]
    for work in works:
        contenders = work["contenders"]
        cells = [_title(work), f"{contenders[FIRST]['seconds']['median'] * 1e3:.4g} ms"]
        for name in names[1:]:
            cells.append(f"{contenders[name]['times_the_first']['median']:.2f}" if name in contenders else "")
        rows.append([*cells, f"{contenders[FIRST]['share_of_gemm_peak']:.0%}"])
    return _rows(rows) + WHOLE_LAST_LAYER * any(map(_is_of_all_layers, works))


def _is_of_all_layers(work: dict) -> bool:
    """Whether a result is so old that the last layer was computed for all tokens."""
    today = Work(*(work[name] for name in ("kind", "preset", "rows", "tokens", "slots"))).flops / 1e9
    return work["gflops"] > 1.01 * today


def of_others(results: Path, name: str) -> list[Path]:
    """The folders of other processors that have a result for this question."""
    return [path.parent for path in sorted(results.glob(f"{MACHINES}/*/{name}.json"))]


def _by_contender(works: list[dict]) -> str:
    """Milliseconds of the fused kernels, and of the others how many times as long; a work a column.

    Not milliseconds of all: a machine is now faster, now slower, so the quotient of two medians is not the median of
    the quotients of times that were taken one after the other.
    """
    titles = [f"{work['rows']} x {work['tokens'] or work.get('texts', 'mixed')}" for work in works]
    times = [work["contenders"][FIRST]["seconds"]["median"] * 1e3 for work in works]
    first = [f"{time:,.0f} ms" if time >= 1000 else f"{time:.3g} ms" for time in times]
    rows = [["", *titles], ["---"] * (len(works) + 1), [FIRST, *first]]
    for name in works[0]["contenders"]:
        if name != FIRST:
            ratios = (work["contenders"][name]["times_the_first"]["median"] for work in works)
            rows.append([name, *(f"{ratio:.2f}" for ratio in ratios)])
    padded = any(not work["tokens"] and "others" not in work for work in works)  # older results
    return _rows(rows) + PADDED * padded


def _pyplot():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def draw_speed(path: Path, results: Path = RESULTS) -> None:
    """How many times as long as the fused kernels each contender takes, with the quartiles."""
    pyplot = _pyplot()
    names = (*STEPS_OF, "inference")
    works = [(work, _short_machine(results, name)) for name in names for work in load(results, name)]
    columns = 3
    lines = -(-len(works) // columns)
    figure, panels = pyplot.subplots(lines, columns, figsize=(13, 2.3 * lines), layout="constrained", squeeze=False)
    for panel in panels.flat[len(works) :]:
        panel.set_visible(False)
    for panel, (work, machine) in zip(panels.flat, works):
        names = list(work["contenders"])[::-1]
        ratios = [work["contenders"][name]["times_the_first"] for name in names]
        medians = [ratio["median"] for ratio in ratios]
        spans = [[abs(ratio["quartiles"][side] - ratio["median"]) for ratio in ratios] for side in (0, 1)]
        colors = ["#1f6fb4" if name.startswith("ms_bert") else "#b0b7bf" for name in names]
        panel.barh(names, medians, xerr=spans, color=colors, error_kw={"elinewidth": 1, "ecolor": "#444444"})
        ends = [ratio["quartiles"][1] for ratio in ratios]
        for place, (value, end) in enumerate(zip(medians, ends)):
            panel.text(max(value, end), place, f"  {value:.2f}", va="center", fontsize=8)
        panel.axvline(1, color="#444444", linewidth=0.8)
        seconds = work["contenders"][FIRST]["seconds"]["median"]
        panel.set_title(f"{_title(work)}: {seconds * 1e3:.4g} ms\n{machine}", fontsize=8)
        panel.set_xlim(0, 1.18 * max(*medians, *ends))
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Times as long as ms_bert with fused kernels (less is better)", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def draw_profile(path: Path, results: Path = RESULTS) -> None:
    """Milliseconds of each kernel of a step, and of them what its products would take at the peak."""
    pyplot = _pyplot()
    profiles = load(results, "step_profile")
    figure, panels = pyplot.subplots(1, len(profiles), figsize=(17, 5.2), layout="constrained", squeeze=False)
    for panel, profile in zip(panels.flat, profiles):
        rows = profile["kernels"][::-1]
        rows = [{"kernel": "the rest of the step", "milliseconds": profile["not_in_kernels_milliseconds"]}, *rows]
        names, totals = [row["kernel"] for row in rows], [row["milliseconds"] for row in rows]
        products = [row["milliseconds"] * row.get("share_of_gemm_peak", 0.0) for row in rows]
        panel.barh(names, totals, color="#b0b7bf", label="measured")
        panel.barh(names, products, color="#1f6fb4", label="its products at the peak", height=0.45)
        panel.set_title(
            f"{profile['preset']}, {profile['rows']} x {profile['tokens']}: {profile['step_milliseconds']:.0f} ms,\n"
            f"its products at the peak {profile['products_at_gemm_peak_milliseconds']:.0f} ms",
            fontsize=9,
        )
        panel.tick_params(labelsize=7)
        panel.set_xlabel("ms a step", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels.flat[0].legend(fontsize=8, loc="center right")
    figure.suptitle("Where a pre-training step with fused kernels spends its time", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
