"""A model with the weights of a checkpoint: `load(BertForPreTraining, "runs/tiny")`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from conversion import pretrained
from conversion.pretrained import Pretrained
from pt_reference.model import Numerics


def load(
    kind: type[nn.Module],
    path: str | os.PathLike | Pretrained,
    numerics: Numerics | None = None,
    *,
    config: str | os.PathLike | None = None,
    num_labels: int | None = None,
    seed: int = 1,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
    **arguments,
) -> nn.Module:
    """A model of a class of pt_reference.model or .heads, or of one's own, with the weights of a checkpoint.

    What the checkpoint lacks, such as the classifier of a model that was only pre-trained, is initialised at random;
    the logger `pt_reference` names it in a warning.

    Args:
        kind: called with the config, numerics and arguments; it must hold one BertModel.
        path: whatever `conversion` reads: a run's folder, one of Hugging Face, or a file of any format; or what
            `conversion.pretrained.read` gave, for which the arguments of reading it are of no effect.
        config: a config.json or a folder with one, instead of the one beside the checkpoint.
        num_labels: of the classifier, instead of what the config says. seed: of what is initialised at random.
        prefix: take only the tensors whose names begin so, as `query_encoder.`: the one model of several in a file.
        rename: of modules in the file, as `{"fc": "classifier"}`.
        arguments: further ones of the class, as `choices`.

    Raises:
        UserError: it cannot be read, is no BERT, does not fit the config, or there is no config.
    """
    if isinstance(path, Pretrained):
        found, path = path, path.checkpoint.source.path
    else:
        found = pretrained.read(Path(path), None if config is None else Path(config), num_labels, prefix, rename)
    model = kind(found.config, numerics or Numerics(), **arguments)
    fit = found.fit({name: tuple(p.shape) for name, p in model.named_parameters()}, kind.__name__)
    values = {name: torch.from_numpy(value) for name, value in fit.values(seed).items()}
    model.load_state_dict(values, strict=False)  # all parameters are there; buffers of one's own stay
    if told := fit.told():
        logging.getLogger("pt_reference").warning("%s: %s", path, told)
    return model
