"""The run folder: what it holds besides the checkpoints, and that one process at a time writes it.

    config.json tokenizer.json tokenizer_config.json vocab.txt    as Hugging Face expects them
    model.safetensors                                             the newest weights
    run.json                                                      every option, versions, data, parameters
    metrics.jsonl                                                 a line a logged step and a line an evaluation
    throughput.jsonl                                              the times of the logged steps
    curves.png

metrics.jsonl holds nothing that depends on the clock: a run that was killed and resumed writes the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ms_bert.config import BertConfig
from ms_bert.data.files import write_atomically
from ms_bert.data.tokenizer import Vocabulary
from ms_bert.errors import UserError

_WRITTEN_BEFORE_RUN = {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
RUN, METRICS, THROUGHPUT, CURVES = "run.json", "metrics.jsonl", "throughput.jsonl", "curves.png"


class RunFolder:
    """A run folder that this process alone may write, until it ends."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = open(path / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is being written by another process; wait for it or stop it.") from None

    @classmethod
    def create(cls, path: Path, description: dict, config: BertConfig, vocabulary: Vocabulary) -> RunFolder:
        """Make a new run folder.

        Raises:
            UserError: the folder holds something already.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        write_atomically(
            path / "config.json",
            json.dumps({"architectures": ["BertForPreTraining"], **config.to_dict()}, indent=2).encode(),
        )
        write_atomically(path / "tokenizer.json", vocabulary.to_json().encode())
        write_atomically(path / "vocab.txt", vocabulary.to_vocab_txt().encode())
        write_atomically(
            path / "tokenizer_config.json",
            json.dumps(
                {
                    **vocabulary.clean_up(),
                    "model_max_length": config.max_position_embeddings,
                    "cls_token": "[CLS]",
                    "sep_token": "[SEP]",
                    "pad_token": "[PAD]",
                    "mask_token": "[MASK]",
                    "unk_token": "[UNK]",
                },
                indent=2,
            ).encode(),
        )
        folder.describe(description)  # last: a folder with run.json can be resumed
        return folder

    def describe(self, description: dict) -> None:
        """Write run.json."""
        write_atomically(self.path / RUN, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())

    def log(self, name: str, line: dict) -> None:
        """Append a line to a .jsonl file; the folder must still be there."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_logs(self, step: int) -> None:
        """Drop the lines after a step, and a last line that was cut short."""
        for name in (METRICS, THROUGHPUT):
            lines = [json.dumps(line) for line in read_log(self.path, name) if line["step"] <= step]
            write_atomically(self.path / name, "".join(line + "\n" for line in lines).encode())

    def sync_logs(self) -> None:
        """Make the logged lines durable: a checkpoint relies on those before it."""
        for name in (METRICS, THROUGHPUT):
            if (self.path / name).exists():
                with open(self.path / name, "rb") as file:
                    os.fsync(file.fileno())


def check_free(path: Path) -> None:
    """Raise UserError unless a run can be made at this path."""
    if (path / RUN).exists():
        raise UserError(f"{path} holds another run; go on with it by --resume {path}, or choose another --output.")
    # A process killed while it made the folder leaves these; there is nothing in them to lose.
    if path.exists() and (
        not path.is_dir()
        or any(p.name not in _WRITTEN_BEFORE_RUN and not p.name.startswith(".") for p in path.iterdir())
    ):
        raise UserError(f"{path} is not an empty folder; choose another --output.")


def read_description(path: Path) -> dict:
    """The run.json of a folder, or a run.json by itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = path / RUN if path.is_dir() else path
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        if "trained_by" not in description:  # runs of version 0.1 say it for the whole run
            entry = {"framework": description["framework"], "versions": description["versions"]}
            description["trained_by"] = [{"from_step": 0, **entry}]
        if not all(isinstance(entry["from_step"], int) for entry in description["trained_by"]):
            raise ValueError("trained_by has a from_step that is no number")
        description["options"]
    except FileNotFoundError:
        raise UserError(f"there is no {file}; name the folder of a run.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); begin a new run.") from None
    return description


def read_log(path: Path, name: str) -> list[dict]:
    """The whole lines of a .jsonl file of a run; none if it is not there."""
    try:
        lines = (path / name).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
