"""What is damaged, and the commands that must bear it: checkpoints, run folders, caches, corpora, command lines.

A subject is a folder of sound files, made once, and the commands that read them. All paths are relative to that folder,
which is the current one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.numpy import load_file

import pt_reference.pretrained
from conversion import checkpoint
from conversion.__main__ import main as conversion_main
from conversion.convert import Settings, convert
from ms_bert.commands.pretraining import main as run_main
from ms_bert.config import BertConfig
from ms_bert.data import corpus as corpus_module
from ms_bert.data import tokenizer
from ms_bert.data.corpus import Corpus
from ms_bert.data.files import file_hash
from ms_bert.data.store import SPLITS, open_store
from ms_bert.errors import UserError
from ms_bert.options import ExampleOptions, ModelOptions, Options, RunOptions, TextOptions, TrainingOptions
from ms_bert.run import checkpoints
from pt_reference.framework import PyTorch
from pt_reference.model import BertForPreTraining
from tests.conversion.bert import CONFIG, random_weights, write_folder
from tests.faults.bench import REMADE, Believed, Command, Subject
from tests.faults.mutations import FORMS, NATURES, NUMBERS, REALS, TEXTS, VALUES, Mutation, fifo

# Checkpoints


def _vocabulary() -> None:
    """vocab.txt and tokenizer.json of as many entries as the config of the checkpoints says."""
    words = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    entries = [*tokenizer.SPECIAL_TOKENS, *words, *(f"##{word}" for word in words)]
    entries += [str(i) for i in range(CONFIG.vocab_size - len(entries))]
    Path("model/vocab.txt").write_text("".join(f"{entry}\n" for entry in entries))
    read = tokenizer.load(Path("model/vocab.txt"))
    Path("model/tokenizer.json").write_text(read.to_json())
    Path("model/tokenizer_config.json").write_text(json.dumps(read.description()))


def _make_folder() -> None:
    write_folder(Path("model"), random_weights(special=False))
    _vocabulary()
    shutil.copytree("model", "reference")
    shutil.copytree("model", "old")


def _made_from_folder(*targets: str, settings: Settings | None = None) -> Callable[[], None]:
    def make() -> None:
        _make_folder()
        os.rename("model", "first")
        for target in targets:
            convert(checkpoint.read(Path("first")), Path(target), None, settings)
        shutil.rmtree("first")

    return make


def _make_torch(**options) -> Callable[[], None]:
    def make() -> None:
        _make_folder()
        weights = {name: torch.from_numpy(value) for name, value in load_file("model/model.safetensors").items()}
        os.remove("model/model.safetensors")
        torch.save(weights, "model/pytorch_model.bin", **options)

    return make


def _make_external() -> None:
    _made_from_folder("model/model.onnx")()
    graph = onnx.load("model/model.onnx")
    onnx.save(graph, "model/model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)


def _make_run_checkpoint() -> None:
    """A folder of a run, as `convert` makes it of a checkpoint with moments."""
    _make_folder()
    weights = load_file("model/model.safetensors")
    os.remove("model/model.safetensors")
    moments = {f"{k}.{name}": np.abs(value) for k in "mv" for name, value in weights.items()}
    scalars = {"updates": 3, "loss_scale": 1.0, "good_steps": 0}
    Path("model/checkpoints").mkdir()
    checkpoints.save(Path("model"), checkpoints.TrainingState(3, weights, moments, scalars, {"window": {}}))


def _tree_hash(*paths: str) -> str:
    """Of all files below the paths, their names and their bytes."""
    digest = hashlib.sha256()
    for top in map(Path, paths):
        for path in sorted([top, *top.rglob("*")] if top.is_dir() else [top]):
            if path.is_file():
                digest.update(f"{path} {file_hash(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _converted(*arguments: str, made: str) -> Command:
    def run() -> int:
        code = conversion_main(["convert", *arguments])
        written = Path(made) / "tokenizer.json"
        if code == 0 and written.exists() and file_hash(written) != file_hash("reference/tokenizer.json"):
            try:
                tokenizer.load(written)
            except UserError as error:
                raise Believed(f"a tokenizer that cannot be loaded was copied: {error}") from None
        return code

    return Command(f"convert {' '.join(arguments)}", run, lambda: _tree_hash(made), (made, f"{made}/*"))


def _stdout() -> str:
    """What the command printed, which the bench has in a file beside the folder."""
    return file_hash("../out")


def _printed(*arguments: str, answer: int = 0) -> Command:
    return Command(" ".join(arguments), lambda: conversion_main(list(arguments)), _stdout, answer=answer)


def _conversions(source: str = "model") -> tuple[Command, ...]:
    return (
        _converted(source, "made/folder", made="made"),
        _converted(source, "made/folder", made="made"),
        _converted(source, "made/bert.ckpt", made="made"),
        _converted(source, "made/bert.ckpt.index", made="made"),
        _converted(source, "made/bert.onnx", made="made"),
        _converted(source, "old", "--overwrite", made="old"),
        _printed("inspect", source),
        _printed("inspect", source, "--json"),
        _printed("diff", source, "reference", answer=1),
        _printed("diff", "reference", source, "--json", answer=1),
    )


def _told(function: Callable[[], object]) -> int:
    """Call a function that no command of its own stands for, and tell what goes wrong as the commands do."""
    try:
        function()
    except UserError as error:
        print(f"python -m tests: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"python -m tests: {error}; check that the path is right.", file=sys.stderr)
        return 1
    return 0


def _calling(name: str, function: Callable[[], str]) -> Command:
    """A command that calls a function and has its result."""
    found = []
    return Command(name, lambda: _told(lambda: found.append(function())), lambda: found[-1])


def _loaded() -> str:
    model = pt_reference.pretrained.load(BertForPreTraining, "model")
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def _text_tokenized(*path: str) -> Callable[[], str]:
    return lambda: str(tokenizer.load(Path(*path)).tokenizer.encode("a few words of 12 letters, unaffable").ids)


_LOAD = _calling("pt_reference.pretrained.load", _loaded)


def _config_field(rng: random.Random, data: bytes) -> bytes:
    """A field that config.json may have, with a value of any kind."""
    fields = json.loads(data)
    numbers = {"num_labels", *(field.name for field in dataclasses.fields(BertConfig) if _is_number(field))}
    if rng.random() < 0.5:
        fields[rng.choice(sorted(numbers))] = rng.choice((*NUMBERS, *REALS, 2 * 10**9))
    else:
        labels = ({"0": "a"}, {"a": 0}, {"0": 0, "1": TEXTS[0]}, {"5": "a", "7": "b"})
        fields[rng.choice((*fields, *_CONFIG_FIELDS))] = rng.choice((*VALUES, *labels))
    return json.dumps(fields).encode()


def _is_number(field: dataclasses.Field) -> bool:
    return "int" in field.type or "float" in field.type


_CONFIG_FIELDS = (
    *("architectures", "model_type", "num_labels", "torch_dtype", "dtype", "is_decoder", "add_cross_attention"),
    *("position_embedding_type", "pruned_heads", "quantization_config", "tie_word_embeddings", "auto_map", "use_cache"),
    *("output_past", "chunk_size_feed_forward", "transformers_version", "id2label", "label2id", "problem_type"),
)
FORMS["config"] = (_config_field, _config_field, *FORMS["json"])

_CHECKPOINTS = {
    "safetensors": Subject(_make_folder, {"model/model.safetensors": "safetensors"}, (*_conversions(), _LOAD)),
    "safetensors shards": Subject(
        _made_from_folder("model", settings=Settings(shard_size=8000)),
        {"model/model.safetensors.index.json": "json", "model/model-*.safetensors": "safetensors"},
        _conversions(),
    ),
    "PyTorch zip": Subject(_make_torch(), {"model/pytorch_model.bin": "torch zip"}, _conversions()),
    "PyTorch legacy": Subject(
        _make_torch(_use_new_zipfile_serialization=False), {"model/pytorch_model.bin": "torch legacy"}, _conversions()
    ),
    "MindSpore": Subject(_made_from_folder("model/bert.ckpt"), {"model/bert.ckpt": "MindSpore"}, _conversions()),
    "TensorFlow index": Subject(
        _made_from_folder("model/bert.ckpt.index"), {"model/bert.ckpt.index": "bundle"}, _conversions()
    ),
    "TensorFlow data": Subject(
        _made_from_folder("model/bert.ckpt.index"), {"model/bert.ckpt.data*": "bytes"}, _conversions(), guarded=True
    ),
    "ONNX": Subject(
        _made_from_folder("model/model.onnx"), {"model/model.onnx": "onnx"}, _conversions("model/model.onnx")
    ),
    "ONNX external": Subject(
        _make_external,
        {"model/model.onnx": "onnx", "model/model.onnx.data": "bytes"},
        _conversions("model/model.onnx"),
    ),
    "checkpoint of a run": Subject(
        _make_run_checkpoint,
        {
            "model/checkpoints/step-00000003/state.json": "json",
            "model/checkpoints/step-00000003/*.safetensors": "safetensors",
        },
        _conversions(),
        lambda rng, folder: _reseal(rng, folder / "model"),
        guarded=True,
    ),
    "config.json": Subject(_make_folder, {"model/config.json": "config"}, (*_conversions(), _LOAD)),
    "bert_config.json": Subject(
        _made_from_folder("model/bert.ckpt.index"), {"model/bert_config.json": "config"}, _conversions()
    ),
    "tokenizer.json": Subject(
        _make_folder,
        {"model/tokenizer.json": "json", "model/tokenizer_config.json": "json"},
        (*_conversions()[:6], *3 * (_calling("tokenizer.load", _text_tokenized("model")),)),
    ),
    "vocab.txt": Subject(
        _make_folder,
        {"model/vocab.txt": "lines"},
        (*_conversions()[:6], *3 * (_calling("tokenizer.load", _text_tokenized("model", "vocab.txt")),)),
    ),
}


# Runs


def _make_corpus() -> None:
    sentences = ["The cat sat on the mat.", "A dog ran after the ball.", "Nobody knew why it rained.", "Birds sing."]
    documents = ["\n".join(sentences[i % 4 :] + sentences[: i % 3 + 1]) for i in range(24)]
    Path("corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")


_TEXT = TextOptions(
    corpus=("corpus.txt",), vocab_size=120, vocab_sample=1, held_out=0.2, processes=1, cache=Path("cache")
)
_RUN = (
    *("--corpus", "corpus.txt", "--vocab-size", "120", "--vocab-sample", "1", "--held-out", "0.2"),
    *("--processes", "1", "--cache", "cache", "--seq-length", "16", "--batch-size", "2"),
    *("--steps", "4", "--decay-steps", "9", "--warmup-steps", "1", "--log-every", "1", "--eval-every", "2"),
    *("--eval-sequences", "2", "--checkpoint-every", "2"),
)


def _make_small_config() -> None:
    _make_corpus()
    config = BertConfig(
        vocab_size=120,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=20,
    )
    Path("small.json").write_text(config.to_json())


def _make_run() -> None:
    """A run of four steps, with checkpoints of steps 2 and 4."""
    _make_small_config()
    assert run_main(PyTorch(), "python -m tests", "", [*_RUN, "--config", "small.json", "--output", "run"]) == 0
    lines = [{**line, "seconds": 0.5} for line in map(json.loads, Path("run/throughput.jsonl").open())]
    Path("run/throughput.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _resume() -> int:
    return run_main(PyTorch(), "python -m tests", "", ["--resume", "run", "--steps", "6"])


def _of_run() -> str:
    """What must not depend on whether a run was interrupted."""
    return _tree_hash("run/metrics.jsonl", "run/model.safetensors", "run/checkpoints/step-00000006")


_RESUME = Command("--resume run", _resume, _of_run, ("run", "run/*"), begins=True)
_REPEAT = Command(
    "--repeat run/run.json",
    lambda: run_main(PyTorch(), "python -m tests", "", ["--repeat", "run/run.json", "--output", "again"]),
    lambda: _tree_hash("again/metrics.jsonl", "again/model.safetensors"),
    ("again", "again/*"),
    begins=True,
)
_CONVERT_RUN = _converted("run", "made/folder", made="made")


def _reseal(rng: random.Random, run: Path) -> bool:
    """Make the hashes of a checkpoint fit what it holds, in half of the cases."""
    files = list((run / "checkpoints").glob("*/*"))
    if rng.random() < 0.5 or not all(path.is_file() for path in files):  # a FIFO would be waited for
        return False
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        for folder in sorted((run / "checkpoints").iterdir()):
            state = folder / checkpoints.STATE
            description = json.loads(state.read_text())
            for name in (checkpoints.MODEL, checkpoints.OPTIMIZER):
                description["sha256"][name] = file_hash(folder / name)
            description["sha256"].pop(checkpoints.STATE, None)
            description["sha256"][checkpoints.STATE] = checkpoints._own_hash(description)
            state.write_text(json.dumps(description))
        return True
    return False


def _reseal_run(rng: random.Random, folder: Path) -> bool:
    return _reseal(rng, folder / "run")


class _Begun(Exception):
    """The first step would be computed now."""


class _ToFirstStep(PyTorch):
    """PyTorch, as far as the first step, and what weights it would begin with."""

    def environments(self, count):
        raise _Begun  # workers would be started

    def trainer(self, config, options, task, workers):
        trainer = super().trainer(config, options, task)

        def begin(*arguments):
            weights = sorted(trainer.state()[0].items())
            self.weights = hashlib.sha256(b"".join(name.encode() + value.tobytes() for name, value in weights))
            raise _Begun

        trainer.train_step = trainer.evaluate = begin
        return trainer


_BEGINNING = _ToFirstStep()


def _begin_from_weights() -> int:
    try:
        return run_main(_BEGINNING, "python -m tests", "", [*_RUN, "--init", "model", "--output", "run"])
    except _Begun:
        return 0


def _make_beginning() -> None:
    _make_folder()
    _make_corpus()
    assert _begin_from_weights() == 0  # the token store is in the cache from now on
    shutil.rmtree("run")


_RUNS = {
    "--init": Subject(
        _make_beginning,
        {
            "model/model.safetensors": "safetensors",
            "model/config.json": "config",
            "model/tokenizer.json": "json",
            "model/vocab.txt": "lines",
        },
        (Command("--init model", _begin_from_weights, lambda: _BEGINNING.weights.hexdigest(), ("run", "run/*")),),
    ),
    "run.json": Subject(_make_run, {"run/run.json": "json"}, (_RESUME, _RESUME, _REPEAT)),
    "logs of a run": Subject(
        _make_run, {"run/metrics.jsonl": "json lines", "run/throughput.jsonl": "json lines"}, (_RESUME,), draws=True
    ),
    "state of a run": Subject(
        _make_run, {"run/checkpoints/*/state.json": "json"}, (_RESUME, _RESUME, _CONVERT_RUN), _reseal_run
    ),
    "weights of a run": Subject(
        _make_run,
        {"run/checkpoints/*/*.safetensors": "safetensors", "run/model.safetensors": "safetensors"},
        (_RESUME, _CONVERT_RUN),
        _reseal_run,
    ),
    "companions of a run": Subject(
        _make_run,
        {
            "run/config.json": "config",
            "run/tokenizer.json": "json",
            "run/tokenizer_config.json": "json",
            "run/vocab.txt": "lines",
        },
        (_RESUME,),
    ),
}


# Caches


def _opened() -> str:
    """All that a store holds, and of what vocabulary."""
    corpus = Corpus(_TEXT)
    vocabulary = tokenizer.vocabulary(_TEXT, corpus)
    store, made = open_store(_TEXT, corpus, vocabulary)
    digest = hashlib.sha256(vocabulary.to_json().encode())
    for split in SPLITS:
        digest.update(np.ascontiguousarray(store.token_counts[split]).tobytes())
        columns = getattr(store, split)
        for column in (columns.tokens, columns.sentences, columns.documents):
            digest.update(np.ascontiguousarray(column[np.arange(len(column))]).tobytes())
    return (REMADE if made else "") + digest.hexdigest()


def _make_cache() -> None:
    _make_corpus()
    _opened()


def _graphs() -> str:
    """What MindSpore would be given: the kept files, or none."""
    from ms_bert.training import graph_cache

    sys.argv[0] = __file__  # only a script's graphs are kept
    with graph_cache.kept(Path("cache/graphs"), "step"):
        place = Path(os.environ[graph_cache.PLACE])
        found = {str(path.relative_to(place)): file_hash(path) for path in place.rglob("*/*") if path.is_file()}
        if not found:  # what MindSpore would write when it compiles
            (place / "graph_cache").mkdir()
            (place / "graph_cache" / "step.mindir").write_bytes(bytes(range(256)) * 40)
            (place / "graph_cache" / "dependency.json").write_text('{"files": ["a.py"]}')
    return json.dumps(found) if found else REMADE


def _make_graphs() -> None:
    _make_corpus()
    _graphs()
    from ms_bert.training import graph_cache

    graph_cache.told = False


def _opened_by_hash() -> str:
    """As if the corpus were too large to be hashed each time."""
    corpus_module._HASH_AGAIN = 0
    return _opened()


def _make_hash() -> None:
    _make_corpus()
    _opened_by_hash()


_OPEN = (_calling("open_store", _opened),)
_NO_FIFO = tuple(nature for nature in NATURES if nature is not fifo)  # nobody makes one in his own cache
_CACHES = {
    "token store": Subject(
        _make_cache,
        {"cache/stores/*/store.json": "json", "cache/stores/*/*.arrow": "arrow"},
        _OPEN,
        guarded=True,
        natures=_NO_FIFO,
    ),
    "kept vocabulary": Subject(_make_cache, {"cache/vocabularies/*": "json"}, _OPEN, guarded=True, natures=_NO_FIFO),
    "kept hash": Subject(
        _make_hash,
        {"cache/hashes/*": "json"},
        (_calling("open_store", _opened_by_hash),),
        guarded=True,
        natures=_NO_FIFO,
    ),
    "kept graphs": Subject(
        _make_graphs,
        {"cache/graphs/step/hashes.json": "json", "cache/graphs/step/graph_cache/*": "bytes"},
        (_calling("graph_cache.kept", _graphs),),
        guarded=True,
        natures=_NO_FIFO,
        needs="ms_bert.training.graph_cache",
    ),
}


# Corpora


def _documents() -> str:
    digest, corpus = hashlib.sha256(), Corpus(dataclasses.replace(_TEXT, corpus=("text",)))
    for document in corpus.documents():
        digest.update(f"{len(document)}\n".encode())
        for line in document:
            if not isinstance(line, str) or not line or "\n" in line:
                raise Believed(f"a line of a document is {line!r:.60}")
            digest.update(line.encode() + b"\n")
    corpus.fingerprint()
    return digest.hexdigest()


def _corpus(name: str, form: str, encode: Callable[[list[str]], bytes]) -> Subject:
    def make() -> None:
        _make_corpus()
        Path("text").mkdir()
        Path("text", name).write_bytes(encode(Path("corpus.txt").read_text().split("\n\n")))

    return Subject(make, {f"text/{name}": form}, (_calling("Corpus.documents", _documents),))


def _as_text(documents: list[str]) -> bytes:
    return "\n\n".join(documents).encode()


def _as_lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(documents)).encode()


def _as_json(documents: list[str]) -> bytes:
    return json.dumps([{"text": text} for text in documents]).encode()


def _as_parquet(documents: list[str]) -> bytes:
    made = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"text": documents}), made)
    return made.getvalue().to_pybytes()


def _compressed(module: str, encode: Callable[[list[str]], bytes], **options) -> Callable[[list[str]], bytes]:
    return lambda documents: __import__(module).compress(encode(documents), **options)


_CORPORA = {
    "corpus .txt": _corpus("a.txt", "lines", _as_text),
    "corpus .jsonl": _corpus("a.jsonl", "json lines", _as_lines),
    "corpus .json": _corpus("a.json", "json", _as_json),
    "corpus .parquet": _corpus("a.parquet", "parquet", _as_parquet),
    "corpus .txt.gz": _corpus("a.txt.gz", "gzip of lines", _compressed("gzip", _as_text, mtime=0)),
    "corpus .jsonl.gz": _corpus("a.jsonl.gz", "gzip of json lines", _compressed("gzip", _as_lines, mtime=0)),
    "corpus .txt.xz": _corpus("a.txt.xz", "xz of lines", _compressed("lzma", _as_text)),
}


# Command lines


class _NoFramework:
    """A framework that comes as far as the first step."""

    name = "none"
    without = "pytorch"
    shapes: dict = {}

    def check(self, options: Options) -> None:
        for group in dataclasses.asdict(options).values():
            for name, value in group.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise Believed(f"{name} is {value}")

    def scheduled(self, options: Options) -> bool:
        return False

    def shares(self) -> bool:
        return False

    def rounds_by_threads(self, options: Options) -> bool:
        return False

    def environments(self, count: int):
        raise _Begun  # workers would be started

    def check_rows(self, options, config, lengths) -> None:
        pass

    def trainer(self, config, options, task, workers):
        self.config = config
        return self

    def compile(self, batch) -> bool:
        return False

    def versions(self) -> dict[str, str]:
        return {}

    def kernels(self, options: Options) -> str:
        return "nothing"

    def load_weights(self, weights) -> None:
        pass

    def train_step(self, batch, step, rate):
        raise _Begun

    def evaluate(self, batch):
        raise _Begun


def _begin() -> int:
    arguments = [os.fsdecode(argument) for argument in Path("arguments").read_bytes().split(b"\0")]
    try:
        return run_main(_NoFramework(), "python -m tests", "", arguments)
    except _Begun:
        return 0


def _convert_so() -> int:
    return conversion_main([os.fsdecode(argument) for argument in Path("arguments").read_bytes().split(b"\0")])


_PLAUSIBLE = tuple(map(str, (0, 1, 2, 3, 7, 8, 11, 16, 20, 100, 0.01, 0.1, 0.5, 1.0, 1e-3)))
_ODD_NUMBERS = (*map(str, (*NUMBERS, *REALS)), "1e3", "1_000", "٣", "0x10", "2.0", "", " 1")
_ODD_TEXTS = (*(text.encode() for text in TEXTS if not {"\0", "/"} & {*text} and len(text) < 1000), b"\xff\xfe")


def _arguments(options: dict[str, bool], known: tuple[str, ...]) -> Mutation:
    """Some options more, or one of the words that are there replaced.

    Args:
        options: names, and whether each takes a number. known: words that mean something.
    """

    def option(rng: random.Random, data: bytes) -> bytes:
        arguments = data.split(b"\0")
        for _ in range(rng.choice((1, 1, 2, 4))):
            name, numeric = rng.choice(list(options.items()))
            numbers = [number.encode() for number in rng.choice((_PLAUSIBLE, _ODD_NUMBERS))]
            words = [*(word.encode() for word in known), *_ODD_TEXTS]
            odd = rng.choice(numbers if numeric == (rng.random() < 0.9) else words)
            if rng.random() < 0.15:
                arguments[rng.randrange(1, len(arguments))] = odd
            else:
                arguments += [name.encode(), odd]
        return b"\0".join(arguments)

    return option


_OPTIONS = {
    f"--{field.name.replace('_', '-')}": _is_number(field)
    for group in (TextOptions, ExampleOptions, ModelOptions, TrainingOptions, RunOptions)
    for field in dataclasses.fields(group)
    if "bool" not in field.type
}
FORMS["options"] = 9 * (_arguments(_OPTIONS, ("corpus.txt", "small.json", "cache", ".", "..", "/", "builtin")),)
_CONVERT_OPTIONS = {
    **dict.fromkeys(("--from", "--to", "--config", "--architecture", "--allow-missing", "--drop", "--dtype"), False),
    **dict.fromkeys(("--overwrite", "--json", "--optimize"), False),
    **dict.fromkeys(("--shard-size", "--batch-size", "--seq-length"), True),
}
_WORDS = (
    *("a[1].onnx", "a*.ckpt", "made/x.bin", "x.ckpt.index", "x.safetensors", "old/x.onnx", "model/config.json"),
    *(".", "..", "~", "-", "--", "model", "mindspore", "tensorflow", "float16", "mlm", "optimizer", "BertModel"),
)
FORMS["conversion"] = 9 * (_arguments(_CONVERT_OPTIONS, _WORDS),)


def _make_options() -> None:
    _make_small_config()
    _opened()
    Path("arguments").write_bytes("\0".join([*_RUN, "--config", "small.json"]).encode())


def _make_conversion() -> None:
    _make_folder()
    Path("arguments").write_bytes(b"convert\0model\0made/out")


_COMMAND_LINES = {
    "options of a run": Subject(
        _make_options,
        {"arguments": "options"},
        (Command("pretrain", _begin, lambda: "", adds=("*",)),),
        natures=(),
        foreign=False,
    ),
    "options of convert": Subject(
        _make_conversion,
        {"arguments": "conversion"},
        (Command("convert", _convert_so, lambda: "", ("old", "old/*"), ("*",)),),
        natures=(),
        foreign=False,
    ),
}

SUBJECTS: dict[str, Subject] = {**_CHECKPOINTS, **_RUNS, **_CACHES, **_CORPORA, **_COMMAND_LINES}
