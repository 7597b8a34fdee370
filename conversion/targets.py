"""What a checkpoint can be written as: the kinds of targets, and which one a path asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ms_bert.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of target.

    Attributes:
        container: 'folder', 'file' (.safetensors, MindSpore's .ckpt, or PyTorch's .bin or .pt by its ending),
            'tensorflow', 'onnx' or 'mindir'.
        family: of names. help: what it is. endings: of which the name must have one; () for any name.
        under: the key of the weights in a PyTorch file; '' where they are all of it.
    """

    container: str
    family: str
    help: str
    endings: tuple[str, ...] = ()
    under: str = ""


_MINDSPORE = (".ckpt", ".safetensors")
_PYTORCH = (".bin", ".pt", ".safetensors")

TARGETS: dict[str, Target] = {
    "hugging-face": Target("folder", "hugging-face", "a folder: config.json, model.safetensors; also a run's folder"),
    "safetensors": Target("file", "hugging-face", "one .safetensors by Hugging Face's names", (".safetensors",)),
    "hugging-face-old": Target(
        "file", "hugging-face-old", "one .safetensors with LayerNorm's gamma and beta", (".safetensors",)
    ),
    "ms_bert": Target("file", "hugging-face", ".ckpt or .safetensors as ms_bert's cells name them", _MINDSPORE),
    "mindspore": Target(
        "file", "mindspore", "the same as cells of mindspore.nn name them: Dense, Embedding, LayerNorm", _MINDSPORE
    ),
    "mindnlp": Target("file", "mindnlp", ".ckpt or .safetensors as mindnlp names them since 0.2", _MINDSPORE),
    "mindnlp-0.1": Target("file", "mindnlp-0.1", ".ckpt or .safetensors as mindnlp 0.1 names them", _MINDSPORE),
    "mindspore-models": Target("file", "mindspore-models", ".ckpt as mindspore-ai/models' BERT names them", _MINDSPORE),
    "mindspore-models-old": Target("file", "mindspore-models-old", "the same before MindSpore 1.2", _MINDSPORE),
    "nvidia": Target(
        "file", "nvidia", ".pt, .bin or .safetensors as NVIDIA's DeepLearningExamples names them", _PYTORCH, "model"
    ),
    "uer": Target("file", "uer", ".bin, .pt or .safetensors as UER-py and TencentPretrain name them", _PYTORCH),
    "uer-old": Target("file", "uer-old", "the same before July 2023", _PYTORCH),
    "tensorflow": Target("tensorflow", "tensorflow", "Google's TensorFlow 1 checkpoint, PREFIX.index and .data"),
    "onnx": Target("onnx", "hugging-face", "a graph with dynamic batch and sequence axes", (".onnx",)),
    "mindir": Target(
        "mindir",
        "hugging-face",
        "MindSpore's graph of a fixed shape; inputs: input_ids, attention_mask, token_type_ids",
        (".mindir",),
    ),
}

_ENDINGS = {
    ".ckpt.index": "tensorflow",
    ".safetensors": "safetensors",
    ".ckpt": "ms_bert",
    ".onnx": "onnx",
    ".mindir": "mindir",
}
_NOT_WRITTEN = (".bin", ".pt", ".pth", ".pkl", ".h5", ".pb", ".npz", ".msgpack", ".json", ".index")


def target_of(path: Path, kind: str | None) -> tuple[str, Path]:
    """The kind of target that a path asks for, and the path without what only says the kind.

    Raises:
        UserError: the ending says none, or not the one that was asked for.
    """
    if kind is None:
        for ending, known in _ENDINGS.items():
            if path.name.endswith(ending):
                kind = known
                break
        else:
            if path.suffix in _NOT_WRITTEN:
                raise UserError(f"{path}: {path.suffix} files are not written; write .safetensors, or name a folder.")
            kind = "hugging-face"
    if path.name in ("", ".."):
        raise UserError(f"{path} names no target but a folder that is there; add a name to it.")
    wanted = TARGETS[kind].endings
    if wanted and path.suffix not in wanted:
        raise UserError(f"{path}: the name of a {kind} target must end in {' or '.join(wanted)}.")
    if TARGETS[kind].container == "tensorflow":
        path = path.with_name(path.name.removesuffix(".index"))
    return kind, path
