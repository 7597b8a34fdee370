"""A model with the weights of a checkpoint: `load(BertForPreTraining, "runs/tiny")`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from mindspore import Tensor, nn

from conversion import pretrained
from conversion.pretrained import Pretrained
from ms_bert.model import Numerics


def load(
    kind: type[nn.Cell],
    path: str | os.PathLike | Pretrained,
    numerics: Numerics | None = None,
    *,
    config: str | os.PathLike | None = None,
    num_labels: int | None = None,
    seed: int = 1,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
    **arguments,
) -> nn.Cell:
    """A model of a class of ms_bert.model or ms_bert.heads, or of one's own, with the weights of a checkpoint.

    What the checkpoint lacks, such as the classifier of a model that was only pre-trained, is initialised at random;
    the logger `ms_bert` names it in a warning.

    Args:
        kind: called with the config, numerics and arguments; it must hold one BertModel.
        path: whatever `conversion` reads: a run's folder, one of Hugging Face, or a file of any format; or what
            `conversion.pretrained.read` gave, for which the arguments of reading it are of no effect.
        numerics: how it computes; None: by MindSpore's own operations on the CPU in float32.
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
    numerics = numerics or Numerics()
    if numerics.operations.instead:
        logging.getLogger("ms_bert").warning("%s: computed by %s", path, numerics.operations.description)
    model = kind(found.config, numerics, **arguments)
    parameters = {parameter.name: parameter for parameter in model.get_parameters()}
    fit = found.fit({name: parameter.shape for name, parameter in parameters.items()}, kind.__name__)
    for name, value in fit.values(seed).items():
        parameters[name].set_data(Tensor(value))
    if told := fit.told():
        logging.getLogger("ms_bert").warning("%s: %s", path, told)
    return model
