"""PyTorch's files of weights (pytorch_model.bin), read as torch.save writes them.

zip      since PyTorch 1.6, members stored and not compressed: NAME/data.pkl, the pickled object, in which a tensor is a
         view of a storage; NAME/data/KEY, the bytes of a storage; and some small ones. TorchScript's archives have
         NAME/constants.pkl too.
legacy   pickles one after another: magic number, version, description of the machine, the object, keys of the storages;
         then of each storage the size and the bytes.

torch.load does the reading, with weights_only=True. Before that the pickle is gone through, without executing it: it
may name nothing but what dense tensors are made of, because torch would build from a few bytes things of any size, and
a hostile file has to end in a sentence. The CRC-32 of each member of a zip is checked here, because torch does not;
torch.serialization.set_crc32_options(False) leaves all of them 0. The legacy format has no checksum.

Sources: in PyTorch's repository torch/serialization.py, torch/_weights_only_unpickler.py and torch/_utils.py, of 2.13.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from conversion.tensors import DTYPES, Tensor, Tensors
from ms_bert.errors import UserError

if TYPE_CHECKING:
    import torch

# Where a dict of tensors is looked for in a dict that is none itself.
WRAPPERS = ("state_dict", "model", "module")

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PICKLES = 5

_GLOBALS = {
    "collections OrderedDict",
    *(f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
    *(f"torch {name}Storage" for name in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()),
    "torch.storage UntypedStorage",
    *(f"torch {name}" for name in DTYPES),  # for _rebuild_tensor_v3: dtypes that have no storage by name
}

# Bounds of what is believed.
_MOST_TUPLES = 40_000  # 4 a tensor; from some 100000 on, the hash of tuples within each other ends the process
_LEAST_LIMIT = 1 << 20
_MOST_REPEATS = 1000  # bytes of an expanded tensor by those of the file

# What unpickling raises when the bytes are damaged: torch has no exception of its own, nor has it checked everything.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)

_READ = ", ".join(DTYPES)
_COPY_AGAIN = "copy or download the file again"
_RESAVE = "save it anew with PyTorch: torch.save(model.state_dict(), NEW)"


class _Damaged(Exception):
    """What was found where, and what was expected; `read` adds the file."""


class _Refused(Exception):
    """Sound or hostile, but not for this reader: why, and what to do."""


def is_bin(path: Path) -> bool:
    """Whether a file is a zip with FOLDER/data.pkl, or begins with the magic number as torch pickles it."""
    try:
        if _magic(path) == _LEGACY_MAGIC:
            return True
        if not _magic(path).startswith(_ZIP_MAGIC):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(_inner(name) == "data.pkl" for name in archive.namelist())
    except _FAULTS:
        return False


def read(path: Path) -> Tensors:
    """The tensors of a file, by name: a dict of them, or one under one of WRAPPERS in a dict.

    Values of the zip format stay in the file, those of the legacy format are read here.

    Raises:
        UserError: there is no such file, it is damaged or no such file, it names anything but dense tensors, it has
            other things than tensors or other dtypes, or PyTorch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} needs PyTorch to be read ({error}); pip install -e '.[torch]'.") from None
    try:
        size, magic = path.stat().st_size, _magic(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; name a file that torch.save wrote.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that torch.save wrote.") from None
    try:
        zipped = magic.startswith(_ZIP_MAGIC)
        if zipped:
            _check_zip(path)
            available = size
        elif magic == _LEGACY_MAGIC:
            available = _check_legacy(path, size)
        else:
            raise _Damaged(f"it begins with {magic[:4]!r}, neither with a zip's {_ZIP_MAGIC!r} nor with a magic number")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they tell is told here, or concerns the writer
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        return {name: _tensor(name, value, available) for name, value in _state(torch, loaded).items()}
    except _Damaged as fault:
        raise UserError(f"{path} is damaged or not what torch.save writes: {fault}; {_COPY_AGAIN}.") from None
    except _Refused as reason:
        raise UserError(f"{path}: {reason}.") from None
    except _FAULTS as error:
        # Not what torch says before the reason: to load the file without weights_only.
        text = (str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [""])[0][:300]
        raise UserError(
            f"{path} is damaged or not what torch.save writes: reading it ends with {type(error).__name__} {text!r}; "
            f"{_COPY_AGAIN}."
        ) from None


# Before torch


def _magic(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(_LEGACY_MAGIC))


def _inner(name: str) -> str:
    """A member's name without the folder, which is named as the file was when it was written."""
    return name.partition("/")[2]


def _check_zip(path: Path) -> None:
    if path.name.endswith(".safetensors"):
        raise _Refused("it is no safetensors file, and torch.load would take it for one by its name; rename it to .bin")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        pickles = [member for member in members if _inner(member.filename) == "data.pkl"]
        if any(_inner(member.filename) == "constants.pkl" for member in members):
            raise _Refused(
                "it is a TorchScript archive, a program with its weights, and only weights are read; save them: "
                "torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW)"
            )
        if len(pickles) != 1 or len({member.filename.lower() for member in members}) != len(members):
            raise _Damaged(
                f"of its {len(members)} members {len(pickles)} are a data.pkl instead of one, or a name is there twice "
                "(PyTorch's reader ignores case)"
            )
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise _Refused(f"{member.filename[:100]!r} in it is compressed, which PyTorch does not do; {_RESAVE}")
        if any(member.CRC for member in members) and (name := archive.testzip()) is not None:
            raise _Damaged(f"{name[:100]!r} in it does not have the checksum that the zip's directory says")
        pickles[0].CRC = None  # checked, or missing; else zipfile would check it here
        with archive.open(pickles[0]) as file:
            _check_pickle(file)


def _check_legacy(path: Path, size: int) -> int:
    """Bytes after the pickles: where no storage is, torch.load gives tensors of what is in memory."""
    with open(path, "rb") as file:
        for number in range(_LEGACY_PICKLES):
            # A storage that says it is larger than the file would be allocated before this is found.
            _check_pickle(file, max(size, _LEAST_LIMIT) if number >= 3 else None)
        return size - file.tell()


def _check_pickle(file: BinaryIO, limit: int | None = None) -> None:
    """Go through a pickle without executing it: its globals, tuples, and integers up to `limit`."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(file):
        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in _GLOBALS:
            found = "something" if argument is None else repr(argument.replace(" ", ".")[:100])
            raise _Refused(
                f"it asks for {found}, and what is read is a dict of dense tensors of {_READ}, made without executing "
                f"anything else; if you trust it, load it with PyTorch and {_RESAVE}"
            )
        if tuples > _MOST_TUPLES:
            raise _Damaged(f"it has more than {_MOST_TUPLES} tuples, and a tensor has 4")
        if limit is not None and isinstance(argument, int) and argument > limit:
            raise _Damaged(f"it has the number {argument}, and the file {limit} bytes at most")


# After torch


def _state(torch, loaded: object) -> dict[str, torch.Tensor]:
    """The dict of tensors."""
    if not isinstance(loaded, dict):
        raise _Refused(f"it has a {_kind(loaded)} instead of a dict of tensors; {_RESAVE}")
    # dict.items, because a hostile file can give an OrderedDict attributes that hide its methods.
    entries = dict(dict.items(loaded))
    found = [name for name in WRAPPERS if isinstance(entries.get(name), dict)]
    if len(found) > 1:
        raise _Refused(f"it has dicts under {' and '.join(map(repr, found))}, and one is expected; {_RESAVE}")
    if found:
        entries = dict(dict.items(entries[found[0]]))
    # Exactly these: a subclass may have values that are no view of a storage.
    plain = (torch.Tensor, torch.nn.Parameter)
    others = [(name, value) for name, value in entries.items() if type(name) is not str or type(value) not in plain]
    if others or not entries:
        listed = ", ".join(f"{str(name)[:100]!r} ({_kind(value)})" for name, value in others[:5])
        raise _Refused(
            f"{f'under {found[0]!r} ' if found else ''}it has {len(entries)} entries, of which {len(others)} are no "
            f"tensor with a name{f': {listed}' if others else ''}{' and more' if len(others) > 5 else ''}; expected is "
            f"a dict of names and tensors, or one under {', '.join(map(repr, WRAPPERS))}; {_RESAVE}"
        )
    return entries


def _kind(value: object) -> str:
    return type(value).__name__


def _tensor(name: str, value: torch.Tensor, available: int) -> Tensor:
    dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None:
        raise _Refused(
            f"{name[:100]!r} is of {value.dtype}, and what is read is {_READ}; cast it or leave it out and {_RESAVE}"
        )
    value, shape = value.detach(), tuple(value.shape)
    # That sizes, strides and offset stay within the storage is what torch checks.
    if (stored := value.untyped_storage().nbytes()) > available:
        raise _Damaged(f"{name[:100]!r} has a storage of {stored} bytes where the file has {available}")
    if value.numel() * dtype.itemsize > _MOST_REPEATS * available:
        raise _Refused(f"{name[:100]!r} of shape {shape} repeats few values too often for a weight; {_RESAVE}")
    return Tensor(dtype, shape, lambda: _values(value, dtype))


def _values(value: torch.Tensor, dtype: np.dtype) -> np.ndarray:
    """A copy: what is done with it leaves the other views of its storage, and the next read, as they are."""
    import torch

    value = value.clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bfloat16:
        value = value.view(torch.int16)  # NumPy itself has none
    return value.numpy().view(dtype)
