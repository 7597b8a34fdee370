"""The run folder: what it holds besides the checkpoints, and that one process at a time writes it.

    config.json tokenizer.json tokenizer_config.json vocab.txt    as Hugging Face expects them
    model.safetensors                                             the newest weights, or those of the best evaluation
    task.json                                                     of a fine-tuned model: labels, lengths, metrics
    teacher.safetensors guesses.safetensors                       what other models said of the training data
    run.json                                                      every option, versions, data, parameters
    metrics.jsonl                                                 a line a logged step and a line an evaluation
    throughput.jsonl                                              the times of the logged steps
    curves.png
    checkpoints/                                                  empty until the first is written

metrics.jsonl holds nothing that depends on the clock: a run that was killed and resumed writes the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from ms_bert.config import BertConfig
from ms_bert.data.files import read_bytes, write_atomically
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError
from ms_bert.run import checkpoints

TASK = "task.json"  # of a fine-tuned model: what predictions need besides the model
TEACHER, GUESSES = "teacher.safetensors", "guesses.safetensors"  # what other models said, so that it goes on without
FORMAT = 1  # of run.json; it was not numbered before
RUN, METRICS, THROUGHPUT, CURVES = "run.json", "metrics.jsonl", "throughput.jsonl", "curves.png"
# What a fine-tuned model scores, of each run and of several seeds, and what it says of evaluation data.
RESULTS, PREDICTIONS, EVALUATION = "results.json", "predictions.jsonl", "evaluation.png"
_CONFIG, _VOCABULARY = "config.json", "vocab.txt"
_WRITTEN_BEFORE_RUN = {_CONFIG, "tokenizer.json", "tokenizer_config.json", _VOCABULARY, TASK, TEACHER, GUESSES}


class RunFolder:
    """A run folder that this process alone may write, until it ends.

    Raises:
        UserError: another process writes it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = open(path / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is being written by another process; wait for it or stop it.") from None
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        concluding = (RESULTS, EVALUATION, PREDICTIONS, PREDICTIONS.replace(".", "-*."))
        for name in (*_WRITTEN_BEFORE_RUN, RUN, METRICS, THROUGHPUT, CURVES, *concluding):
            for left in self.path.glob(f".{name}.????????"):
                left.unlink()
        checkpoints.sweep(self.path)

    @classmethod
    def create(
        cls,
        path: Path,
        description: dict,
        architecture: str,
        config: BertConfig,
        vocabulary: Vocabulary,
        files: Mapping[str, bytes] | None = None,
        longest: int | None = None,
    ) -> RunFolder:
        """Make a new run folder, for a model of this class of Hugging Face, with further files by name.

        Args:
            longest: tokens that a text is given at most; None: as many as the model has positions.

        Raises:
            UserError: the folder holds something already.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.write(_CONFIG, json.dumps({"architectures": [architecture], **config.to_dict()}, indent=2).encode())
        tokenizer = _tokenizer_files(vocabulary, longest or config.max_position_embeddings)
        for name, content in {**tokenizer, **(files or {})}.items():
            folder.write(name, content)
        (path / checkpoints.FOLDER).mkdir(exist_ok=True)
        folder.describe(description)  # last: a folder with run.json can be resumed
        return folder

    def check(self) -> None:
        """Raise FileNotFoundError unless the folder is still the one of this process: a user may have removed it, and
        another run have made it again."""
        try:
            same = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.path / ".lock"))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise FileNotFoundError(2, "the folder was removed or replaced", str(self.path))

    def remove(self) -> None:
        """Remove a folder in which nothing has begun: its run.json, and itself if nothing else is in it."""
        for name in (RUN, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something else
            self.path.rmdir()

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, whole or not at all; a folder that is gone is not made again."""
        self.check()
        write_atomically(self.path / name, content, make_folder=False)

    def describe(self, description: dict) -> None:
        """Write run.json."""
        content = json.dumps({"format": FORMAT, **description}, indent=2, ensure_ascii=False)
        self.write(RUN, (content + "\n").encode())

    def mend_tokenizer(self, vocabulary: Vocabulary, longest: int) -> list[str]:
        """Write again those of the tokenizer's files that are missing or damaged, and not needed to know the
        vocabulary; returns their names."""
        damaged = [
            (name, content)
            for name, content in _tokenizer_files(vocabulary, longest).items()
            if not _is_sound(self.path / name, content)
        ]
        for name, content in damaged:
            self.write(name, content)
        return [name for name, _ in damaged]

    def log(self, name: str, line: dict) -> None:
        """Append a line to a .jsonl file; the folder must still be there."""
        self.check()
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sync_logs(self) -> dict:
        """Make the logged lines durable, for a checkpoint relies on those before it; returns what metrics.jsonl is, by
        which `cut_logs` knows it again."""
        self.check()
        for name in (METRICS, THROUGHPUT):
            if (self.path / name).exists():
                with open(self.path / name, "rb") as file:
                    os.fsync(file.fileno())
        content = _content(self.path / METRICS)
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def cut_logs(self, step: int, metrics: dict | None = None) -> int:
        """Drop the lines after a step; at step 0 all of them, for the evaluation before the first step is made again.

        Args:
            metrics: what `sync_logs` returned at this step; None: it is not known, of a checkpoint that was converted
                or is older than this record.

        Returns:
            how many lines of throughput.jsonl were left out because they are damaged.

        Raises:
            UserError: metrics.jsonl is damaged before the step.
        """
        content, lines = _content(self.path / METRICS), _lines(self.path / THROUGHPUT)
        if step == 0:
            content = b""
        elif metrics is not None:
            content = content[: metrics["bytes"]]
            if hashlib.sha256(content).hexdigest() != metrics.get("sha256"):
                raise UserError(
                    f"{self.path / METRICS} does not begin with what the run logged up to step {step}; restore it, or "
                    f"continue without it in a new folder: python -m conversion convert {self.path} NEW, then "
                    "--resume NEW."
                )
        else:
            content = b"".join(self._whole_lines_up_to(step))
        self.write(METRICS, content)
        self.write(THROUGHPUT, b"".join(line for line in lines if (entry := _entry(line)) and entry["step"] <= step))
        return sum(_entry(line) is None for line in lines)

    def _whole_lines_up_to(self, step: int) -> list[bytes]:
        lines = _lines(self.path / METRICS)
        kept = []
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                raise UserError(
                    f"line {number} of {self.path / METRICS} is damaged; repair or remove the line, which training "
                    "itself does not need."
                )
            if entry["step"] <= step:
                kept.append(line)
        return kept


class Elsewhere(RunFolder):
    """A run folder that the first worker writes: what this one would write there is left to it."""

    def __init__(self, path: Path):
        self.path = path

    def check(self) -> None:
        pass

    def remove(self) -> None:
        pass

    def write(self, name: str, content: bytes) -> None:
        pass

    def log(self, name: str, line: dict) -> None:
        pass

    def sync_logs(self) -> dict:
        return {}

    def cut_logs(self, step: int, metrics: dict | None = None) -> int:
        return 0


def check_free(path: Path) -> None:
    """Raise UserError unless a run can be made at this path."""
    if (path / RUN).exists():
        raise UserError(f"{path} already holds a run; continue it with --resume {path}, or choose another --output.")
    # A process killed while it made the folder leaves these; there is nothing in them to lose.
    if os.path.lexists(path) and (not path.is_dir() or not all(map(_is_a_beginning, path.iterdir()))):
        raise UserError(f"{path} is not an empty folder; choose another --output.")


def _is_a_beginning(path: Path) -> bool:
    if path.name == checkpoints.FOLDER:
        return path.is_dir() and not any(path.iterdir())
    return path.name in _WRITTEN_BEFORE_RUN or path.name.startswith(".")


def _tokenizer_files(vocabulary: Vocabulary, longest: int) -> dict[str, bytes]:
    """What Hugging Face expects beside a model, by file name."""
    config = {
        **vocabulary.description(),
        "model_max_length": longest,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "unk_token": "[UNK]",
    }
    return {
        "tokenizer.json": vocabulary.to_json().encode(),
        _VOCABULARY: vocabulary.to_vocab_txt().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


def _is_sound(path: Path, expected: bytes) -> bool:
    """Whether a tokenizer's file is what it should be; those in JSON may be worded otherwise."""
    try:
        found = read_bytes(path)
        return found == expected or (path.suffix == ".json" and isinstance(json.loads(found), dict))
    except (OSError, ValueError, RecursionError):
        return False


def read_description(path: Path) -> dict:
    """The run.json of a folder, or a run.json by itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = path / RUN if path.is_dir() else path
    try:
        description = json.loads(read_bytes(file))
    except FileNotFoundError:
        raise UserError(f"there is no {file}; name the folder of a run.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}); make it readable, or name another run.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); restore it, or begin a new run.") from None
    number = description.get("format", 0) if isinstance(description, dict) else 0
    if type(number) is int and number > FORMAT:
        raise UserError(
            f"{file} has format {number}, which a newer version of ms_bert wrote, but this one reads only up to "
            f"{FORMAT}; install the newer one."
        )
    if number == 0:
        description = _numbered(description)
    if number not in (0, FORMAT) or not _is_description(description):
        raise UserError(
            f"{file} is damaged: it lacks the options of a run or the record of what computed it; restore it, or begin "
            "a new run."
        )
    # Before there were leaves, a batch was one.
    description["options"]["training"].setdefault("leaves", 1)
    return description


def _numbered(description):
    """A run.json from before formats were numbered, as one of format 1; what is none of a run stays as it is."""
    if not isinstance(description, dict):
        return description
    entry = {name: description.get(name) for name in ("framework", "versions")}  # once said for the whole run
    changed = {"format": 1, "task": "pre-training", "trained_by": [{"from_step": 0, **entry}], **description}
    options = description.get("options")
    if isinstance(options, dict) and all(isinstance(group, dict) for group in options.values()):
        groups = {name: dict(group) for name, group in options.items()}
        for old, name, new in _MOVED:
            own = groups.setdefault(new, {})
            if name in groups.get(old, {}):
                own.setdefault(name, groups[old].pop(name))
        changed["options"] = groups
    return changed


# Options that have moved: from a group, its name, to the group of a framework.
_MOVED = (
    ("training", "kernels", "mindspore"),
    ("run", "graph_cache", "mindspore"),
    ("training", "compile", "pytorch"),
)


def _is_description(description) -> bool:
    """Whether it has what every command needs of a run.json; the options themselves are checked where they are made."""
    options = description.get("options") if isinstance(description, dict) else None
    if not isinstance(options, dict) or not {"training", "run"} <= options.keys():
        return False
    entries = description.get("trained_by")
    return (
        isinstance(description.get("task"), str)
        and all(
            isinstance(group, dict)
            for group in (*options.values(), description.get("config", {}), description.get("text", {}))
        )
        and isinstance(entries, list)
        and all(isinstance(entry, dict) for entry in entries)
        and all(type(entry.get("from_step")) is int and isinstance(entry.get("framework"), str) for entry in entries)
    )


def read_log(path: Path, name: str) -> list[dict]:
    """The sound lines of a .jsonl file of a run; none if it is not there."""
    return [entry for line in _lines(path / name) if (entry := _entry(line)) is not None]


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return b""


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, without a last one that was cut short."""
    return [line + b"\n" for line in _content(path).split(b"\n")[:-1]]


def _entry(line: bytes) -> dict | None:
    """What a line of a log says, its step and other numbers by name; None: it is damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not all(type(value) in (int, float) for value in entry.values()):
        return None
    return entry if type(entry.get("step")) is int else None
