"""Kill conversions before each change of the disk in turn, look, and repeat them: test_placing.py runs this.

python -m tests.conversion.killed_conversions FOLDER

What is written is made once by the real writers and then copied; everything else is the real code, and every conversion
is a fork of this small process, so that hundreds of kills take seconds. Prints the number of kills.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from conversion import checkpoint, placing, writing
from conversion.convert import Settings, convert
from conversion.formats import onnx_graph
from ms_bert.errors import UserError
from tests.faults.killed_everywhere import forked

from .bert import CONFIG, random_weights, write_folder


@dataclasses.dataclass(frozen=True)
class Case:
    """A conversion that is killed.

    Attributes:
        target: its path. kind: of target. old: whose conversion it replaces, 'a', 'b' or None; new: whose it is.
        stranger: whether something else lies beside the target. main: the file that makes it a checkpoint.
        steps: whether there may be a moment without a whole checkpoint under the name. without: what the system
        cannot do. twice: kill the conversion after the killed one too.
    """

    target: str
    kind: str
    main: str
    old: str | None = None
    new: str = "b"
    stranger: bool = False
    steps: bool = True
    without: tuple[tuple[object, str], ...] = ()
    twice: bool = False


def unable(*arguments):
    raise OSError(95, "not supported")


CASES = [
    Case("folder", "hugging-face", "folder"),
    Case("folder", "hugging-face", "folder", old="a", steps=False),
    Case("folder", "hugging-face", "folder", old="a", without=((placing, "_exchange"),)),
    Case("m/x.ckpt", "mindspore", "x.ckpt"),
    Case("m/x.ckpt", "mindspore", "x.ckpt", stranger=True),
    Case("m/x.ckpt", "mindspore", "x.ckpt", old="c", steps=False),
    Case("m/x.ckpt", "mindspore", "x.ckpt", old="a"),
    Case("m/x.ckpt", "mindspore", "x.ckpt", old="a", stranger=True),
    Case("t/x", "tensorflow", "x.index"),
    Case("t/x", "tensorflow", "x.index", without=((os, "link"),)),
    Case("t/x", "tensorflow", "x.index", old="a", twice=True),
    Case("o/x.onnx", "onnx", "x.onnx", old="c"),
]


def content(folder: Path) -> dict[str, bytes]:
    """What can be seen there."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in paths if not any(p.startswith(".") for p in path.parts)}


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def dying_at(step: int, function: Callable[[], None]) -> None:
    """Call the function with every change of the disk counted, and be gone at one of them."""
    count = 0

    def wrap(owner, name):
        original = getattr(owner, name)

        def counted(*arguments, **named):
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return original(*arguments, **named)

        setattr(owner, name, counted)

    for name in ("replace", "rename", "link", "unlink", "rmdir", "mkdir", "open"):
        wrap(os, name)
    wrap(placing, "_exchange")
    function()


class Killer:
    def __init__(self, work: Path):
        self.work, self.place, self.before = work, work / "place", work / "before"
        weights = {name: random_weights(special=False) for name in "abc"}
        for number, arrays in enumerate(weights.values()):
            arrays["bert.pooler.dense.bias"] += number
        other = CONFIG.replace(hidden_act="relu")  # of a; b and c have one config
        self.sources = {
            name: checkpoint.read(write_folder(work / name, weights[name], other if name == "a" else CONFIG))
            for name in "abc"
        }
        os.fsync = lambda descriptor: None  # for power cuts, which these are not
        self.write, writing.write = writing.write, self.copy

    def copy(self, result, folder, settings):
        """Instead of writing: what was written the first time."""
        source = next(name for name, source in self.sources.items() if source is result.source)
        made = self.work / "made" / f"{source}-{result.kind}"
        if not made.exists():
            made.mkdir(parents=True)
            self.write(result, made, settings)
            if result.kind == "onnx":
                weights = result.source.weights
                onnx_graph.write(made / result.target.name, CONFIG, "BertForPreTraining", weights, external_data=True)
        shutil.copytree(made, folder, dirs_exist_ok=True)

    def convert(self, case: Case, source: str, overwrite: bool) -> None:
        convert(self.sources[source], self.place / case.target, case.kind, Settings(overwrite=overwrite))

    def prepare(self, case: Case) -> dict[str, bytes]:
        shutil.rmtree(self.place, ignore_errors=True)
        (self.place / case.target).parent.mkdir(parents=True)
        if case.stranger:
            ((self.place / case.target).parent / "thesis.txt").write_text("precious")
        if case.old:
            self.convert(case, case.old, False)
        return content(self.place)

    def kill_everywhere(self, case: Case) -> int:
        for owner, name in case.without:
            setattr(owner, name, (lambda *_: False) if name == "_exchange" else unable)
        again = case.old is not None
        old = self.prepare(case)
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.place, self.before)
        self.convert(case, case.new, again)
        new, kills = content(self.place), 0
        assert old != new and not hidden(self.place)
        while (status := self.killed(case, kills + 1)) != 0:
            assert status == 9, f"{case}, step {kills + 1}: {status}"
            kills += 1
            self.look(case, old, new, f"{case}, killed before step {kills}")
        # Killed in the middle, and what puts that right is killed too.
        middle, twice = kills // 2, 0
        while case.twice and (status := self.killed(case, middle, twice + 1)) != 0:
            assert status == 9, f"{case}, step {middle} and {twice + 1}: {status}"
            twice += 1
            self.look(case, old, new, f"{case}, killed before step {middle} and before step {twice}")
        return kills + twice

    def killed(self, case: Case, *steps: int) -> int:
        """Exit status of the last conversion, each of them killed before one of these steps."""
        shutil.rmtree(self.place)
        shutil.copytree(self.before, self.place)
        for step in steps:
            status = forked(lambda: dying_at(step, lambda: self.convert(case, case.new, case.old is not None)))
        return status

    def look(self, case: Case, old: dict, new: dict, where: str) -> None:
        found = content(self.place)
        there = (self.place / case.target).parent / case.main
        assert found in (old, new) or (case.steps and not there.exists()), f"{where}: {sorted(found)}"
        # What was there is there again at the next conversion, even at one that is refused.
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if case.old and found not in (old, new):
                with contextlib.suppress(UserError):
                    self.convert(case, case.new, False)
                assert content(self.place) in (old, new), where
                assert "the old checkpoint was restored" in str(told[0].message), where
            try:
                self.convert(case, case.new, case.old is not None)
            except UserError as error:
                assert found == new and "already exists" in str(error), f"{where}: {error}"
        assert content(self.place) == new and not hidden(self.place), where


def main(work: str) -> None:
    warnings.simplefilter("ignore")
    killer = Killer(Path(work))
    for case in CASES:
        status = forked(lambda: print(killer.kill_everywhere(case), flush=True))
        assert status == 0, case


if __name__ == "__main__":
    main(*sys.argv[1:])
