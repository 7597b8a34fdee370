"""The folder of a sentence-transformers model: what it does with a text before and after its BERT.

Written by any version of the library up to 6: the paths of its classes have changed, their names have not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conversion.companions import LENGTHS, MODULES, SETTINGS
from conversion.formats import safetensors_file, torch_bin
from ms_bert.data import tokenizer
from ms_bert.errors import UserError, listed, shown
from ms_bert.tasks.embedding import ACTIVATIONS, STRATEGIES, Dense, Normalize, Step, Truncate

_VECTOR = "sentence_embedding"  # that of a text, among what modules hand on

# How a config of Pooling says its strategies since version 6, and before: in this order if there are several.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder says.

    Attributes:
        model: where its BERT lies. longest: tokens of a text; None: as many as the model takes.
        lowercase: whether texts are, whatever the tokenizer does.
        strategies: see `ms_bert.tasks.embedding.Pooling`. steps: what follows the pooling.
        prompts: by name, what is put before a text. prompt: the name of the one that is used where nobody says, or
            None. prompt_counts: whether the tokens of a prompt are pooled.
    """

    model: Path
    longest: int | None
    lowercase: bool
    strategies: tuple[str, ...]
    steps: tuple[Step, ...]
    prompts: dict[str, str]
    prompt: str | None
    prompt_counts: bool


def is_one(path: Path) -> bool:
    """Whether a path is such a folder."""
    return path.is_dir() and (path / MODULES).is_file()


def read(path: Path) -> Folder:
    """What the folder says.

    Raises:
        UserError: a file is missing or damaged, or the model is made of what is not known here.
    """
    listing = _json(path / MODULES, list)
    try:
        modules = [(str(module["type"]), path / module["path"]) for module in listing]
    except (KeyError, TypeError):
        raise UserError(f"{path / MODULES} is damaged (no type or no path); fetch the folder again.") from None
    kinds = [kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UserError(
            f"{path} is a model of {listed(kinds)}; expected Transformer, Pooling and what may follow them."
        )
    model, pooling = modules[0][1], _json(modules[1][1] / "config.json", dict)
    steps = []
    for kind, (_, place) in list(zip(kinds, modules))[2:]:
        if kind not in _STEPS:
            raise UserError(f"{path} has the module {shown(kind)}, which is not known here; only {listed(_STEPS)} are.")
        _check_names(place)
        steps += _STEPS[kind](place)
    settings = _json(path / SETTINGS, dict) if (path / SETTINGS).exists() else {}
    width = settings.get("truncate_dim")
    if width is not None:
        if type(width) is not int or width < 1:
            raise UserError(f"{path / SETTINGS}: truncate_dim is {shown(width)}; expected a whole number from 1.")
        steps.append(Truncate(width))
    described: dict[str, Any] = next((_json(model / name, dict) for name in LENGTHS if (model / name).exists()), {})
    longest = described.get("max_seq_length") or tokenizer.longest_of(model)  # newer versions leave it to that
    return Folder(
        model,
        longest if isinstance(longest, int) else None,
        described.get("do_lower_case") is True,
        _strategies(modules[1][1] / "config.json", pooling),
        tuple(steps),
        {name: text for name, text in (settings.get("prompts") or {}).items() if isinstance(text, str)},
        settings.get("default_prompt_name"),
        pooling.get("include_prompt") is not False,
    )


def _check_names(place: Path) -> None:
    """Raise UserError unless a module changes the vector of the text, and nothing else."""
    config = _json(place / "config.json", dict) if (place / "config.json").exists() else {}
    for role in ("module_input_name", "module_output_name"):
        if (name := config.get(role)) not in (None, _VECTOR):
            raise UserError(f"{place} has {shown(name)} as its {role}; only {_VECTOR} is supported.")


def _strategies(path: Path, pooling: dict[str, Any]) -> tuple[str, ...]:
    said = pooling.get("pooling_mode") or [name for flag, name in _FLAGS.items() if pooling.get(flag)] or "mean"
    names = (said,) if isinstance(said, str) else tuple(said)
    if unknown := [name for name in names if name not in STRATEGIES]:
        raise UserError(f"{path} asks for the pooling {shown(unknown[0])}; expected one of {listed(STRATEGIES)}.")
    return names


def _dense(place: Path) -> list[Step]:
    config = _json(place / "config.json", dict)
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if name not in ACTIVATIONS:
        raise UserError(f"{place} has the activation {shown(name)}; expected one of {listed(ACTIVATIONS)}.")
    found = {"model.safetensors": safetensors_file.read, "pytorch_model.bin": torch_bin.read}
    path, read = next(
        ((place / file, read) for file, read in found.items() if (place / file).exists()),
        (place / "model.safetensors", safetensors_file.read),
    )
    values = {name: tensor.read().astype(np.float64) for name, tensor in read(path).items()}
    residual = None
    if config.get("use_residual") is True:
        width = values["linear.weight"].shape[1] if "linear.weight" in values else 0
        residual = values.get("residual.weight", np.eye(width))
    if "linear.weight" not in values:
        raise UserError(f"{path} has no linear.weight; fetch the folder again.")
    weight = values["linear.weight"]
    return [Dense(weight, values.get("linear.bias", np.zeros(len(weight))), ACTIVATIONS[name], residual)]


# What may follow the pooling. A folder of Normalize may be missing, for git keeps no empty folders.
_STEPS: dict[str, Callable[[Path], list[Step]]] = {
    "Dense": _dense,
    "Normalize": lambda place: [Normalize()],
    "Dropout": lambda place: [],
}


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no {path}, which the folder's {MODULES} asks for; fetch the folder again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch the folder again.") from None
    if not isinstance(found, kind):
        raise UserError(f"{path} holds {shown(found)}; expected a JSON {'array' if kind is list else 'object'}.")
    return found
