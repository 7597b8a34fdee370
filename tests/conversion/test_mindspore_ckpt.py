"""MindSpore's checkpoints: what MindSpore wrote is read, what is written is what it writes, damage is told."""

import os
import random
import struct
import threading
import tracemalloc
import warnings
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from mindspore.train import serialization  # noqa: E402

from conversion.formats import mindspore_ckpt  # noqa: E402
from conversion.tensors import DTYPES, Tensor, Tensors, same_bytes  # noqa: E402
from ms_bert.errors import UserError  # noqa: E402

NANS = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x3F800000, 0x00000001, 0xFF800000], np.uint32)
KEY = b"0123456789ABCDEF"


def arrays() -> dict[str, np.ndarray]:
    """Every dtype; scalars and a size of 1; NaNs that say something, -0.0; more values than one slice of a test has."""
    return {
        "z": NANS.view(np.float32).reshape(3, 2),
        **{f"dtype.{name}": np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in DTYPES.items()},
        "nan.bfloat16": np.array([0x7FC1, 0xFF81, 0x8000], np.uint16).view(ml_dtypes.bfloat16),
        "scalar": np.array(-0.0, np.float32),
        "é": np.array(1 << 40, np.int64),
        "one": np.array([3.5], np.float32),
        "a": np.arange(700, dtype=np.float32).reshape(100, 7),
    }


def tensors_of(values: dict[str, np.ndarray]) -> Tensors:
    return {name: Tensor.of(array) for name, array in values.items()}


def parameters_of(values: dict[str, np.ndarray]) -> list[mindspore.Parameter]:
    """With exactly these bytes, which Tensor(array) has not where a bfloat16 is a NaN."""
    return [
        mindspore.Parameter(
            serialization.Tensor_.convert_bytes_to_tensor(
                array.tobytes(), array.shape, getattr(mindspore, "bool_" if array.dtype == bool else str(array.dtype))
            ),
            name=name,
        )
        for name, array in values.items()
    ]


def save(path: Path, values: dict[str, np.ndarray], **options) -> Path:
    """By MindSpore; waits for its thread."""
    mindspore.save_checkpoint(parameters_of(values), str(path), **options)
    for thread in threading.enumerate():
        if thread.name == "asyn_save_ckpt":
            thread.join()
    return path


def assert_holds(tensors: Tensors, values: dict[str, np.ndarray]) -> None:
    assert list(tensors) == list(values)
    for name, array in values.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        assert same_bytes(tensors[name].read(), array), name


def refusal(path: Path) -> str:
    """What the user is told; one line that names the file and ends as a sentence does."""
    with pytest.raises(UserError) as caught:
        for tensor in mindspore_ckpt.read(path).values():
            tensor.read()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".") and len(message) < 800
    return message


@pytest.fixture
def small_slices(monkeypatch) -> None:
    monkeypatch.setattr(mindspore_ckpt, "SLICE", 1024)
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KiB


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "bert.ckpt"


# A file, made by hand


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name: str, dims: bytes, kind: str = "Float32", content: bytes = bytes(4)) -> bytes:
    return field(1, field(1, name.encode()) + field(2, dims + field(2, kind.encode()) + field(3, content)))


# What MindSpore writes


def test_what_mindspore_wrote_is_read(path):
    save(path, arrays())
    assert mindspore_ckpt.recognises(path)
    assert_holds(mindspore_ckpt.read(path), arrays())


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("options", [{}, {"crc_check": True}, {"async_save": "thread"}], ids=str)
def test_slices_are_joined(path, options):
    values = {**arrays(), "two rows": np.arange(1400.0).reshape(2, 700)}  # async_save makes slices of 0 bytes of it
    assert_holds(mindspore_ckpt.read(save(path, values, **options)), values)


def test_file_is_that_of_mindspore_to_the_byte(path, tmp_path):
    mindspore_ckpt.write(tmp_path / "own.ckpt", tensors_of(arrays()))
    assert (tmp_path / "own.ckpt").read_bytes() == save(path, arrays()).read_bytes()


@pytest.mark.usefixtures("small_slices")
def test_slices_are_those_of_mindspore_to_the_byte(path, tmp_path):
    exact = {"exact": np.arange(256, dtype=np.int32), "more": np.arange(257, dtype=np.int32), "a": arrays()["a"]}
    mindspore_ckpt.write(tmp_path / "own.ckpt", tensors_of(exact))
    assert (tmp_path / "own.ckpt").read_bytes() == save(path, exact).read_bytes()


@pytest.mark.parametrize("slice_size", [1024, 512 << 20])
def test_mindspore_reads_what_is_written(path, monkeypatch, slice_size):
    monkeypatch.setattr(mindspore_ckpt, "SLICE", slice_size)
    mindspore_ckpt.write(path, tensors_of(arrays()))
    loaded = mindspore.load_checkpoint(str(path))
    assert list(loaded) == list(arrays())
    for name, array in arrays().items():
        assert (tuple(loaded[name].shape), loaded[name].get_bytes()) == (array.shape, array.tobytes()), name
        assert str(loaded[name].dtype).lower() == ("bool" if array.dtype == bool else str(array.dtype))
    assert_holds(mindspore_ckpt.read(path), arrays())


def test_numbers_beside_weights_are_scalars_and_texts_are_left_out(path):
    extra = {"step_num": 120, "lr": 0.1, "flag": True, "tag": "hello", "empty": ""}
    save(path, {"w": np.ones(2, np.float32)}, append_dict=extra)
    with pytest.warns(UserWarning, match="left out what is not a weight: 'tag', 'empty'") as caught:
        tensors = mindspore_ckpt.read(path)
    assert caught[0].filename == __file__
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {
        "w": [1, 1],
        "step_num": 120,
        "lr": np.float32(0.1),
        "flag": True,
    }


def test_state_of_the_generator_is_left_out(path):
    path.write_bytes(value("w", b"") + value("random_op", b"", "Int64"))
    with pytest.warns(UserWarning, match="'random_op'"):
        assert list(mindspore_ckpt.read(path)) == ["w"]


def test_older_forms_of_dims_are_read(path):
    """[0] for a scalar, as MindSpore wrote it to 2.x, and the packed form, which protobuf reads too."""
    path.write_bytes(
        value("old", field(1, 0))
        + value("new", b"")
        + value("one", field(1, 1))
        + value("packed", field(1, bytes([2, 3])), content=bytes(24))
        + value("empty", field(1, 0) + field(1, 3), content=b"")
    )
    tensors = mindspore_ckpt.read(path)
    assert [tensor.shape for tensor in tensors.values()] == [(), (), (1,), (2, 3), (0, 3)]
    assert [tensor.read().shape for tensor in tensors.values()] == [(), (), (1,), (2, 3), (0, 3)]
    loaded = mindspore.load_checkpoint(str(path))
    assert [tuple(loaded[name].shape) for name in tensors] == [tensor.shape for tensor in tensors.values()]


# Files of other kinds


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_encrypted_file_is_refused_and_the_way_out_works(path, tmp_path, mode):
    save(path, {"w": np.ones(2, np.float32)}, enc_key=KEY, enc_mode=mode)
    assert mindspore_ckpt.recognises(path)
    message = refusal(path)
    assert "it is encrypted" in message
    recipe = message.partition("save it again: ")[2].rstrip(".")
    names = {"mindspore": mindspore, "OLD": str(path), "NEW": str(tmp_path / "new.ckpt"), "KEY": KEY, "MODE": mode}
    eval(recipe, names)
    assert_holds(mindspore_ckpt.read(tmp_path / "new.ckpt"), {"w": np.ones(2, np.float32)})


def test_int4_is_refused_and_the_way_out_works(path, tmp_path):
    path.write_bytes(value("w", b"") + value("q", field(1, 2), "Int4", b"\x12\x34"))
    message = refusal(path)
    assert "'q' has the type 'Int4'" in message
    recipe = message.partition("save it again: ")[2].rstrip(".")
    eval(recipe, {"mindspore": mindspore, "OLD": str(path), "NEW": str(tmp_path / "new.ckpt"), "NAME": "q"})
    assert list(mindspore_ckpt.read(tmp_path / "new.ckpt")) == ["w"]


def test_map_parameter_is_refused(path):
    path.write_bytes(field(1, field(1, b"m") + field(3, b"")))
    assert mindspore_ckpt.recognises(path)
    assert "'m' is a MapParameter" in refusal(path)


def test_name_that_comes_again_is_refused(path):
    path.write_bytes(value("s", b"") + value("t", b"") + value("s", b""))
    assert "'s' twice" in refusal(path)


def test_two_tensors_of_a_name_in_a_row_are_no_slices(path):
    path.write_bytes(value("s", b"") * 2)
    assert "'s' has 8 bytes, but float32 () needs 4" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\nhello", b"PK\x03\x04", b"\x08\x07\x12\x04", b'{"a": 1}', bytes(100), b"\x80\x02}q\x00.", b"\n\x00"],
    ids=repr,
)
def test_other_files_are_not_taken_for_checkpoints(path, content):
    path.write_bytes(content)
    assert not mindspore_ckpt.recognises(path)
    refusal(path)


def test_no_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        assert not mindspore_ckpt.recognises(path)
        refusal(path)


# Damage


def test_file_that_is_cut_anywhere_is_told(path):
    """But between two values: that is a file of fewer tensors, and nothing in it says otherwise."""
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.arange(5), "s": np.array(2.5)}
    mindspore_ckpt.write(path, tensors_of(values))
    content = path.read_bytes()
    sound = []
    for size in range(len(content)):
        path.write_bytes(content[:size])
        try:
            sound.append(len(mindspore_ckpt.read(path)))
        except UserError:
            continue
    assert sound == [1, 2]


def test_checksum_sees_every_bit_and_every_cut(path):
    content = save(path, {"w": np.ones(3, np.float32), "v": np.arange(3)}, crc_check=True).read_bytes()
    path.chmod(0o600)
    values_end = len(content) - 17
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        mark = values_end <= bit // 8 < values_end + 7  # without it, it is no checksum, but no value either
        assert ("have the checksum" in refusal(path)) != mark
    for size in range(values_end + 1, len(content)):
        path.write_bytes(content[:size])
        refusal(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (field(1, 7), "has number 1 and wire type 0"),
        (b"\x0a" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x0a" + b"\x80" * 100, "more than 64 bits"),
        (b"\x0a" + varint(1 << 62) + b"x", "bytes, but 1 are left"),
        (field(1, field(1, b"w")), "has the field tensor 0 times"),
        (field(1, field(2, b"")), "has the field name 0 times"),
        (field(1, field(1, b"w") * 2), "has the field name 2 times"),
        (value("", b""), "0 bytes instead of 1"),
        (value("w" * 5000, b""), "5000 bytes instead of"),
        (value("w", b"").replace(b"w", b"\xff"), "not UTF-8"),
        (value("w", b"", "x" * 65), "65 bytes instead of"),
        (value("w", b"", content=b"").replace(b"\x1a\x00", b""), "bytes, but"),
        (value("w", field(1, (1 << 64) - 1)), "shape (-1,)"),
        (value("w", field(1, 1 << 40) * 2), "the impossible shape"),
        (value("w", field(1, 0) + field(1, 1 << 60), content=b""), "the impossible shape"),
        (value("w", field(1, 1 << 50)), "has 4 bytes, but float32 (1125899906842624,) needs 4503599627370496"),
        (value("w", field(1, 0), content=b""), "has 0 bytes, but float32 () needs 4"),
        (value("w", field(1, 1) * 33), "more than 32"),
        (value("w", field(1, b"\x01" * 10000)), "more than 32 dimensions"),
        (value("w", field(1, b"\xff")), "continues after the end"),
        (value("w", field(1, 2)) + value("w", field(1, 1)), "a part of 'w'"),
        (value("w", field(4, 2)), "has number 4 and wire type"),
        (value("w", b"", "Complex64", bytes(8)), "'w' has the type 'Complex64'"),
        (value("w", b"", "Float\n\x1b[1m32"), r"'Float\n\x1b[1m32'"),
    ],
    ids=str,
)
def test_what_no_checkpoint_has_is_told(path, content, expected):
    path.write_bytes(content)
    assert expected in refusal(path)


def test_number_of_values_is_bounded(path, monkeypatch):
    monkeypatch.setattr(mindspore_ckpt, "_MOST_VALUES", 3)
    path.write_bytes(value("w", field(1, 3)) * 3)
    assert mindspore_ckpt.read(path)["w"].shape == (3,)
    path.write_bytes(value("w", field(1, 4)) * 4)
    assert "more than 3 values" in refusal(path)


@pytest.mark.usefixtures("small_slices")
def test_any_damage_is_told_or_harmless(path):
    """Random damage ends in a sentence or in tensors, soon and in little memory."""
    mindspore_ckpt.write(path, tensors_of(arrays()))
    content, random_ = path.read_bytes(), random.Random(0)
    tokens = (b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\xff\xff\xff\xff\x07", b"\x0a\x00", b"")
    told = 0
    tracemalloc.start()
    for _ in range(500):
        damaged, at = bytearray(content), random_.randrange(len(content))
        if random_.random() < 0.5:
            damaged[at] ^= 1 << random_.randrange(8)
        else:
            damaged[at : at + random_.randrange(6)] = random_.choice(tokens)
        path.write_bytes(damaged)
        try:
            for tensor in mindspore_ckpt.read(path).values():
                tensor.read()
        except UserError as error:
            told += 1
            assert "\n" not in str(error) and len(str(error)) < 800
    assert told > 150
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_file_that_became_shorter_is_told(path):
    mindspore_ckpt.write(path, tensors_of(arrays()))
    tensors = mindspore_ckpt.read(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="ends before byte"):
        tensors["a"].read()
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        tensors["a"].read()


# Reading and writing a little at a time


def test_opening_reads_no_values_and_writing_holds_one_tensor(path):
    count, size = 8, 4 << 20
    made = {f"w{i}": Tensor(np.dtype(np.uint8), (size,), lambda i=i: np.full(size, i, np.uint8)) for i in range(count)}
    tracemalloc.start()
    mindspore_ckpt.write(path, made)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    tracemalloc.reset_peak()
    tensors = mindspore_ckpt.read(path)
    assert tracemalloc.get_traced_memory()[1] < size // 4
    tracemalloc.reset_peak()
    for i, tensor in enumerate(tensors.values()):
        assert tensor.read()[-1] == i
    assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    tracemalloc.stop()


def test_values_that_are_not_contiguous_are_written_row_by_row(path):
    array = np.arange(6.0).reshape(2, 3)
    mindspore_ckpt.write(path, {"t": Tensor(array.dtype, (3, 2), lambda: array.T)})
    assert_holds(mindspore_ckpt.read(path), {"t": array.T})


def test_file_may_be_read_as_umask_says(path):
    """MindSpore makes it readable to its owner only, and writable to nobody."""
    before = os.umask(0o027)
    try:
        mindspore_ckpt.write(path, tensors_of({"w": np.ones(1)}))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["", "w" * 1025, "\ud800"], ids=["empty", "long", "surrogate"])
def test_name_that_the_format_has_no_place_for_is_refused(path, name):
    with pytest.raises(UserError, match="cannot hold a tensor named"):
        mindspore_ckpt.write(path, tensors_of({name: np.ones(1)}))
    assert not path.exists()


def test_longest_name_is_one_that_mindspore_reads(path):
    name = "é" * 1024
    mindspore_ckpt.write(path, tensors_of({name: np.ones(1)}))
    assert list(mindspore_ckpt.read(path)) == [name] == list(mindspore.load_checkpoint(str(path)))


def test_empty_tensor_is_refused_which_mindspore_drops(path):
    with pytest.raises(UserError, match=r"'e', whose shape \(0, 3\)"):
        mindspore_ckpt.write(path, tensors_of({"w": np.ones(1), "e": np.ones((0, 3))}))
    assert not path.exists()


def test_nothing_is_said_where_nothing_is_left_out(path):
    mindspore_ckpt.write(path, tensors_of(arrays()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mindspore_ckpt.read(path)


def test_name_as_long_as_a_varint_takes_two_bytes_for(path):
    """A tag above 127 bytes and a value above 16383, where the lengths of all three messages grow."""
    values = {"w" * 200: np.arange(5000, dtype=np.float32)}
    mindspore_ckpt.write(path, tensors_of(values))
    assert path.read_bytes() == value("w" * 200, field(1, 5000), content=struct.pack("<5000f", *range(5000)))
