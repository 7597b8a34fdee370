"""A run's folder that is damaged, removed or no run's: resumed to the same bytes, or refused in one sentence."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import __main__ as conversion
from ms_bert.commands import pretraining
from ms_bert.run import checkpoints, curves
from ms_bert.run.folder import RunFolder
from tests import runs

pytest.importorskip("torch")


def main(*arguments) -> int:
    from pt_reference.framework import PyTorch

    return pretraining.main(PyTorch(), "pretrain", "", [*map(str, arguments), "--threads", "1"])


@contextlib.contextmanager
def before_step(number: int, action):
    """While it lasts, something happens before the training step of this 0-based number."""
    from pt_reference.training.trainer import TorchTrainer

    step = TorchTrainer.train_step

    def acting(self, batch, at, rate):
        if at == number:
            action()
        return step(self, batch, at, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchTrainer, "train_step", acting)
        yield


def die():
    raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """They are slow, and nothing that a run needs is read or written with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def finished(options, without_pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(*options, "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(options, without_pictures, tmp_path_factory) -> Path:
    """The same run, dead in its step 11: checkpoints of steps 6 and 9, and logged lines after these."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with before_step(10, die):
        assert main(*options, "--output", folder) == 130
    assert checkpoints.steps(folder) == [6, 9]
    return folder


@pytest.fixture
def folder(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def refusal(capsys, *arguments, code=None) -> str:
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    found = main(*arguments)
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if "; skipping it" not in line]
    assert found in ((1, 2) if code is None else (code,)), (found, told)
    assert len(lines) == 1 and len(lines[0]) < 600, told.err
    return lines[0]


def assert_resumed(folder, finished, capsys) -> str:
    """It goes on to the same bytes and leaves nothing half written; gives what was said."""
    capsys.readouterr()
    code, told = main("--resume", folder), capsys.readouterr()
    assert code == 0, told.err
    expected, found = runs.content(finished), runs.content(folder)
    assert [name for name in expected if found.get(name) != expected[name]] == [], told
    assert [path for path in folder.rglob(".*") if path.name != ".lock"] == []
    return told.out + told.err


# Files that are damaged


def damaged(content):
    """Damage by what becomes of a file's bytes; None: a folder is in its place."""

    def damage(path: Path) -> None:
        after = content(path.read_bytes())
        path.unlink()  # not written through its other names
        path.mkdir() if after is None else path.write_bytes(after)

    return damage


DAMAGES = {
    "emptied": damaged(lambda before: b""),
    "halved": damaged(lambda before: before[: len(before) // 2]),
    "altered": damaged(lambda before: before[: len(before) // 3] + b"\x00\xff" + before[len(before) // 3 + 2 :]),
    "a list": damaged(lambda before: b"[]\n"),
    "nothing": damaged(lambda before: b"null\n"),
    "deep": damaged(lambda before: b"[" * 100_000),
    "a folder": damaged(lambda before: None),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.jsonl", "tokenizer.json"])
def test_damage_of_a_file_that_is_needed_is_one_sentence(name, damage, folder, finished, capsys):
    DAMAGES[damage](folder / name)
    if (name, damage) == ("tokenizer.json", "removed"):
        assert "rewrote tokenizer.json in" in assert_resumed(folder, finished, capsys)  # vocab.txt says the same
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    else:
        assert str(folder) in refusal(capsys, "--resume", folder)


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("throughput.jsonl", "altered", "removed 1 damaged line from"),
        ("throughput.jsonl", "a list", "removed 1 damaged line from"),
        ("throughput.jsonl", "removed", ""),
        ("vocab.txt", "halved", "rewrote vocab.txt in"),
        ("tokenizer_config.json", "altered", "rewrote tokenizer_config.json in"),
        ("model.safetensors", "halved", ""),
        (".lock", "removed", ""),
        ("checkpoints/step-00000009/state.json", "deep", "; skipping it"),
        ("checkpoints/step-00000009/model.safetensors", "a folder", "; skipping it"),
        ("checkpoints/step-00000009/optimizer.safetensors", "removed", "; skipping it"),
    ],
)
def test_damage_of_a_file_that_is_there_twice_costs_nothing(name, damage, words, folder, finished, capsys):
    DAMAGES[damage](folder / name)
    assert words in assert_resumed(folder, finished, capsys)
    if name == "vocab.txt":
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    "instead", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["a file", "a dead link"]
)
def test_a_checkpoint_that_is_no_folder_is_set_aside(instead, folder, finished, capsys):
    newest = folder / "checkpoints" / "step-00000009"
    shutil.rmtree(newest)
    instead(newest)
    assert "; skipping it" in assert_resumed(folder, finished, capsys)
    assert newest.is_dir() and os.path.lexists(newest.with_name("damaged-step-00000009"))


def test_a_run_whose_metrics_are_lost_goes_on_where_it_is_converted_to(folder, finished, tmp_path, capsys):
    (folder / "metrics.jsonl").unlink()
    told = refusal(capsys, "--resume", folder)
    assert f"python -m conversion convert {folder} NEW, then --resume NEW" in told
    assert conversion.main(["convert", str(folder), str(tmp_path / "new")]) == 0
    assert main("--resume", tmp_path / "new") == 0
    wanted, found = (runs.content(path) for path in (finished, tmp_path / "new"))
    assert all(found[name] == wanted[name] for name in wanted if name.endswith(".safetensors"))
    assert wanted["metrics.jsonl"].endswith(found["metrics.jsonl"]) and found["metrics.jsonl"].startswith(
        b'{"step": 10'
    )


def test_without_any_checkpoint_no_run_begins_anew_in_silence(folder, capsys):
    for damage in (shutil.rmtree, Path.touch):
        damage(folder / "checkpoints")
        assert f"--init {folder}" in refusal(capsys, "--resume", folder)
    assert not (folder / ".model.safetensors.writing").exists()


@pytest.mark.parametrize(
    "field, value", [("hidden_dropout_prob", 0.2), ("layer_norm_eps", 1e-3), ("hidden_act", "relu")]
)
def test_a_config_that_would_compute_something_else_is_refused(field, value, folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    assert f"config.json says {value!r} for {field}" in refusal(capsys, "--resume", folder)


def test_another_vocabulary_is_refused_before_a_store_is_made_with_it(folder, cache, capsys):
    stores = sorted((cache / "stores").iterdir())
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace('"##e"', '"##\N{SNOWMAN}"'))
    assert "restore its tokenizer.json" in refusal(capsys, "--resume", folder)
    assert sorted((cache / "stores").iterdir()) == stores


# Files whose hashes hold and whose content does not


def rewritten(folder: Path, change) -> None:
    """Change the newest checkpoint and its hashes with it: change(state, model, optimizer)."""
    step = folder / "checkpoints" / "step-00000009"
    arrays = [load_file(step / name) for name in (checkpoints.MODEL, checkpoints.OPTIMIZER)]
    state = json.loads((step / checkpoints.STATE).read_text())
    change(state, *arrays)
    for name, values in zip((checkpoints.MODEL, checkpoints.OPTIMIZER), arrays):
        (step / name).unlink()
        save_file(values, step / name)
    checkpoints.write_state(step, *(state[name] for name in ("step", "scalars", "position", "metrics")))


BIAS = "cls.predictions.bias"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state, model, optimizer: model.update({"\x1b[2J": model.pop(BIAS)}), r"'\x1b[2J'"),
        (lambda state, model, optimizer: model.pop(BIAS), f"lacks '{BIAS}'"),
        (lambda state, model, optimizer: model.update({BIAS: model[BIAS][:9]}), "float32 (9,) instead of"),
        (lambda state, model, optimizer: model.update({BIAS: model[BIAS].astype(np.float16)}), "is float16"),
        (lambda state, model, optimizer: optimizer.pop(f"v.{BIAS}"), f"lacks 'v.{BIAS}'"),
        (lambda state, model, optimizer: optimizer.clear(), "optimizer.safetensors lacks"),
        (lambda state, model, optimizer: state["position"]["window"].pop("masked_loss"), "does not hold the sums"),
        (
            lambda state, model, optimizer: state["position"].update(window={"masked_loss": float("nan")}),
            "does not hold the sums",
        ),
        (lambda state, model, optimizer: state["position"].update(window=[1]), "does not hold the sums"),
        (lambda state, model, optimizer: state["position"]["window"].update(steps=10), "does not hold the sums"),
    ],
)
def test_a_checkpoint_that_is_of_no_such_run_is_one_sentence(change, words, folder, capsys):
    rewritten(folder, change)
    metrics = (folder / "metrics.jsonl").read_bytes()
    told = refusal(capsys, "--resume", folder)
    assert (
        words in told and "continue from the one before" in told and (folder / "metrics.jsonl").read_bytes() == metrics
    )


# A folder that is removed, replaced, shared, or no run's


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("step", [3, 6])  # before a line is logged, and before a checkpoint is written
def test_a_folder_that_is_removed_while_the_run_goes_on_is_not_made_again(options, replaced, step, tmp_path, capsys):
    folder, others = tmp_path / "run", []

    def remove():
        shutil.rmtree(folder)
        if replaced:
            folder.mkdir()
            others.append(RunFolder(folder))

    with before_step(step, remove):
        told = refusal(capsys, *options, "--output", folder, "--log-every", 4, code=1)
    assert "the folder was removed or replaced" in told and "there is no checkpoint" in told
    assert sorted(path.name for path in tmp_path.rglob("*")) == ([".lock", "run"] if replaced else [])


def test_a_run_that_another_process_writes_is_refused_before_the_text_is_read(folder, capsys):
    other = RunFolder(folder)
    (folder / "tokenizer.json").write_text("")
    assert "is being written by another process" in refusal(capsys, "--resume", folder)
    assert other.path == folder


def test_a_converted_checkpoint_without_the_optimizers_state_is_not_resumed(folder, capsys):
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").unlink()
    before = sorted(path.name for path in folder.iterdir())
    told = refusal(capsys, "--resume", folder)
    assert "holds no checkpoints to continue from" in told and f"--init {folder} and another --output" in told
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_file_is_no_run_to_resume(folder, capsys):
    assert "name the folder of the run" in refusal(capsys, "--resume", folder / "run.json")


def test_a_run_stopped_before_its_first_checkpoint_says_that_it_begins_anew(options, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    with before_step(2, die):
        assert main(*options, "--output", folder) == 130
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 2]
    assert "no checkpoint yet: the run starts from the beginning" in assert_resumed(folder, finished, capsys)


def test_what_killed_processes_left_is_swept(folder, finished, capsys):
    (folder / ".model.safetensors.writing").write_bytes(b"half")
    (folder / ".run.json.k1ll3d_x").write_bytes(b"half")
    for name in (".step-00000012.writing", ".step-00000003.removing"):
        shutil.copytree(folder / "checkpoints" / "step-00000009", folder / "checkpoints" / name)
    assert_resumed(folder, finished, capsys)


def test_resuming_a_complete_run_leaves_it_as_it_is(finished, tmp_path, capsys):
    def state(folder):
        return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}

    # With the hard link between the newest checkpoint's weights and the run's.
    folder = shutil.copytree(finished, tmp_path / "run", copy_function=os.link)
    before = state(folder)
    assert main("--resume", folder) == 0 and "is complete at step 12" in capsys.readouterr().out
    assert state(folder) == before
