"""File formats: a module or package each, its reader and its writer side by side, and the table of them.

A format's module has these functions, or as many of them as the format is good for:

    recognises(path) -> bool               whether a file is of this format, by its content where that says it
    read(path) -> Tensors                  by the file's own names; values stay there until they are asked for
    write(path, tensors, ...) -> notes     what `read` reads, a tensor at a time; notes are sentences for the user

`read` and `write` raise a UserError whose one sentence names the file and says what to do. What a conversion writes is
read back by `read` and compared byte for byte; a graph may have no reader, or none for all that is written, and its
`write` checks itself what it wrote. To add a format is to write such a module and its row here, and to say in
`conversion.targets` which kinds of target are written in it. What they are made of stands beside them: protobuf's
wire format, LevelDB's tables, pickles, and what is found wrong with a file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

from conversion.formats import mindir, mindspore_ckpt, onnx_graph, safetensors_file, tensorflow_bundle, torch_bin


@dataclasses.dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        name: what it is called where a checkpoint is told of.
        module: what reads and writes it.
        endings: of the names of its files: by these it is found in a folder, and chosen for a target.
        usual: names by which tools know a file of it in a folder, the one that is preferred first.
        files: patterns of the files of a checkpoint, {} for its name; first the one that makes it a checkpoint.
        takes: what `write` takes by name besides path and tensors: `config` and `architecture` of the model, `metadata`
            and `under` of the kind of target; else options of the command, which no other format takes.
        target: the kind of target that an ending asks for by itself; '' where --to must say it.
        graph: whether it is a graph that computes, by canonical names; only such a one can do without a reader.
    """

    name: str
    module: ModuleType
    endings: tuple[str, ...]
    usual: tuple[str, ...] = ()
    files: tuple[str, ...] = ("{}",)
    takes: tuple[str, ...] = ()
    target: str = ""
    graph: bool = False

    @property
    def is_read(self) -> bool:
        """Whether there is a reader."""
        return hasattr(self.module, "read")

    @property
    def is_prefix(self) -> bool:
        """Whether a checkpoint's name is only what those of its files begin with."""
        return "{}" not in self.files

    def main_file(self, path: Path) -> Path:
        """The file that makes a checkpoint of this name one."""
        return path.with_name(self.files[0].format(path.name))


# In the order in which a file is tried.
FORMATS: dict[str, Format] = {
    "safetensors": Format(
        "safetensors",
        safetensors_file,
        (".safetensors",),
        usual=("model.safetensors", "model.safetensors.index.json"),
        takes=("metadata",),
        target="safetensors",
    ),
    "torch": Format(
        "PyTorch",
        torch_bin,
        (".bin", ".pt", ".pth"),
        usual=("pytorch_model.bin", "pytorch_model.bin.index.json"),
        takes=("under",),
    ),
    "onnx": Format(
        "ONNX",
        onnx_graph,
        (".onnx",),
        files=("{}", "{}.data"),
        takes=("config", "architecture", "optimize"),
        target="onnx",
        graph=True,
    ),
    "ckpt": Format(
        "MindSpore .ckpt",
        mindspore_ckpt,
        (".ckpt",),
        usual=("mindspore.ckpt", "mindspore_model.ckpt"),
        target="ms_bert",
    ),
    "tensorflow": Format(
        "TensorFlow",
        tensorflow_bundle,
        (".index",),
        files=("{}.index", "{}.data-*"),
        target="tensorflow",
    ),
    "mindir": Format(
        "MindIR",
        mindir,
        (".mindir",),
        takes=("config", "architecture", "batch_size", "seq_length"),
        target="mindir",
        graph=True,
    ),
}
