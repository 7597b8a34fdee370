"""The weights of a model from a checkpoint of any format: what it lacks is initialised at random and reported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from conversion import checkpoint
from conversion.checkpoint import Checkpoint
from conversion.parameters import ARCHITECTURES, BACKBONE, MODULES, parameters, shapes
from conversion.tensors import Tensor, Tensors
from ms_bert.config import BertConfig, default_labels
from ms_bert.errors import UserError, listed
from ms_bert.randomness import initial_weights

_EMBEDDINGS = "embeddings.word_embeddings.weight"  # how a model's prefix of what is below the heads is found
_OF_LAYER = re.compile(r"(bert\.encoder\.layer\.)(\d+)(\..+)")  # canonical names; the number of the layer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint to begin from.

    Attributes:
        checkpoint: whole below the heads, with any heads. config: of the model to be made.
    """

    checkpoint: Checkpoint
    config: BertConfig

    def fit(self, shapes: Mapping[str, tuple[int, ...]], kind: str | None = None, same_labels: bool = True) -> Fit:
        """Which tensors a model takes.

        Args:
            shapes: of the model's parameters, by its own names: below the heads Hugging Face's, with any prefix before
                `embeddings.` and `encoder.`; what else it has may be called anything.
            kind: name of the model's class: a classifier is taken from a checkpoint of the same class only.
            same_labels: whether the model's labels are those of the checkpoint, so that a classifier means the same.

        Raises:
            UserError: a tensor of the checkpoint has another shape than the model's.
        """
        canonical, theirs = self._canonical(shapes), self.checkpoint.weights
        module_of = {name: MODULES[module] for name, (module, _) in self._parameters().items()}
        of_labels = {name for name, module in module_of.items() if "N" in module.shape}
        both = {self.checkpoint.architecture, kind}
        other_task = not same_labels or (len(both) > 1 and both <= set(ARCHITECTURES))
        taken: dict[str, Tensor] = {}
        unfit: list[str] = []
        for name, shape in shapes.items():
            tensor = theirs.get(canonical[name])
            if tensor is None or (canonical[name] in of_labels and (other_task or tensor.shape != tuple(shape))):
                continue
            taken[name] = tensor
            if tensor.shape != tuple(shape):
                unfit.append(f"{name} is {tensor.shape} instead of {tuple(shape)}")
        if unfit:
            more = f" and {len(unfit) - 3} more" if len(unfit) > 3 else ""
            raise UserError(
                f"{self.checkpoint.source.path} does not fit this model: {'; '.join(unfit[:3])}{more}; use the "
                "config that belongs to it."
            )
        own = (name for name in shapes if name not in taken)
        drawn = [module_of[canonical[name]].part if canonical[name] in module_of else name for name in own]
        used = {canonical[name] for name in taken}
        unused = [module_of[name].part for name in theirs if name not in used]
        return Fit(self.config, dict(shapes), taken, tuple(dict.fromkeys(drawn)), tuple(dict.fromkeys(unused)))

    def of_parts(self, parts: Iterable[str], kind: str) -> Fit:
        """Which tensors a model of these parts besides the backbone takes, by their canonical names; see `fit`."""
        return self.fit(shapes(self.config, (*BACKBONE, *parts), kind), kind)

    def first_layers(self, count: int) -> Pretrained:
        """The same of a model with its first `count` layers only, at least 1: their hidden states are the same."""
        return self.with_layers(range(count))

    def with_layers(self, layers: Sequence[int]) -> Pretrained:
        """The same of a model that is made of some of its encoder layers, in this order.

        Args:
            layers: at least one, numbered from 0, none of them twice.
        """
        config = self.config.replace(num_hidden_layers=len(layers))
        places = {layer: place for place, layer in enumerate(layers)}
        weights: dict[str, Tensor] = {}
        for name, tensor in self.checkpoint.weights.items():
            layer = _OF_LAYER.match(name)
            if layer is None:
                weights[name] = tensor
            elif int(layer[2]) in places:
                weights[f"{layer[1]}{places[int(layer[2])]}{layer[3]}"] = tensor
        return Pretrained(dataclasses.replace(self.checkpoint, weights=weights, config=config), config)

    def _parameters(self) -> dict[str, tuple[str, str]]:
        return parameters(self.config.num_hidden_layers)

    def _canonical(self, names: Iterable[str]) -> dict[str, str]:
        """The canonical name of each of a model's parameters, where it has one."""
        prefixes = [name.removesuffix(_EMBEDDINGS) for name in names if name.endswith(_EMBEDDINGS)]
        if len(prefixes) != 1:
            raise UserError(
                f"the model holds {len(prefixes)} BertModels; it must hold exactly one to take a checkpoint's weights."
            )
        known = self._parameters()
        own = {name: f"bert.{name.removeprefix(prefixes[0])}" for name in names}
        return {name: canonical if canonical in known else name for name, canonical in own.items()}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a model takes of a checkpoint.

    Attributes:
        drawn: what the checkpoint lacks: parts of a BERT, or names of other parameters. unused: parts of the checkpoint
        that the model has no place for. asked: what is initialised at random although the checkpoint has it.
    """

    config: BertConfig
    shapes: dict[str, tuple[int, ...]]
    taken: Tensors
    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    asked: str = ""

    def without(self, initialized: Callable[[str], bool], told: str) -> Fit:
        """The same, but some parameters are initialised at random although the checkpoint has them.

        Args:
            initialized: by name. told: what they are, in words.
        """
        taken = {name: tensor for name, tensor in self.taken.items() if not initialized(name)}
        return dataclasses.replace(self, taken=taken, asked=told)

    def values(self, seed: int, truncated: bool = False) -> dict[str, np.ndarray]:
        """A value for every parameter, float32; what the checkpoint lacks as `ms_bert.model.initialize` draws it."""
        return {
            name: self.taken[name].read().astype(np.float32)
            if name in self.taken
            else initial_weights(name, tuple(shape), self.config.initializer_range, seed, truncated)
            for name, shape in self.shapes.items()
        }

    def told(self) -> str | None:
        """What was initialised at random, and what was not used then, in a sentence; None if nothing was."""
        told = []
        other = [part for part in self.drawn if part in self.unused]
        lacked = [part for part in self.drawn if part not in other]
        unused = [part for part in self.unused if part not in other]
        if lacked:
            told.append(f"initialised at random, because the checkpoint lacks them: {listed(lacked)}")
        if other:
            told.append(
                "initialised at random, because the checkpoint has them for other labels or another task: "
                f"{listed(other)}"
            )
        if told and unused:
            told.append(f"not used: {listed(unused)}")
        if self.asked:
            told.append(f"initialised at random, as asked: {self.asked}")
        return "; ".join(told) or None


def read(
    path: Path,
    config: Path | None = None,
    num_labels: int | None = None,
    prefix: str = "",
    rename: Mapping[str, str] | None = None,
) -> Pretrained:
    """A checkpoint to begin from, of any format that `conversion` reads, with the config beside it.

    Args:
        config: a config file, or a folder with one, instead of the one beside the checkpoint.
        num_labels: of the model to be made, instead of what the config says.
        prefix, rename: of the names in the file, see `conversion.checkpoint.read`.

    Raises:
        UserError: it cannot be read, it is no BERT, there is no config, or num_labels is not positive.
    """
    found = checkpoint.read(path, config=config, any_heads=True, prefix=prefix, rename=rename)
    if found.config is None:
        raise UserError(f"no config was found beside {found.source.path}; name the model's config.json.")
    made = found.config
    if num_labels is not None and num_labels < 1:
        raise UserError(f"num_labels is {num_labels}; a classifier needs at least 1.")
    if num_labels is not None and num_labels != made.num_labels:
        made = made.replace(id2label=default_labels(num_labels), label2id=None)
    return Pretrained(found, made)
