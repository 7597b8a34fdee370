"""Where a target is written: one conversion at a time, and nothing lost by a kill, a full disk or a signal."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from conversion import checkpoint, placing
from conversion.convert import Settings, convert
from ms_bert.errors import UserError

from .bert import CONFIG, random_weights, write_folder
from .killed_conversions import content, hidden


def model(folder, config=CONFIG, plus=0.0):
    weights = random_weights(config, special=False)
    weights["bert.pooler.dense.bias"] += plus
    return checkpoint.read(write_folder(folder, weights, config))


@pytest.mark.slow
def test_a_conversion_killed_at_any_change_of_the_disk_loses_nothing_and_can_be_repeated(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.conversion.killed_conversions", tmp_path],
        text=True,
        capture_output=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr
    kills = [int(line) for line in result.stdout.split()]
    assert len(kills) == 12 and min(kills) > 8 and sum(kills) > 300


def test_two_conversions_to_one_target_are_refused_and_a_killed_ones_traces_are_swept(tmp_path):
    source, target = model(tmp_path / "source"), tmp_path / "m" / "a.ckpt"
    folder = placing.folder_of(target)
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "a.ckpt").write_text("half")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another conversion to .*a.ckpt is under way"):
            convert(source, target)
        assert (folder / "new" / "a.ckpt").read_text() == "half"
    convert(source, target)
    assert checkpoint.read(target).weights and not hidden(tmp_path)


def test_a_folder_that_is_of_no_conversion_is_not_swept(tmp_path):
    folder = placing.folder_of(tmp_path / "a.ckpt")
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds thesis.txt, which no conversion has put there"):
        convert(model(tmp_path / "source"), tmp_path / "a.ckpt")
    assert (folder / "thesis.txt").read_text() == "precious"


def test_what_came_to_be_there_after_a_kill_and_what_was_there_before_are_both_kept(tmp_path):
    source, target = model(tmp_path / "source"), tmp_path / "t" / "x"
    folder, index = placing.folder_of(target), tmp_path / "t" / "x.index"
    (folder / "old").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "placing.json").write_text('{"main": "x.index", "new": {"x.index": [1, 2]}}')
    (folder / "old" / "x.index").write_text("old")
    index.write_text("of the user")
    with pytest.raises(UserError, match="x.index appeared after a killed conversion had moved the old one"):
        convert(source, target, "tensorflow", Settings(overwrite=True))
    assert index.read_text() == "of the user" and (folder / "old" / "x.index").read_text() == "old"
    index.unlink()
    for name in ("x", "x.index"):
        with pytest.raises(UserError, match="a conversion to .* was killed before it finished; repeat it"):
            checkpoint.read(tmp_path / "t" / name)
    with (
        pytest.warns(UserWarning, match="the old checkpoint was restored"),
        pytest.raises(UserError, match="already exists"),
    ):
        convert(source, target, "tensorflow")
    assert index.read_text() == "old" and not hidden(tmp_path)


@pytest.mark.parametrize("journal", ["", "[" * 100_000, "[]", '{"main": "x.index", "new": {"../y": [1, 2]}}'])
def test_what_a_killed_conversion_moved_away_is_not_lost_with_its_damaged_journal(journal, tmp_path):
    source, target = model(tmp_path / "source"), tmp_path / "t" / "x"
    folder = placing.folder_of(target)
    (folder / "old").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "placing.json").write_text(journal)
    (folder / "old" / "x.index").write_text("old")
    with pytest.raises(
        UserError, match="placing.json, which is needed to undo .* is damaged; move the files in .*old back"
    ):
        convert(source, target, "tensorflow")
    assert (folder / "old" / "x.index").read_text() == "old"


def test_data_that_no_conversion_is_known_to_have_put_there_is_not_replaced_unless_asked(tmp_path):
    source, target = model(tmp_path / "source"), tmp_path / "t" / "x"
    target.parent.mkdir()
    data = tmp_path / "t" / "x.data-00000-of-00001"
    data.write_text("of the user")
    with pytest.raises(UserError, match="already exists"):
        convert(source, target, "tensorflow")
    assert data.read_text() == "of the user"
    convert(source, target, "tensorflow", Settings(overwrite=True))
    assert checkpoint.read(target).weights


@pytest.mark.parametrize("kind, name", [("hugging-face", "folder"), ("mindspore", "a.ckpt")])
def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(kind, name, tmp_path):
    a, b = model(tmp_path / "a"), model(tmp_path / "b", plus=1.0)
    (tmp_path / "store").mkdir()
    convert(a, tmp_path / "store" / name, kind)
    before = content(tmp_path / "store")
    link = tmp_path / "place" / name
    link.parent.mkdir()
    for leads_to in (tmp_path / "store" / name, tmp_path / "nowhere", link):
        link.symlink_to(leads_to)
        with pytest.raises(UserError, match="already exists"):
            convert(b, link, kind)
        convert(b, link, kind, Settings(overwrite=True))
        found = checkpoint.read(link).weights["bert.pooler.dense.bias"].read()
        assert not link.is_symlink() and (found == b.weights["bert.pooler.dense.bias"].read()).all()
        assert content(tmp_path / "store") == before and not (tmp_path / "nowhere").exists()
        (shutil.rmtree if link.is_dir() else os.unlink)(link)
    assert checkpoint.read(tmp_path / "store" / name).weights and not hidden(tmp_path)


def test_modes_are_those_of_the_umask_whatever_the_source_has(tmp_path):
    source = write_folder(tmp_path / "source", random_weights())
    for file in source.iterdir():
        file.chmod(0o400)
    before = os.umask(0o027)
    try:
        convert(checkpoint.read(source), tmp_path / "folder")
        convert(checkpoint.read(source), tmp_path / "m" / "a.ckpt")
    finally:
        os.umask(before)
    for folder in (tmp_path / "folder", tmp_path / "m"):
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}
        assert folder.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_and_ends_the_command_as_signals_do(number, code, tmp_path):
    write_folder(tmp_path / "source", random_weights())
    program = (
        "import sys, time; from conversion import writing, __main__\n"
        "writing._read_back = lambda *_: print('writing', flush=True) or time.sleep(60)\n"
        "sys.exit(__main__.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "convert", tmp_path / "source", tmp_path / "deep" / "a.ckpt"]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # which is another one in the background of a shell
    )
    assert child.stdout.readline() == "writing\n" and hidden(tmp_path)
    child.send_signal(number)
    _, told = child.communicate(timeout=60)
    assert child.returncode == code and told.count("\n") == 1 and "interrupted" in told
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
