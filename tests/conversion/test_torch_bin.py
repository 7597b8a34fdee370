"""PyTorch's files of weights: any tensors are read to the byte, nothing in them is executed, damage is told."""

import argparse
import builtins
import io
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import tracemalloc
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from conversion.formats import torch_bin
from conversion.tensors import DTYPES, Tensor, same_bytes
from ms_bert.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*left out what is not a weight")

NANS = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x3F800000, 0x00000001, 0xFF800000], np.uint32)
BFLOAT16_NANS = np.array([0x7FC1, 0xFF81, 0x8000], np.uint16)
FORMS = ("zip", "legacy")
LEGACY_HEAD = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]


def save(path: Path, thing: object, form: str = "zip") -> Path:
    torch.save(thing, path, _use_new_zipfile_serialization=form == "zip")
    return path


def save_pickle(path: Path, content: bytes, form: str = "zip", **members) -> Path:
    """A file whose object is this pickle."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {"data.pkl": content, "byteorder": b"little", "version": b"3\n", **members}.items():
                archive.writestr(f"archive/{name}", data)
    else:
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in LEGACY_HEAD) + content + pickle.dumps([], 2))
    return path


def assert_holds(path: Path, values: dict[str, np.ndarray]) -> None:
    tensors = torch_bin.read(path)
    assert list(tensors) == list(values)
    for name, array in values.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        read = tensors[name].read()
        assert same_bytes(read, array) and read.flags.c_contiguous, name


def refusal(path: Path) -> str:
    """What the user is told; one line that names the file and ends as a sentence does."""
    with pytest.raises(UserError) as caught:
        for tensor in torch_bin.read(path).values():
            tensor.read()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".") and len(message) < 1500
    return message


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


@pytest.fixture
def no_checksums():
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


# What torch.save writes


# PyTorch itself does not read its newer dtypes from its legacy format.
READ = [
    (form, name) for form in FORMS for name in DTYPES if form == "zip" or name not in ("uint16", "uint32", "uint64")
]


@pytest.mark.parametrize("form, name", READ)
def test_every_dtype_is_read(path, form, name):
    array = np.arange(6).reshape(2, 3).astype(DTYPES[name])
    assert_holds(save(path, {"w": torch.tensor(array.tolist(), dtype=getattr(torch, name))}, form), {"w": array})
    assert torch_bin.recognises(path)


def test_values_are_those_of_the_file_to_the_byte(path, form):
    bfloat16 = BFLOAT16_NANS.view(ml_dtypes.bfloat16)
    tensors = {
        "f": torch.from_numpy(NANS.copy().view(np.float32)),
        "b": torch.from_numpy(BFLOAT16_NANS.view(np.int16).copy()).view(torch.bfloat16),
        "scalar": torch.tensor(-0.0, dtype=torch.bfloat16),
        "empty": torch.zeros(2, 0, 3),
    }
    expected = {
        "f": NANS.view(np.float32),
        "b": bfloat16,
        "scalar": bfloat16[2].reshape(()),
        "empty": np.zeros((2, 0, 3), np.float32),
    }
    assert_holds(save(path, tensors, form), expected)


def test_views_and_parameters_are_read_as_what_they_show(path, form):
    a = torch.arange(24.0).reshape(4, 6)
    views = OrderedDict(
        whole=a,
        transposed=a.t(),
        part=a[1:3, 2:5],
        every_second=a.view(-1)[1::2],
        expanded=a[:1, :1].expand(3, 2),
        parameter=torch.nn.Parameter(a[2]),
        of_parameter=torch.nn.Parameter(a).detach().t(),
        negative=torch.view_as_complex(a.reshape(-1, 2)).conj().imag,
        scalar=a[1, 1],
    )
    views._metadata = {"": {"version": 1}}
    assert_holds(save(path, views, form), {name: view.detach().resolve_neg().numpy() for name, view in views.items()})


def test_module_with_tied_weights_is_read(path, form):
    module = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    module[1].weight = module[0].weight
    state = module.state_dict()
    assert_holds(save(path, state, form), {name: tensor.numpy() for name, tensor in state.items()})


@pytest.mark.parametrize("wrapper", torch_bin.WRAPPERS)
def test_dict_in_a_dict_is_found_where_declared(path, form, wrapper):
    checkpoint = {"epoch": 3, wrapper: {"w": torch.ones(2)}, "optimizer": {"state": {0: {"step": 2}}}, "note": "x"}
    assert_holds(save(path, checkpoint, form), {"w": np.ones(2, np.float32)})


def test_what_is_done_with_values_leaves_the_others_and_the_file(path, form):
    w = torch.zeros(3)
    save(path, {"a": w, "b": w[1:]}, form)
    tensors, content = torch_bin.read(path), path.read_bytes()
    tensors["a"].read()[:] = 7
    assert not tensors["a"].read().any() and not tensors["b"].read().any() and path.read_bytes() == content


@pytest.mark.usefixtures("no_checksums")
def test_zip_without_checksums_is_read(path):
    assert_holds(save(path, {"w": torch.ones(2)}), {"w": np.ones(2, np.float32)})


def test_opening_reads_no_values_of_a_zip(path):
    """Nor does reading them take more than the tensor: the bytes are shown by the kernel's cache."""
    size = 8 << 20
    save(path, {f"w{i}": torch.full((size,), i, dtype=torch.uint8).view(2, -1).t() for i in range(6)})
    tracemalloc.start()
    tensors = torch_bin.read(path)
    assert tracemalloc.get_traced_memory()[1] < size // 2
    tracemalloc.stop()
    for i, tensor in enumerate(tensors.values()):
        assert tensor.read()[-1, -1] == i


# Files of other kinds


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensor_is_refused(path, form):
    save(path, {"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, form)
    assert "QInt8Storage" in refusal(path) or "_rebuild_qtensor" in refusal(path)


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.ones(3, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
    ],
    ids=["sparse", "complex", "float8", "meta"],
)
def test_what_is_no_plain_tensor_is_refused_by_name(path, tensor, named):
    save(path, {"w": torch.ones(2), "x": tensor})
    assert named in refusal(path)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (torch.ones(2), "a Tensor instead of a dict"),
        ([torch.ones(2)], "a list instead of a dict"),
        ({}, "has 0 entries"),
        ({"w": torch.ones(2), "epoch": 3, "x": None}, "'epoch' (int), 'x' (NoneType)"),
        ({"w": torch.ones(2), 5: torch.ones(2)}, "'5' (Tensor)"),
        ({"a": {"w": torch.ones(2)}, "b": {"w": torch.ones(2)}}, "dicts under 'a' and 'b'"),
        ({"model": {"w": torch.ones(2), "n": 1}}, "under 'model' it has 2 entries, of which 1 are not named tensors"),
        ({"model": {"w": torch.ones(2)}, "state_dict": {"w": torch.ones(2)}}, "'state_dict' and 'model'"),
        ({"x": {"y": {"w": torch.ones(2)}}}, "'x' (dict)"),
    ],
    ids=str,
)
def test_what_is_no_dict_of_tensors_is_refused(path, form, thing, expected):
    assert expected in refusal(save(path, thing, form))


def test_torchscript_is_refused_and_the_way_out_works(path, tmp_path):
    module = torch.nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.ones(1, 2)).save(str(path))
        assert torch_bin.recognises(path)
        message = refusal(path)
        assert "a TorchScript archive" in message
        eval(message.partition("save them: ")[2].rstrip("."), {"torch": torch, "OLD": path, "NEW": tmp_path / "new"})
    assert_holds(tmp_path / "new", {name: tensor.numpy() for name, tensor in module.state_dict().items()})


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"version https://git-lfs", bytes(200)], ids=repr
)
def test_other_files_are_not_taken_for_weights(path, content):
    path.write_bytes(content)
    assert not torch_bin.recognises(path)
    refusal(path)


def test_zip_of_other_things_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "text")
    assert not torch_bin.recognises(path)
    assert "0 of its 1 members are a data.pkl" in refusal(path)


def test_no_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        assert not torch_bin.recognises(path)
        refusal(path)


def test_a_name_of_another_format_changes_nothing(tmp_path):
    assert_holds(save(tmp_path / "model.safetensors", {"w": torch.ones(2)}), {"w": np.ones(2, np.float32)})


def test_reading_needs_no_torch_and_writing_says_so(path, form, monkeypatch):
    save(path, {"w": torch.ones(2)}, form)
    importing = builtins.__import__

    def without_torch(name, *rest):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    monkeypatch.delitem(sys.modules, "torch")
    assert torch_bin.recognises(path)
    assert_holds(path, {"w": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"pip install 'ms-bert\[torch\]'"):
        torch_bin.write(path, torch_bin.read(path))


# Hostile files


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self._reduced = function, arguments

    def __reduce__(self):
        return self._reduced


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, getattr, print, open])
def test_no_call_of_a_file_is_executed(path, tmp_path, form, function, wrapped, protocol):
    marker = tmp_path / "marker"
    argument = {
        os.system: f"touch {marker}",
        eval: f"open({str(marker)!r}, 'w')",
        exec: f"open({str(marker)!r}, 'w')",
        open: str(marker),
    }.get(function, "os")
    call = Call(function, argument, "w") if function is open else Call(function, argument)
    content = pickle.dumps({"w": call} if wrapped else call, protocol)
    message = refusal(save_pickle(path, content, form))
    assert "asks for" in message and (protocol == 4 or function.__name__ in message)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))
    assert marker.exists()  # so it is a call


@pytest.mark.parametrize("place", range(5))
def test_no_pickle_of_a_legacy_file_is_executed(path, tmp_path, place):
    parts = [pickle.dumps(part, 2) for part in (*LEGACY_HEAD, {}, [])]
    parts[place] = pickle.dumps(Call(os.system, f"touch {tmp_path / 'marker'}"), 2)
    path.write_bytes(b"".join(parts))
    refusal(path)
    assert not (tmp_path / "marker").exists()


def test_global_by_any_opcode_is_seen(path, form):
    for content in (b"(S'touch x'\nios\nsystem\n.", b"\x8c\x02os\x8c\x06system\x93.", b"(cos\nsystem\nS'x'\no."):
        assert "asks for 'os.system'" in refusal(save_pickle(path, content, form))


def test_what_torch_allows_and_no_tensor_needs_is_refused(path):
    """It would build from some bytes an array of any size."""
    for content in (b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x40\x85R.", b"ctorch\nTensor\n."):
        assert "asks for" in refusal(save_pickle(path, content))


def test_second_pickle_whose_name_differs_in_case_is_refused(path):
    """PyTorch's reader would take any of them."""
    save_pickle(path, pickle.dumps({}, 2), **{"DATA.PKL": pickle.dumps(Call(os.system, "x"), 2)})
    assert "a name occurs twice" in refusal(path)


@pytest.mark.parametrize("more", [b"\x85" * 150_000, b"0]q\x00" + b"0]h\x00aq\x00" * 20_000])
def test_nesting_as_deep_as_ends_the_process_is_told(path, form, more):
    """The hash of tuples within each other does from some 100000 on, and so would any walk."""
    assert "expected a dict of names and tensors" in refusal(
        save_pickle(path, b"\x80\x02}X\x01\x00\x00\x00w)" + more + b"s.", form)
    )
    assert "has 0 entries" in refusal(save_pickle(path, b"\x80\x02})" + more + b"Ns.", form))


def test_a_list_given_to_call_after_call_is_refused_soon(path, form):
    """Each would be copied."""
    content = b"\x80\x02(" + b"N" * 50_000 + b"lq\x00" + b"ccollections\nOrderedDict\nh\x00\x85R0" * 50_000 + b"N."
    assert "items to calls" in refusal(save_pickle(path, content, form))


@pytest.mark.usefixtures("no_checksums")
def test_dict_whose_methods_are_hidden_is_read(path):
    state = OrderedDict(w=torch.ones(2))
    state.itemz = state.gez = state.keyz = 5
    content = save(path, state).read_bytes()
    path.write_bytes(content.replace(b"itemz", b"items").replace(b"gez", b"get").replace(b"keyz", b"keys"))
    assert torch.load(path).items == 5
    assert_holds(path, {"w": np.ones(2, np.float32)})


def test_compressed_member_is_refused(path, tmp_path):
    save(tmp_path / "stored", {"w": torch.zeros(1 << 20)})
    with zipfile.ZipFile(tmp_path / "stored") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    assert "is compressed" in refusal(path)


def test_size_that_no_member_has_is_refused(path):
    content = save(path, {"w": torch.zeros(7777)}).read_bytes()
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/0"))
    size = content.index(struct.pack("<I", 4 * 7777), start + 24)
    path.write_bytes(content[:size] + struct.pack("<I", (1 << 32) - 2) + content[size + 4 :])
    assert "is compressed" in refusal(path)


def tensor_pickle(elements: int, shape: tuple, stride: tuple, offset: int = 0, view: tuple = ()) -> bytes:
    """As torch.save pickles {"w": tensor}, for a storage "0" of any number of elements."""

    storage = object()

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", elements, *view) if thing is storage else None

    out = io.BytesIO()
    arguments = (storage, offset, shape, stride, False, OrderedDict())
    Pickler(out, 2).dump({"w": Call(torch._utils._rebuild_tensor_v2, *arguments)})
    return out.getvalue()


@pytest.mark.parametrize(
    ("elements", "shape", "stride", "offset"),
    [
        (4, (5,), (1,), 0),
        (4, (2, 2), (3, 1), 0),
        (4, (1,), (1,), 4),
        (4, (2,), (-1,), 1),
        (4, (1,), (1,), -1),
        (4, (1 << 40,), (1,), 0),
        (4, (1 << 62, 4), (1, 1), 0),
        (4, (1 << 31, 2), (1 << 31, 1 << 62), 0),
        (1 << 40, (1 << 40,), (1,), 0),
        (-4, (4,), (1,), 0),
        (4, (1 << 31,), (0,), 0),
    ],
    ids=str,
)
def test_tensor_beyond_its_storage_is_refused_in_little_memory(path, elements, shape, stride, offset):
    save_pickle(path, tensor_pickle(4, (2, 2), (2, 1)), **{"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert_holds(path, {"w": np.arange(1, 5, dtype=np.float32).reshape(2, 2)})
    save_pickle(path, tensor_pickle(elements, shape, stride, offset), **{"data/0": bytes(16)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_legacy_storage_beyond_the_file_is_refused(path):
    content = save(path, {"w": torch.arange(7777.0)}, "legacy").read_bytes()
    changed = content.replace(struct.pack("<BH", ord("M"), 7777), struct.pack("<Bi", ord("J"), (1 << 31) - 1))
    assert changed != content
    path.write_bytes(changed)
    assert "storage of 8589934588 bytes, but the file has 31108" in refusal(path)
    path.write_bytes(content.replace(struct.pack("<q", 7777), struct.pack("<q", 1 << 40)))
    assert "goes beyond the file's" in refusal(path)


def test_legacy_tensor_whose_storage_is_missing_is_refused(path):
    save_pickle(path, tensor_pickle(4, (2, 2), (2, 1), view=(None,)), "legacy")
    assert "storage of 16 bytes, but the file has 0" in refusal(path)


# Damage


@pytest.fixture
def sound(path, form) -> bytes:
    a = torch.arange(6.0).reshape(2, 3)
    return save(path, {"state_dict": {"w": a, "t": a.t(), "b": a.bfloat16()}, "epoch": 3}, form).read_bytes()


def test_file_that_is_cut_anywhere_is_told(path, sound, form):
    for size in range(0, len(sound), 7 if form == "zip" else 1):
        path.write_bytes(sound[:size])
        refusal(path)


def test_checksum_of_a_zip_sees_a_flipped_bit_of_values_and_pickle(path):
    content = save(path, {"w": torch.from_numpy(NANS.view(np.float32))}).read_bytes()
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("pytorch_model/data.pkl")
    for part in (NANS.tobytes(), pickled):
        start = content.index(part)
        for at in range(start, start + len(part), 5):
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            assert "does not match the checksum" in refusal(path)


def test_any_damage_is_told_or_harmless(path, sound, form):
    """Whatever PyTorch, zipfile and pickletools make of it."""
    random_, told, values = random.Random(0), 0, {name: t.read() for name, t in torch_bin.read(path).items()}
    for _ in range(250):
        damaged, at = bytearray(sound), random_.randrange(len(sound))
        if random_.random() < 0.5:
            damaged[at] ^= 1 << random_.randrange(8)
        else:
            damaged[at : at + random_.randrange(5)] = random_.randbytes(random_.randrange(1, 5))
        path.write_bytes(damaged)
        torch_bin.recognises(path)
        try:
            read = {name: tensor.read() for name, tensor in torch_bin.read(path).items()}
            assert form == "legacy" or all(same_bytes(read[name], values[name]) for name in values)
        except UserError as error:
            told += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
    assert told > 60


def test_any_pickle_of_what_is_let_through_is_told_or_harmless(path):
    pickled = tensor_pickle(4, (2, 2), (2, 1))
    places = [place for _, _, place in pickletools.genops(pickled)] + [len(pickled)]
    codes = [pickled[start:end] for start, end in zip(places, places[1:])]
    known = ["torch FloatStorage", "torch HalfStorage", "torch.storage UntypedStorage", "torch Size", "os system"]
    known += ["collections OrderedDict", *(f"torch._utils _rebuild_{n}" for n in ("tensor", "tensor_v2", "parameter"))]
    others = [b"c" + name.replace(" ", "\n").encode() + b"\n" for name in known]
    others += [bytes([code]) for code in b"Rt(N}])02b\x81Qsuae\x85\x86\x87\x88"] + [b"J\xff\xff\xff\xff", b"K\x05"]
    random_, told = random.Random(0), 0
    for _ in range(400):
        mutated = list(codes)
        for _ in range(random_.choice((1, 1, 2, 4))):
            at = random_.randrange(1, len(mutated) - 1)
            mutated[at : at + random_.randrange(2)] = random_.choices(others + codes[:-1], k=random_.randrange(2))
        save_pickle(path, b"".join(mutated), **{"data/0": bytes(16)})
        try:
            for tensor in torch_bin.read(path).values():
                tensor.read()
        except UserError as error:
            told += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
    assert told > 150


# Training checkpoints


class Foreign:
    """A class that the reader does not know, whose pickle would call it."""

    def __init__(self, marker: str = ""):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


class AttributeDict(dict):
    """As Lightning keeps hyperparameters: a dict of its own class, with attributes."""


def lightning_checkpoint(state: dict, marker: Path) -> dict:
    """What Lightning 2 saves (lightning/pytorch/trainer/connectors/checkpoint_connector.py, dump_checkpoint)."""
    hyper = AttributeDict(lr=1e-4, model=Foreign(str(marker)))
    hyper.place = Path("x")
    weight = next(iter(state.values()))
    adam = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": weight * 2, "exp_avg_sq": weight * 3}},
        "param_groups": [],
    }
    return {
        "epoch": 3,
        "global_step": 33,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(0.5), "by": Foreign(str(marker))}},
        "optimizer_states": [adam],
        "lr_schedulers": [{"base_lrs": [1e-4], "counter": Counter("ab"), "d": defaultdict(list, a=[1]), "s": {1, 2}}],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper,
        "namespace": argparse.Namespace(a=1, d=torch.device("cpu"), t=torch.float16, n=np.float64(3), m=np.ones(3)),
    }


@pytest.mark.parametrize("name", ["epoch=3-step=33.ckpt", "model.pt", "model.pth"])
def test_the_weights_of_a_training_checkpoint_are_read_and_nothing_else_is_executed(tmp_path, form, name):
    state = OrderedDict(a=torch.arange(6.0).reshape(2, 3).t(), b=torch.nn.Parameter(torch.ones(2)))
    state._metadata = OrderedDict({"": {"version": 1}})
    marker = tmp_path / "marker"
    path = save(tmp_path / name, lightning_checkpoint(state, marker), form)
    assert torch_bin.recognises(path)
    with pytest.warns(UserWarning, match="left out what is not a weight: 'epoch', 'global_step'.* and 2 more"):
        assert_holds(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.ones(2, np.float32)})
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so it would be


def test_a_foreign_thing_among_the_weights_is_refused_by_name(path, form, tmp_path):
    save(path, {"state_dict": {"w": torch.ones(2), "x": Foreign(str(tmp_path / "marker"))}, "epoch": 3}, form)
    assert "asks for 'io.open'" in refusal(path) and "torch.save(model.state_dict(), NEW)" in refusal(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("keys", [("model_state_dict",), ("model",), ("net",), ("state_dict", "model"), ("a", "b")])
def test_weights_are_found_in_dicts(path, form, keys):
    thing = {"w": torch.ones(2)}
    for key in reversed(keys if keys != ("a", "b") else ("a",)):
        thing = {key: thing, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}}
    assert_holds(save(path, thing, form), {"w": np.ones(2, np.float32)})


def test_what_is_larger_than_a_block_is_read_in_order(path, form):
    values = torch.arange(3 * 700_000, dtype=torch.float32).reshape(3, -1)
    assert_holds(save(path, {"t": values.t(), "w": values}, form), {"t": values.t().numpy(), "w": values.numpy()})


def test_what_is_written_is_what_torch_loads(path):
    values = {
        "f": NANS.view(np.float32),
        "b": BFLOAT16_NANS.view(ml_dtypes.bfloat16),
        "t": np.arange(6.0).reshape(2, 3).T.copy(),
    }
    one = {name: Tensor.of(value) for name, value in values.items()}
    torch_bin.write(path, one | {"tied": one["f"]})
    loaded = torch.load(path)
    assert list(loaded) == ["f", "b", "t", "tied"] and loaded["tied"].data_ptr() == loaded["f"].data_ptr()
    assert_holds(path, values | {"tied": values["f"]})
    torch_bin.write(path, one, under="model")
    assert list(torch.load(path)["model"]) == ["f", "b", "t"]
    assert_holds(path, values)
