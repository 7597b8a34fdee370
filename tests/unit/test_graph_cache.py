"""Compiled training steps that are kept: whose they are, that they are whole, and that nothing depends on them."""

import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from ms_bert.config import PRESETS
from ms_bert.finetuning_options import FinetuneOptions, FinetuningOptions
from ms_bert.kernels import native
from ms_bert.options import MindSporeOptions, Options, TrainingOptions
from ms_bert.tasks.classification import Classification
from ms_bert.tasks.pretraining import PRETRAINING
from ms_bert.training import graph_cache
from ms_bert.training.graph_cache import PLACE, SWITCH, kept, key
from tests import runs
from tests.cases import some

pytestmark = pytest.mark.slow

CONFIG = PRESETS["tiny"]
BEGUN = Options()


SHAPES = [{"input_ids": (32, 128)}]


CLASSIFICATION = Classification(("a", "b"), ("accuracy",))
OF_THE_MEAN = dataclasses.replace(CLASSIFICATION, pooling="mean")


def name(config, options, task=PRETRAINING, shapes=SHAPES) -> str:
    return key(config, options, task, shapes)


def with_training(**changes) -> Options:
    return dataclasses.replace(BEGUN, training=dataclasses.replace(BEGUN.training, **changes))


@pytest.mark.parametrize(
    "other",
    [
        (CONFIG.replace(hidden_dropout_prob=0.2), BEGUN),
        (CONFIG, BEGUN, CLASSIFICATION),
        (CONFIG, BEGUN, PRETRAINING, [{"input_ids": (32, 64)}]),
        (CONFIG, BEGUN, PRETRAINING, [*SHAPES, {"input_ids": (40, 128)}]),
        (CONFIG.replace(num_hidden_layers=3), BEGUN),
        (CONFIG, with_training(batch_size=8)),
        (CONFIG, dataclasses.replace(BEGUN, mindspore=MindSporeOptions(kernels="stock"))),
        (CONFIG, with_training(clip_norm=2.0)),
        (CONFIG, with_training(optimizer="lamb")),
        (CONFIG, dataclasses.replace(BEGUN, run=dataclasses.replace(BEGUN.run, device="GPU"))),
    ],
)
def test_another_graph_has_another_name(other):
    assert name(*other) != name(CONFIG, BEGUN)


# Of each option of training another value; those of batches, of the rate and of what comes from without are no part of
# the graph.
IN_THE_GRAPH = {
    **{"batch_size": 8, "leaves": 2, "accumulate": 2, "reduction": "vendor", "precision": "float16", "recompute": True},
    **{"optimizer": "lamb", "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-7, "clip_norm": 2.0},
    **{"loss_scale": 4.0, "class_weights": "balanced", "layer_decay": 0.5, "frozen_layers": 1},
    **{"temperature": 3.0, "teacher_share": 0.25, "teacher_states": 1.0},
}
NOT_IN_THE_GRAPH = {
    *("steps", "epochs", "schedule", "cooldown_steps", "decay_steps", "decay_power", "warmup_steps", "warmup_share"),
    *("learning_rate", "seed", "teacher", "augment", "augment_share", "augment_model"),
}


@pytest.mark.parametrize("option", IN_THE_GRAPH)
def test_each_option_that_a_graph_holds_is_in_its_name(option):
    """Or else a kept graph would train with what an earlier run was told."""
    begun = FinetuningOptions(teacher=Path("a"), leaves=2, loss_scale=2.0)
    changed = dataclasses.replace(begun, **{option: IN_THE_GRAPH[option] if option != "leaves" else 4})
    assert name(CONFIG, FinetuneOptions(training=changed)) != name(CONFIG, FinetuneOptions(training=begun))


def test_each_option_of_training_has_been_thought_of():
    options = {field.name for kind in (TrainingOptions, FinetuningOptions) for field in dataclasses.fields(kind)}
    assert options == {*IN_THE_GRAPH} | NOT_IN_THE_GRAPH


def test_a_longer_run_of_the_same_shape_has_the_same_name():
    assert name(CONFIG, with_training(steps=7, seed=3, learning_rate=1e-5, warmup_steps=9)) == name(CONFIG, BEGUN)


def test_what_changes_the_batches_alone_has_the_same_name():
    training = FinetuningOptions(teacher=Path("large"), augment=("guesses", "dropped"), augment_model=Path("base"))
    assert name(CONFIG, FinetuneOptions(training=training)) == name(CONFIG, FinetuneOptions())


def test_a_task_with_another_model_has_another_name():
    assert name(CONFIG, BEGUN, CLASSIFICATION) != name(CONFIG, BEGUN, OF_THE_MEAN)


def test_where_a_teacher_lies_is_not_in_a_name_but_how_it_is_learned_from_is():
    def taught(**changes) -> str:
        return name(CONFIG, FinetuneOptions(training=FinetuningOptions(teacher=Path("a"), **changes)), CLASSIFICATION)

    elsewhere = FinetuneOptions(training=FinetuningOptions(teacher=Path("b")))
    assert taught() == name(CONFIG, elsewhere, CLASSIFICATION) != taught(temperature=3.0)


def test_another_source_or_library_has_another_name(monkeypatch):
    before = name(CONFIG, BEGUN)
    whole = graph_cache.file_hash
    for changed in ("model.py", "libms_bert_kernels.so"):
        with monkeypatch.context() as patch:
            patch.setattr(graph_cache, "file_hash", lambda path: "x" if Path(path).name == changed else whole(path))
            assert name(CONFIG, BEGUN) != before, changed


def test_a_machine_where_products_in_bfloat16_are_no_gain_has_another_name(monkeypatch):
    in_bfloat16, names = with_training(precision="bfloat16"), set()
    of_products = {"float32": "avx512", "bfloat16": "avx512_bf16"}
    monkeypatch.setattr(native, "instructions", lambda precision="float32": of_products[precision])
    for gain in (1.18, 1.19, 1.21):
        monkeypatch.setattr(native, "gain", lambda precision, gain=gain: gain)
        names.add(name(CONFIG, in_bfloat16))
    assert len(names) == 2


def compile_in(root: Path, name: str = "a", content: bytes = b"graph") -> bool:
    """What MindSpore does within `kept`; whether it found a graph there."""
    with kept(root, name):
        assert os.environ[SWITCH] == "1"
        graph = Path(os.environ[PLACE]) / "rank_0" / "graph_cache" / "compile_cache_0.mindir"
        found = graph.exists()
        if found:
            assert graph.read_bytes() == content
        else:
            graph.parent.mkdir(parents=True, exist_ok=True)
            graph.write_bytes(content)
    assert SWITCH not in os.environ and PLACE not in os.environ
    graph_cache.told = False  # as in another process
    return found


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.delenv(PLACE, raising=False)
    monkeypatch.setattr(graph_cache, "told", False)
    monkeypatch.setattr("sys.argv", [__file__])
    return tmp_path / "graphs"


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_graph_is_found_again_and_no_other(root):
    assert [compile_in(root), compile_in(root), compile_in(root, "b"), compile_in(root)] == [False, True, False, True]
    assert names(root) == ["a", "b"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "no hashes", "torn hashes", "deep hashes"])
def test_a_damaged_graph_is_made_anew(root, damage):
    compile_in(root)
    graph, hashes = next((root / "a").rglob("*.mindir")), root / "a" / graph_cache.HASHES
    if damage == "flip":
        graph.write_bytes(b"grapx")
    elif damage == "cut":
        graph.write_bytes(b"gr")
    elif damage == "remove":
        graph.unlink()
    elif damage == "no hashes":
        hashes.unlink()
    elif damage == "torn hashes":
        hashes.write_text(hashes.read_text()[:-3])
    else:
        hashes.write_text("[" * 100_000)
    assert not compile_in(root)
    assert compile_in(root)


def test_what_failed_is_not_kept(root):
    with pytest.raises(ZeroDivisionError), kept(root, "a"):
        (Path(os.environ[PLACE]) / "part").write_text("half")
        raise ZeroDivisionError
    assert names(root) == [] and SWITCH not in os.environ


def test_what_a_step_failed_with_is_thrown_away(root):
    compile_in(root)
    with pytest.raises(ZeroDivisionError), kept(root, "a"):
        raise ZeroDivisionError
    assert names(root) == []


def test_what_mindspore_does_not_take_is_thrown_away_and_was_never_changed(root):
    compile_in(root)
    published = next((root / "a").rglob("*.mindir"))
    with kept(root, "a"):
        graph = next(Path(os.environ[PLACE]).rglob("*.mindir"))
        graph.write_bytes(b"compiled anew")
        assert published.read_bytes() == b"graph"
    assert names(root) == [] and not graph.exists()


def test_a_cache_that_can_only_be_read_is_read(root, monkeypatch):
    compile_in(root)
    change = os.utime

    def refuse(path, *times, **more):
        if root in Path(path).parents:
            raise PermissionError("read-only file system")
        return change(path, *times, **more)

    monkeypatch.setattr(os, "utime", refuse)
    assert compile_in(root)


def test_where_nothing_can_be_written_nothing_is_kept(root):
    root.write_text("a file where the folder should be")
    with kept(root, "a"):
        assert SWITCH not in os.environ


def test_who_sets_mindspores_cache_keeps_it(root, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    with kept(root, "a"):
        assert os.environ[SWITCH] == "0"
    assert os.environ[SWITCH] == "0" and not root.exists()


@pytest.mark.parametrize("script", ["-c", "", "/bin/true", "missing.py"])
def test_without_a_script_in_python_there_is_no_cache(root, monkeypatch, script):
    monkeypatch.setattr("sys.argv", [script])
    with kept(root, "a"):
        assert SWITCH not in os.environ


def test_only_the_last_used_are_kept(root):
    for number in range(graph_cache.KEPT):
        compile_in(root, f"graph-{number:02}")
        os.utime(root / f"graph-{number:02}", (number, number))
    compile_in(root, "graph-00")  # is used again
    left = root / ".making-by-a-killed-process"
    left.mkdir()
    os.utime(left, (0, 0))
    compile_in(root, "new")
    kept_now = names(root)
    assert len(kept_now) == graph_cache.KEPT and {"graph-00", "new"} <= set(kept_now)
    assert "graph-01" not in kept_now and left.name not in kept_now


def test_copies_of_killed_processes_are_removed(root, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compile_in(root)
    for name, age in (("killed", 0), ("at-work", time.time())):
        folder = tmp_path / f"ms_bert-graphs-{name}"
        folder.mkdir()
        os.utime(folder, (age, age))
    compile_in(root)
    assert [path.name for path in tmp_path.glob("ms_bert-graphs-*")] == ["ms_bert-graphs-at-work"]


def test_a_copy_of_what_is_thrown_away_meanwhile_is_not_used(root, monkeypatch):
    compile_in(root)
    copy = shutil.copytree

    def torn(source, target, *others, **more):  # copytree calls itself for folders within
        copy(source, target, *others, **more)
        for path in Path(target).glob("*.mindir"):
            path.unlink()

    monkeypatch.setattr(shutil, "copytree", torn)
    with kept(root, "a"):
        assert SWITCH not in os.environ
    assert names(root) == ["a"]


def test_mindspore_is_told_one_place_only(root, monkeypatch):
    compile_in(root)
    monkeypatch.setattr(graph_cache, "told", True)
    with kept(root, "b"):
        assert SWITCH not in os.environ


LOADED = "Use the compilation cache"  # MindSpore says so


@pytest.mark.parametrize("accumulate", some([1, 2], 1))
def test_a_kept_step_computes_the_same(tmp_path, corpus_file, accumulate):
    """Whole runs: one that compiles, one that loads with other weights, and the same without a cache."""
    told = {"env": {**os.environ, "GLOG_v": "2"}}
    command = runs.small_run(corpus_file, tmp_path / "cache", runs.write_config(tmp_path))
    command += ["--accumulate", accumulate]
    graphs, contents = tmp_path / "cache" / "graphs", []
    for number, more in enumerate(([], ["--seed", 7], ["--seed", 7, "--no-graph-cache"])):
        result = runs.run(*command, *more, "--output", tmp_path / str(number), **told)
        assert result.returncode == 0 and "ERROR" not in result.stderr, result.stderr
        assert result.stderr.count(LOADED) == (accumulate if number == 1 else 0)
        contents.append(runs.content(tmp_path / str(number)))
        assert len(list(graphs.rglob("*.mindir"))) == accumulate  # of a step in parts, the part and the update
    assert contents[1] == contents[2] != contents[0]


@pytest.mark.full
def test_steps_of_two_shapes_are_kept_beside_each_other(tmp_path, corpus_file):
    command = runs.small_run(corpus_file, tmp_path / "cache", runs.write_config(tmp_path))
    for number, more in enumerate(([], ["--seq-length", 24]), 1):
        done = runs.run(*command, *more, "--output", tmp_path / str(number), env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        assert len(names(tmp_path / "cache" / "graphs")) == number
