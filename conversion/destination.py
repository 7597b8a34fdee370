"""Where a checkpoint is written to: what is there already, whether it may be replaced, and where its companions go."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from conversion import companions, configs, placing
from conversion.checkpoint import TOKENIZER, Checkpoint
from conversion.formats import Format
from conversion.sources import OWN_COMPANIONS
from ms_bert.errors import UserError
from ms_bert.run import checkpoints
from ms_bert.run.folder import RUN, TASK

# What a conversion writes into a folder, as patterns of names: only such a folder is ever replaced.
_OF_A_FOLDER = (
    configs.HUGGING_FACE,
    *TOKENIZER,
    TASK,
    checkpoints.MODEL,
    "model.safetensors.index.json",
    "model-*.safetensors",
)


@dataclasses.dataclass(frozen=True)
class Destination:
    """The place of one target; nothing but a checkpoint is ever replaced there, and that only if asked.

    Attributes:
        source: what is written. path: of the target. format: None: it is a folder. overwrite: replace what is there.
    """

    source: Checkpoint
    path: Path
    format: Format | None
    overwrite: bool

    def check_free(self) -> None:
        """Raise a UserError unless the target may be written."""
        read = self.source.source.path.resolve()
        if self.format is None:
            self._check_folder(read)
            return
        path = self.path
        if path.is_dir():
            raise UserError(f"{path} is a folder, but the target is a file; name another target.")
        own = self._own_files()
        if read.parent == path.parent.resolve() and (read.name in own or f"{read.name}.index" in own):
            raise UserError(f"{path} is the source itself; name another target.")
        if own and not self.overwrite:
            raise UserError(
                f"{path.parent / min(own)} already exists; name another target, or replace it with --overwrite."
            )
        _check_foreign(path.with_name(path.name + OWN_COMPANIONS), companions.NAMES)
        run = path.parent / RUN
        of_a_run = run.exists() and (path.parent / "checkpoints").is_dir() and not companions.is_of(self.source, run)
        if of_a_run or (run.exists() and path.name == checkpoints.MODEL):
            raise UserError(f"{path.parent} is the folder of a run, whose files must not change; name another target.")
        self._companions_go(companions.NAMES if self.source.config or self.source.tokenizer else set())

    def put(self, place: placing.Workplace) -> list[str]:
        """Move what was written to its place, what makes it a checkpoint last; returns what is to be said of it.

        Raises:
            UserError: something has appeared there meanwhile. OSError: it cannot be moved.
        """
        if self.format is None:
            place.place({self.path.name: place.new}, self._replaced_folder(self.overwrite))
            return []
        path, old, notes = self.path, self._own_files(), []
        if old and not self.overwrite:
            raise UserError(f"{path.parent / min(old)} appeared during the conversion; name another target.")
        written = _names_in(place.new)
        brought = written & companions.NAMES
        where = self._companions_go(brought)
        entries = {name: place.new / name for name in brought}
        if where == "beside":
            entries = {name: file for name, file in entries.items() if not (path.parent / name).exists()}
        elif where == "instead":
            old |= _names_in(path.parent) & companions.NAMES
        elif where == "apart":
            apart = place.new / (path.name + OWN_COMPANIONS)
            apart.mkdir()
            for file in entries.values():
                os.rename(file, apart / file.name)
            entries = {apart.name: apart}
            notes.append(
                f"{', '.join(sorted(brought))} {'is' if len(brought) == 1 else 'are'} in {apart.name}, because "
                f"{path.parent.resolve()} holds other files too"
            )
        main = self.format.main_file(path).name
        entries |= {name: place.new / name for name in sorted(written - brought, key=lambda name: name == main)}
        place.place(entries, old)
        return notes

    def _check_folder(self, read: Path) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, but the target is a folder; name another target.")
        if read.is_relative_to(os.path.realpath(path)):
            raise UserError(f"{path} holds the source itself; name another target.")
        if self._replaced_folder(overwrite=True) and not self.overwrite:
            raise UserError(f"{path} already exists; name another target, or replace it with --overwrite.")
        if not path.is_symlink():  # of a link nothing but itself is replaced
            _check_foreign(path, (*_OF_A_FOLDER, *(glob.escape(name) for name in companions.modules_of(path))))

    def _replaced_folder(self, overwrite: bool) -> set[str]:
        """The name of a folder that is to be replaced; an empty one needs not be."""
        return {self.path.name} if overwrite and (self.path.is_symlink() or _names_in(self.path)) else set()

    def _own_files(self) -> set[str]:
        """Names of the files of a target that are there, and of its own folder of companions."""
        own = glob.escape(self.path.name)
        patterns = [*(pattern.format(own) for pattern in self.format.files), own + OWN_COMPANIONS]
        return {name for name in _names_in(self.path.parent) if any(fnmatch(name, pattern) for pattern in patterns)}

    def _companions_go(self, brought: set[str]) -> str:
        """Where the config, the tokenizer and the description of the run of a file go.

        `beside` it where nothing else lies there, or those of the same model; `instead` of those there where they are
        of the checkpoint that is replaced and of no other; else `apart`, into a folder of the file's own.

        Args:
            brought: the names of those that are to be written.

        Raises:
            UserError: there are none, and what lies there would be taken for them.
        """
        path, own = self.path, self._own_files()
        names = _names_in(path.parent) - own - {placing.folder_of(path).name}
        there, others = names & companions.NAMES, names - companions.NAMES
        told = there & {configs.HUGGING_FACE, configs.GOOGLE}
        if all(companions.is_of(self.source, path.parent / name) for name in there) and (told or not others):
            return "beside"
        if self.overwrite and own and not others and there <= brought:
            return "instead"
        if not brought:
            if not there:
                return "beside"
            raise UserError(
                f"{path.parent / min(there)} already exists and does not belong to this model; write {path.name} into "
                "a folder of its own."
            )
        return "apart"


def _names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def _check_foreign(folder: Path, patterns: Collection[str]) -> None:
    foreign = [name for name in sorted(_names_in(folder)) if not any(fnmatch(name, pattern) for pattern in patterns)]
    if foreign:
        raise UserError(
            f"{folder} holds {foreign[0]}, which a conversion would not write again, so --overwrite does not replace "
            "the folder; name another target."
        )
