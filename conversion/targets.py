"""What a checkpoint can be written as: the kinds of targets, and which one a path asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from conversion import configs
from conversion.formats import FORMATS, Format
from ms_bert.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of target.

    Attributes:
        formats: keys of FORMATS, of which the name's ending chooses; () for Hugging Face's folder.
        family: of names. help: what it is.
        without_moments: where there is no place for the optimizer's state; '' where there is one, if the family has.
        config: the file that says the config beside it.
        native: whether MindSpore's own mark is in its .safetensors: mindnlp and transformers refuse it, and MindSpore
            reads any. under: the key of the weights in a PyTorch file; '' where they are all of it.
    """

    formats: tuple[str, ...]
    family: str
    help: str
    without_moments: str = ""
    config: str = configs.HUGGING_FACE
    native: bool = False
    under: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is Hugging Face's folder."""
        return not self.formats

    @property
    def endings(self) -> tuple[str, ...]:
        """Of which its name must have one; () for any name."""
        formats = [FORMATS[key] for key in self.formats]
        return tuple(ending for format in formats if not format.is_prefix for ending in format.endings)

    def format_of(self, path: Path) -> Format:
        """The format of a target that is no folder."""
        formats = [FORMATS[key] for key in self.formats]
        return next((format for format in formats if path.suffix in format.endings), formats[0])

    @property
    def options(self) -> set[str]:
        """The options of the command that say something to this kind of target alone."""
        return {"shard_size"} if self.is_folder else {name for key in self.formats for name in FORMATS[key].takes}


_MINDSPORE, _PYTORCH = ("ckpt", "safetensors"), ("torch", "safetensors")
_FOR_TRANSFORMERS, _GRAPH = "in a single file for transformers", "in a graph"

TARGETS: dict[str, Target] = {
    "hugging-face": Target((), "hugging-face", "a folder: config.json, model.safetensors; also a run's folder"),
    "safetensors": Target(
        ("safetensors",), "hugging-face", "one .safetensors file with Hugging Face's names", _FOR_TRANSFORMERS
    ),
    "hugging-face-old": Target(
        ("safetensors",), "hugging-face-old", "the same with LayerNorm's gamma and beta", _FOR_TRANSFORMERS
    ),
    "ms_bert": Target(_MINDSPORE, "hugging-face", ".ckpt or .safetensors as ms_bert's cells name them", native=True),
    "mindspore": Target(
        _MINDSPORE,
        "mindspore",
        "the same as cells of mindspore.nn name them: Dense, Embedding, LayerNorm",
        native=True,
    ),
    "mindnlp": Target(_MINDSPORE, "mindnlp", ".ckpt or .safetensors as mindnlp names them since 0.2"),
    "mindnlp-0.1": Target(_MINDSPORE, "mindnlp-0.1", ".ckpt or .safetensors as mindnlp 0.1 names them"),
    "mindspore-models": Target(
        _MINDSPORE, "mindspore-models", ".ckpt as mindspore-ai/models' BERT names them", native=True
    ),
    "mindspore-models-old": Target(_MINDSPORE, "mindspore-models-old", "the same before MindSpore 1.2", native=True),
    "nvidia": Target(
        _PYTORCH, "nvidia", ".pt, .bin or .safetensors as NVIDIA's DeepLearningExamples names them", under="model"
    ),
    "uer": Target(_PYTORCH, "uer", ".bin, .pt or .safetensors as UER-py and TencentPretrain name them"),
    "uer-old": Target(_PYTORCH, "uer-old", "the same before July 2023"),
    "tensorflow": Target(
        ("tensorflow",),
        "tensorflow",
        "Google's TensorFlow 1 checkpoint, PREFIX.index and .data",
        config=configs.GOOGLE,
    ),
    "onnx": Target(("onnx",), "hugging-face", "a graph with dynamic batch and sequence axes", _GRAPH),
    "mindir": Target(
        ("mindir",),
        "hugging-face",
        "MindSpore's graph of a fixed shape; inputs: input_ids, attention_mask, token_type_ids",
        _GRAPH,
    ),
}

# Endings of files that nobody means a folder by.
_NOT_WRITTEN = (".pkl", ".h5", ".pb", ".npz", ".msgpack", ".json")


def target_of(path: Path, kind: str | None) -> tuple[str, Path]:
    """The kind of target that a path asks for, and the path without what only says the kind.

    Raises:
        UserError: the ending says none, or not the one that was asked for.
    """
    if kind is None:
        format = next((format for format in FORMATS.values() if path.suffix in format.endings), None)
        if not format.target if format else path.suffix in _NOT_WRITTEN:
            raise UserError(
                f"{path}: no target has the ending {path.suffix} by default; choose .safetensors, or name a folder."
            )
        kind = format.target if format else "hugging-face"
    target = TARGETS[kind]
    is_prefix = not target.is_folder and target.format_of(path).is_prefix
    name = path.name.removesuffix(".index") if is_prefix else path.name
    if name in ("", ".."):
        raise UserError(f"{path} is an existing folder without a name for the target; add a name to the path.")
    if target.endings and path.suffix not in target.endings:
        raise UserError(f"{path}: the name of a {kind} target must end in {' or '.join(target.endings)}.")
    return kind, path.with_name(name)
