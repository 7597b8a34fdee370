"""A model with the weights of a folder: `load(BertForPreTraining, "runs/tiny")`."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from ms_bert.config import BertConfig
from ms_bert.run.checkpoints import load_weights
from pt_reference.model import Numerics


def load(kind: type[nn.Module], folder: str | os.PathLike, numerics: Numerics | None = None, **arguments) -> nn.Module:
    """A model of a class of pt_reference.model or .heads, from config.json and model.safetensors of a folder.

    Args:
        arguments: further ones of the class, as `choices`.

    Raises:
        UserError: the folder holds no such model; every weight must be there, and none too many.
    """
    model = kind(BertConfig.from_json(folder), numerics or Numerics(), **arguments)
    weights = load_weights(Path(folder), {name: tuple(p.shape) for name, p in model.named_parameters()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model
