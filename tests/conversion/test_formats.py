"""The table of formats: every row is true, and a format of a few lines is added by its module and its rows."""

import inspect
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conversion import checkpoint, report
from conversion.__main__ import main
from conversion.convert import convert
from conversion.formats import FORMATS, Format
from conversion.targets import TARGETS, Target
from conversion.tensors import Tensor, Tensors
from conversion.writing import Settings
from ms_bert.errors import UserError

from .bert import random_weights, write_folder
from .test_convert import training_checkpoint

# A toy format: NumPy's .npz.


def recognises(path: Path) -> bool:
    return zipfile.is_zipfile(path) and all(name.endswith(".npy") for name in zipfile.ZipFile(path).namelist())


def read(path: Path) -> Tensors:
    def tensor(name: str, array: np.ndarray) -> Tensor:
        return Tensor(array.dtype, array.shape, lambda: np.load(path)[name])

    try:
        with np.load(path) as arrays:
            return {name: tensor(name, arrays[name]) for name in arrays}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); copy it again.") from None


def write(path: Path, tensors: Tensors) -> list[str]:
    np.savez(path, **{name: tensor.read() for name, tensor in tensors.items()})
    return ["NumPy's own format"]


@pytest.fixture
def toy(monkeypatch):
    """The module, for which nothing but these two rows is added."""
    module = SimpleNamespace(recognises=recognises, read=read, write=write)
    monkeypatch.setitem(FORMATS, "npz", Format("NumPy .npz", module, (".npz",), target="npz"))
    monkeypatch.setitem(TARGETS, "npz", Target(("npz",), "hugging-face", "one .npz by Hugging Face's names"))
    return module


@pytest.mark.usefixtures("toy")
def test_a_format_is_added_by_a_module_and_its_rows(tmp_path, capsys):
    source = training_checkpoint(tmp_path / "source")
    target = tmp_path / "m" / "a.npz"
    assert main(["convert", str(source), str(target)]) == 0
    told = capsys.readouterr().out
    assert "(npz): BertForPreTraining" in told and "optimizer at step 70" in told and "NumPy's own format" in told
    assert {name.removesuffix(".npy") for name in zipfile.ZipFile(target).namelist()} > random_weights().keys()
    for there, back in ((target, tmp_path / "a"), (target.parent, tmp_path / "b")):  # the file, and its folder
        assert main(["convert", str(there), str(back)]) == 0
        assert "NumPy .npz" in capsys.readouterr().out
        assert report.same(report.diff(checkpoint.read(source), checkpoint.read(back)))
    assert main(["convert", str(source), str(target)]) == 2 and "already exists" in capsys.readouterr().err
    target.write_bytes(target.read_bytes()[:-30])
    assert main(["inspect", str(target)]) == 2 and "Traceback" not in capsys.readouterr().err


def test_what_a_format_writes_is_read_back_and_compared(tmp_path, toy):
    def wrong(path: Path, tensors: Tensors) -> list[str]:
        return write(path, {name: Tensor.of(tensor.read() + 1) for name, tensor in tensors.items()})

    toy.write = wrong
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights(special=False)))
    with pytest.raises(OSError, match="has other bytes than were written"):
        convert(source, tmp_path / "m" / "a.npz")
    assert not (tmp_path / "m").exists()


def test_options_of_one_format_are_refused_for_another(tmp_path, toy):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights(special=False)))
    with pytest.raises(UserError, match="--optimize has no effect on a npz target"):
        convert(source, tmp_path / "m" / "a.npz", settings=Settings(optimize=True))


@pytest.mark.parametrize("key", FORMATS)
def test_a_row_is_what_its_module_has(key):
    format = FORMATS[key]
    known = {"config", "architecture", "metadata", "under", *vars(Settings())}
    taken = dict(inspect.signature(format.module.write).parameters)
    assert {"path", "tensors", *format.takes} <= taken.keys() and set(format.takes) <= known
    others = taken.keys() - {"path", "tensors", *format.takes}
    assert all(taken[name].default is not inspect.Parameter.empty for name in others)
    assert format.is_read or format.graph
    assert not format.is_read or hasattr(format.module, "recognises")
    assert not format.target or key in TARGETS[format.target].formats
    assert all(ending.startswith(".") for ending in format.endings)


def test_no_two_formats_are_called_alike():
    endings = [ending for format in FORMATS.values() for ending in format.endings]
    names = [format.name for format in FORMATS.values()]
    assert len(set(endings)) == len(endings) and len(set(names)) == len(names)
