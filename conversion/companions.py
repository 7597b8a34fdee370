"""What lies beside a checkpoint and says what it is: the config, the tokenizer, the task, the run, further modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer

from conversion import configs
from conversion.checkpoint import TOKENIZER, Checkpoint
from ms_bert.data.files import write_atomically
from ms_bert.errors import UserError
from ms_bert.run.folder import GUESSES, RUN, TASK, TEACHER

_OF_A_RUN = (RUN, TEACHER, GUESSES)  # what a run goes on with
# With these transformers' Trainer goes on.
_OF_TRAINER = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", "training_args.bin")
NAMES = {configs.HUGGING_FACE, configs.GOOGLE, *TOKENIZER, TASK, *_OF_A_RUN}
# Of a folder of sentence-transformers: what its model is made of, how texts are prepared, and how long they may be,
# which was named by the kind of model when the library still told them apart.
MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
LENGTHS = [f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert")]


def write(source: Checkpoint, folder: Path, config: str, dtypes: set[str], with_run: bool) -> list[str]:
    """Write the companions of a checkpoint into a folder; returns what of the config is not there.

    Args:
        config: the name of the file that says it. dtypes: of the weights, for it names them.
        with_run: the description of the run, too, where there is one, and what else it needs to go on.

    Raises:
        UserError: the file that says the config cannot say a field that changes numbers.
    """
    for file in source.tokenizer:
        shutil.copyfile(file, folder / file.name)
    for name in (TASK, *(_OF_A_RUN if with_run else ())):
        if (source.source.home / name).is_file():
            shutil.copyfile(source.source.home / name, folder / name)
    if source.config is None:
        return ["no config was found beside the source, so none was written; name one with --config"]
    if config == configs.GOOGLE:
        text, left_out = configs.google(source.config)
        left_out += source.carried
    else:
        text = configs.hugging_face(source.config, source.architecture, dtypes, source.carried)
        left_out = []
    write_atomically(folder / config, text)
    return [f"left out {name} from the config: {config} has no place for it" for name in left_out]


def modules_of(folder: Path) -> list[str]:
    """Names of what makes vectors of texts of the BERT in a folder of sentence-transformers: files, and folders.

    Empty where it is no such folder, or where another folder holds its BERT.
    """
    try:
        places = [module["path"] for module in json.loads((folder / MODULES).read_bytes())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not places or places[0] != "":
        return []
    within = [name for name in places[1:] if isinstance(name, str) and Path(name).name == name]
    folders = [name for name in within if (folder / name).is_dir()]  # Normalize has no files, and may have no folder
    first, last = ([name for name in names if (folder / name).is_file()] for names in ((MODULES, SETTINGS), LENGTHS))
    return [*first, *folders, *last]


def write_modules(source: Checkpoint, folder: Path) -> None:
    """Write into a folder what sentence-transformers needs there besides, if the source's is one of its folders."""
    home = source.source.home
    for name in modules_of(home):
        if (home / name).is_dir():
            shutil.copytree(home / name, folder / name)
        else:
            shutil.copyfile(home / name, folder / name)


def is_of(source: Checkpoint, there: Path) -> bool:
    """Whether a file beside the target says of the source what the source's own says."""
    own = source.source.home / there.name
    same = own.exists() and there.samefile(own)
    if there.name not in (configs.HUGGING_FACE, configs.GOOGLE):
        return same or (own.exists() and there.read_bytes() == own.read_bytes())
    if source.config is None:
        return False
    try:
        found = configs.read(there)
        if there.name == configs.GOOGLE:
            return configs.google(found.config)[0] == configs.google(source.config)[0]
    except UserError:
        return False
    if same:  # labels that it does not name are counted in the weights
        return found.config in (source.config, source.config.replace(id2label=None))
    return (found.config, found.architecture) == (source.config, source.architecture)


def tokenizer_notes(source: Checkpoint) -> list[str]:
    """What is odd about the tokenizer beside the source, of whatever kind it is.

    Raises:
        UserError: one of its files is damaged: it would travel along, and nothing could load the target with it.
    """
    sizes = {}
    for file in source.tokenizer:
        try:
            sizes[file.name] = _vocabulary_size(file)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged ({error}); fetch it again, or move it away to convert without it."
            ) from None
    table = source.weights["bert.embeddings.word_embeddings.weight"].shape[0]
    notes = [
        f"{name} has ids up to {size - 1}, but the model has word embeddings only up to {table - 1}"
        for name, size in sizes.items()
        if size > table
    ]
    lines, entries = (sizes.get(name, 0) for name in ("vocab.txt", "tokenizer.json"))
    if lines and entries and lines != entries:
        notes.append(f"vocab.txt has ids up to {lines - 1}, but tokenizer.json up to {entries - 1}")
    return notes


def trainer_notes(source: Checkpoint) -> list[str]:
    """That the state of transformers' Trainer beside the source stays where it is: nothing but the Trainer reads it."""
    home = source.source.home
    found = sorted(file.name for pattern in _OF_TRAINER for file in home.glob(pattern))
    return [f"left out the state of transformers' Trainer: {', '.join(found)}"] if found else []


def _vocabulary_size(file: Path) -> int:
    """One more than the largest id that a file of a tokenizer tells, 0 where it tells none; of whatever kind it is.

    Raises:
        ValueError: it is not the text that it must be, or the `tokenizers` library does not load it.
    """
    text = file.read_bytes().decode("utf-8")
    if not text.strip(" \t\r\n\0"):
        raise ValueError("it is empty")
    if file.suffix != ".json":
        return len(text.rstrip("\n").split("\n"))
    if file.name == "tokenizer.json":
        try:
            entries = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise ValueError(str(error)[:200]) from None
        return max(entries.values(), default=-1) + 1
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it is a JSON {type(content).__name__} instead of an object")
    if file.name == "added_tokens.json":
        return max((number for number in content.values() if isinstance(number, int)), default=-1) + 1
    return 0
