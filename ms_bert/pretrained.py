"""A model with the weights of a folder: `load(BertForPreTraining, "runs/tiny")`."""

from __future__ import annotations

import os
from pathlib import Path

from mindspore import Tensor, nn

from ms_bert.config import BertConfig
from ms_bert.fused import fuse
from ms_bert.model import Numerics
from ms_bert.run.checkpoints import load_weights


def load(
    kind: type[nn.Cell],
    folder: str | os.PathLike,
    numerics: Numerics | None = None,
    fused: bool = False,
    inference: bool = False,
    **arguments,
) -> nn.Cell:
    """A model of a class of ms_bert.model or ms_bert.heads, from config.json and model.safetensors of a folder.

    Args:
        fused: let its sublayers compute by fused operations, see `ms_bert.fused`; CPU, float32. inference: whole
        layers, without gradients and intermediates.
        arguments: further ones of the class, as `choices`.

    Raises:
        UserError: the folder holds no such model; every weight must be there, and none too many.
    """
    model = kind(BertConfig.from_json(folder), numerics or Numerics(), **arguments)
    parameters = {parameter.name: parameter for parameter in model.get_parameters()}
    weights = load_weights(Path(folder), {name: tuple(p.shape) for name, p in parameters.items()})
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(weights[name]))
    return fuse(model, inference) if fused or inference else model
