"""TensorFlow's V2 checkpoints: what TensorFlow wrote is read, what is written is what it writes, damage is told."""

import base64
import hashlib
import os
import random
import struct
import time
import warnings
import weakref
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from conversion.formats import leveldb, tensorflow_bundle
from conversion.formats.wire import varint
from conversion.tensors import DTYPES, Tensor, Tensors, same_bytes
from ms_bert.errors import UserError

# Written by TensorFlow 2.21.0 of a = golden_arrays(), as save_v2 at the end of this file does it; with n = sorted(a):
# tf.raw_ops.SaveV2(prefix=..., tensor_names=n, shape_and_slices=[""] * 18, tensors=[tf.constant(a[i]) for i in n])
GOLDEN_INDEX = base64.b64decode(
    """
    AAAGCAEaAggBAB8TYmVydC9lbWJlZGRpbmdzL3dvcmRfZW1iZWRkaW5ncwgBEggSAggDEgIIAigYNdiMubMfBxUvYWRhbV9tCAESChICCAISAB
    ICCAMgGDXY6oKiAA4RZHR5cGUvYmZsb2F0MTYIDhIEEgIIAyAYKAY1RB76igcDEW9vbAgKEgQSAggDIB4oAzUz7p8SBgcRZmxvYXQxNggTEgQS
    AggDICEoBjVILXGdCwIRMzIIARIEEgIIAyAnKAw16QlQPwsCETY0CAISBBICCAMgMygYNTPOPvoGBRFpbnQxNggFEgQSAggDIEsoBjUtRTxwCQ
    IRMzIIAxIEEgIIAyBRKAw1T6V6egkCETY0CAkSBBICCAMgXSgYNfazQNkJARE4CAYSBBICCAMgdSgDNdIQeDoGBhF1aW50MTYIERIEEgIIAyB4
    KAY1LUU8cAoCETMyCBYSBBICCAMgfigMNU+lenoKAhI2NAgXEgQSAggDIIoBKBg19rNA2QoBEjgIBBIEEgIIAyCiASgDNdIQeDoACw5nbG9iYW
    xfc3RlcAgJEgAgpQEoCDWqPWvkAAEOeggKEgAgrQEoATUFKyhDAAIew6kIAhIQEgIIARICCAESAggBEgIIASCuASgINZUIZ7YAAAAAlAEAAAIA
    AAAAqMeJxgAAAAABAAAAAMDyobAAAQPEAPEDAAAAAAEAAAAAtwGwL/YDCIMEDwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABX+4
    CLJHVH2w==
    """
)
GOLDEN_DATA = base64.b64decode(
    """
    AQDAf0Ujwf8AAACAAACAPwEAAAAAAID/AACAPwBAAAEBAAAAPABAAAAAAAAAgD8AAABAAAAAAAAAAAAAAAAAAADwPwAAAAAAAABAAAABAAIAAA
    AAAAEAAAACAAAAAAAAAAAAAAABAAAAAAAAAAIAAAAAAAAAAAECAAABAAIAAAAAAAEAAAACAAAAAAAAAAAAAAABAAAAAAAAAAIAAAAAAAAAAAEC
    AAAAAAABAAABAAAAAAAAAIA=
    """
)
# Of the index that the same call writes of many_arrays(): 550372 bytes in several blocks.
MANY_INDEX_SHA256 = "1ecb2f0c0befa19400970eac9402518ca4eb8c180fd6714e968864d067f0e345"


def golden_arrays() -> dict[str, np.ndarray]:
    """Every dtype; sizes of 0 and 1, no size; NaNs that say something, -0.0; names that share much and nothing."""
    arrays = {f"dtype/{name}": np.arange(3).astype(dtype) for name, dtype in DTYPES.items()}
    arrays["bert/embeddings/word_embeddings"] = (
        np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x3F800000, 0x00000001, 0xFF800000], np.uint32)
        .view(np.float32)
        .reshape(3, 2)
    )
    arrays["bert/embeddings/word_embeddings/adam_m"] = np.zeros((2, 0, 3), np.float32)
    arrays["global_step"] = np.array(1 << 40, np.int64)
    arrays["é"] = np.full((1, 1, 1, 1), -0.0)
    arrays["z"] = np.array(True)
    return arrays


def many_arrays() -> dict[str, np.ndarray]:
    """Names enough for an index of several blocks."""
    names = [f"bert/encoder/layer_{i}/output/{'LayerNorm' if i % 3 else 'dense/kernel'}" for i in range(13000)]
    return {name: np.array([i], np.int32) for i, name in enumerate(names)}


def tensors_of(arrays: dict[str, np.ndarray]) -> Tensors:
    return {name: Tensor.of(array) for name, array in arrays.items()}


def assert_holds(tensors: Tensors, arrays: dict[str, np.ndarray]) -> None:
    assert list(tensors) == sorted(arrays)
    for name, array in arrays.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        values = tensors[name].read()
        assert same_bytes(values, array), name
        assert values.flags.c_contiguous


def index_of(prefix: Path) -> Path:
    return Path(f"{prefix}.index")


def data_of(prefix: Path, shard: int = 0, shards: int = 1) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


@pytest.fixture
def golden(tmp_path) -> Path:
    """The prefix of the bundle that TensorFlow wrote."""
    prefix = tmp_path / "golden.ckpt"
    index_of(prefix).write_bytes(GOLDEN_INDEX)
    data_of(prefix).write_bytes(GOLDEN_DATA)
    return prefix


def refusal(prefix: Path) -> str:
    """What the user is told; one line that names the checkpoint and ends as a sentence does."""
    with pytest.raises(UserError) as caught:
        for tensor in tensorflow_bundle.read(prefix).values():
            tensor.read()
    message = str(caught.value)
    assert str(prefix) in message and "\n" not in message and message.endswith(".") and len(message) < 1500
    return message


# What TensorFlow writes


def test_what_tensorflow_wrote_is_read(golden):
    assert_holds(tensorflow_bundle.read(golden), golden_arrays())


def test_files_are_those_of_tensorflow_to_the_byte(tmp_path):
    prefix = tmp_path / "own"
    tensorflow_bundle.write(prefix, tensors_of(golden_arrays()))
    assert index_of(prefix).read_bytes() == GOLDEN_INDEX
    assert data_of(prefix).read_bytes() == GOLDEN_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.data-00000-of-00001", "own.index"]


def test_index_of_several_blocks_is_that_of_tensorflow(tmp_path):
    tensorflow_bundle.write(tmp_path / "many", tensors_of(many_arrays()))
    index = index_of(tmp_path / "many").read_bytes()
    assert len(index) > 2 * 256 * 1024
    assert hashlib.sha256(index).hexdigest() == MANY_INDEX_SHA256
    tensors = tensorflow_bundle.read(tmp_path / "many")
    assert list(tensors) == sorted(many_arrays())
    name = "bert/encoder/layer_12998/output/LayerNorm"
    assert tensors[name].read() == [12998]


def test_no_tensors_make_a_bundle_too(tmp_path):
    tensorflow_bundle.write(tmp_path / "none", {})
    assert tensorflow_bundle.recognises(tmp_path / "none")
    assert tensorflow_bundle.read(tmp_path / "none") == {}


@pytest.mark.parametrize("seed", range(3))
def test_any_names_shapes_and_bytes_come_back(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(leveldb, "_BLOCK_SIZE", 100 + 200 * seed)  # many blocks of few names
    rng = random.Random(seed)
    arrays = {}
    for _ in range(150):
        name = "".join(rng.choice("a/\x00é\U0010ffff") for _ in range(rng.randint(1, 40)))
        dtype = rng.choice(list(DTYPES.values()))
        shape = tuple(rng.randint(0, 4) for _ in range(rng.randint(0, 4)))
        size = int(np.prod(shape)) * dtype.itemsize
        bits = bytes(rng.randint(0, 1) for _ in range(size)) if dtype.kind == "b" else rng.randbytes(size)
        arrays[name] = np.frombuffer(bits, np.uint8).view(dtype).reshape(shape)
    tensorflow_bundle.write(tmp_path / "any", tensors_of(arrays))
    assert_holds(tensorflow_bundle.read(tmp_path / "any"), arrays)


def test_order_of_the_tensors_given_is_not_in_the_files(tmp_path):
    arrays = golden_arrays()
    tensorflow_bundle.write(tmp_path / "own", tensors_of(dict(reversed(arrays.items()))))
    assert data_of(tmp_path / "own").read_bytes() == GOLDEN_DATA


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    alive = []

    def make() -> np.ndarray:
        assert not any(reference() is not None for reference in alive)
        array = np.ones((1000, 10), np.float32)
        alive.append(weakref.ref(array))
        return array

    tensors = {f"w{i}": Tensor(DTYPES["float32"], (1000, 10), make) for i in range(4)}
    tensorflow_bundle.write(tmp_path / "own", tensors)
    assert len(alive) == 4


def test_both_files_are_fsynced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    tensorflow_bundle.write(tmp_path / "own", tensors_of(golden_arrays()))
    assert synced == [str(data_of(tmp_path / "own")), str(index_of(tmp_path / "own"))]


def test_values_larger_than_a_chunk_have_one_checksum(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3 << 20) + 17, np.uint8)
    tensorflow_bundle.write(tmp_path / "own", tensors_of({"w": array}))
    assert_holds(tensorflow_bundle.read(tmp_path / "own"), {"w": array})


@pytest.mark.parametrize("name", ["", "\ud800", "n" * 70000], ids=["empty", "surrogate", "long"])
def test_name_that_no_index_can_have_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="rename the tensor"):
        tensorflow_bundle.write(tmp_path / "own", tensors_of({name: np.zeros(1)}))


# Bundles put together here


HEADER = b"\x08\x01\x1a\x02\x08\x01"
VALUES = np.array([1.5, -2.0], np.float32)


def masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def entry(dtype=1, shape=(2,), shard=0, offset=0, size=8, more=b"") -> bytes:
    """A BundleEntryProto of VALUES, unless told otherwise; numbers as protobuf has them, of 64 bits."""
    dims = b"".join(b"\x12" + varint(len(dim)) + dim for dim in (b"\x08" + varint(n % (1 << 64)) for n in shape))
    message = b"\x12" + varint(len(dims)) + dims
    for tag, number in ((0x08, dtype), (0x18, shard), (0x20, offset), (0x28, size)):
        message += bytes([tag]) + varint(number % (1 << 64))
    return message + b"\x35" + struct.pack("<I", masked(google_crc32c.value(VALUES.tobytes()))) + more


def sealed(content: bytes, compression: int = 0) -> bytes:
    """A block with what comes after it."""
    content += bytes([compression])
    return content + struct.pack("<I", masked(google_crc32c.value(content)))


def block(*entries: bytes, restarts=(0,)) -> bytes:
    return b"".join(entries) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def row(key: bytes, value: bytes, shared: int = 0) -> bytes:
    """An entry of a block."""
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def table(*blocks: bytes, compression: int = 0, handles=None) -> bytes:
    """A table of blocks; or with an index of the handles given instead of the blocks' own."""
    content, own = b"", []
    for data in blocks:
        own.append((len(content), len(data)))
        content += sealed(data, compression)
    rows = [row(b"%05d" % i, varint(at) + varint(n)) for i, (at, n) in enumerate(own if handles is None else handles)]
    index = block(*rows)
    footer = b"\x00\x00" + varint(len(content)) + varint(len(index))
    return content + sealed(index) + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def bundle(folder: Path, index: bytes) -> Path:
    prefix = folder / "made"
    index_of(prefix).write_bytes(index)
    data_of(prefix).write_bytes(VALUES.tobytes())
    return prefix


def bundle_of(folder: Path, *entries: tuple[bytes, bytes], header: bytes = HEADER) -> Path:
    return bundle(folder, table(block(row(b"", header), *(row(key, value) for key, value in entries))))


def reason(value) -> str:
    """The name of a case: what is found, without the bytes."""
    return value if isinstance(value, str) else ""


def test_bundle_put_together_here_is_read(tmp_path):
    """Else the refusals below could be for another reason."""
    prefix = bundle_of(tmp_path, (b"w", entry()))
    assert_holds(tensorflow_bundle.read(prefix), {"w": VALUES})


def test_every_shard_is_read(tmp_path):
    header = b"\x08\x03" + HEADER[2:]
    prefix = bundle_of(tmp_path, (b"a", entry(shard=2)), (b"b", entry(shard=0, offset=8)), header=header)
    data_of(prefix, 0, 3).write_bytes(bytes(8) + VALUES.tobytes())
    data_of(prefix, 2, 3).write_bytes(VALUES.tobytes() + bytes(8))  # the one between has no tensor: not asked for
    assert_holds(tensorflow_bundle.read(prefix), {"a": VALUES, "b": VALUES})
    data_of(prefix, 2, 3).unlink()
    assert "made.data-00002-of-00003" in refusal(prefix)


def test_fields_that_are_not_known_are_passed_over(tmp_path):
    more = b"\x40\x07" + b"\x4a\x03abc" + b"\x51" + bytes(8) + b"\x5d" + bytes(4)
    prefix = bundle_of(tmp_path, (b"w", entry(more=more)), header=HEADER + more)
    assert_holds(tensorflow_bundle.read(prefix), {"w": VALUES})


def test_text_is_left_out_with_a_warning(tmp_path):
    prefix = bundle_of(tmp_path, (b"a/text", entry(dtype=7, size=3)), (b"w", entry()))
    with pytest.warns(UserWarning, match=r"made\.index.*'a/text'"):
        tensors = tensorflow_bundle.read(prefix)
    assert_holds(tensors, {"w": VALUES})


def test_weights_alone_warn_of_nothing(golden):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensorflow_bundle.read(golden)


@pytest.mark.parametrize(
    "found, key, message",
    [
        ("partitioned", b"w", entry(more=b"\x3a\x04\x0a\x02\x10\x03")),
        ("its object graph has the shape (2,)", b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(dtype=7)),
        ("its object graph, ", b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(dtype=7, shape=())),
        ("DataType number 8", b"w", entry(dtype=8)),
        ("DataType number 0", b"w", entry(dtype=0)),
        ("DataType number -1", b"w", entry(dtype=-1)),
        ("has 8 bytes, but float32", b"w", entry(shape=(3,))),
        ("has 7 bytes, but float32", b"w", entry(size=7)),
        ("has -8 bytes, but float32", b"w", entry(size=-8)),
        ("shape (-1, -2)", b"w", entry(shape=(-1, -2))),
        ("the impossible shape", b"w", entry(shape=(1 << 62, 1 << 62))),
        ("the impossible shape", b"w", entry(shape=(0, 1 << 62), size=0)),
        ("is 33 instead of 0 to 32", b"w", entry(shape=(1,) * 33)),
        ("is unknown instead of 0 to 32", b"w", entry(more=b"\x12\x02\x18\x01")),
        ("'w' has 1152921504606846976 bytes from byte 0 on", b"w", entry(shape=(1 << 58, 1), size=1 << 60)),
        ("has 8 bytes, but 'w' has 8 bytes from byte 1 on", b"w", entry(offset=1)),
        ("from byte -1 on", b"w", entry(offset=-1)),
        ("from byte 9223372036854775807 on", b"w", entry(offset=(1 << 63) - 1)),
        ("in data file 1, but there are only 1", b"w", entry(shard=1)),
        ("in data file -1", b"w", entry(shard=-1)),
        ("not UTF-8", b"\xff", entry()),
        ("the checksum", b"w", entry(more=b"\x35abcd")),
        ("more than 64 bits", b"w", b"\x08" + b"\xff" * 10 + b"\x01"),
        ("more than 64 bits", b"w", b"\x08" + b"\xff" * 9 + b"\x02"),
        ("continues after the end", b"w", b"\x08\xff"),
        ("claims 5 bytes, but 1 are left", b"w", b"\x12\x05\x00"),
        ("wire type 3", b"w", b"\x0b"),
    ],
    ids=reason,
)
def test_entry_is_refused(tmp_path, found, key, message):
    assert found in refusal(bundle_of(tmp_path, (key, message)))


@pytest.mark.parametrize(
    "found, header",
    [
        ("big-endian", HEADER + b"\x10\x01"),
        ("reader of version 2", b"\x08\x01\x1a\x04\x08\x02\x10\x02"),
        ("0 data files", b""),
        ("-1 data files", b"\x08" + b"\xff" * 9 + b"\x01"),
    ],
    ids=reason,
)
def test_header_is_refused(tmp_path, found, header):
    assert found in refusal(bundle_of(tmp_path, (b"w", entry()), header=header))


ROWS = row(b"", HEADER) + row(b"w", entry())


@pytest.mark.parametrize(
    "found, index",
    [
        ("Snappy", table(block(ROWS), compression=1)),
        ("compression type 9 instead of 0", table(block(ROWS), compression=9)),
        ("first entry is not the header", table(block(row(b"w", entry())))),
        ("first entry is not the header", table()),
        ("names must be sorted", table(block(ROWS, row(b"w", entry())))),
        ("names must be sorted", table(block(ROWS, row(b"v", entry())))),
        ("names must be sorted", table(block(ROWS), block(row(b"w", entry())))),
        ("within the one before it", table(block(ROWS), handles=[(0, len(block(ROWS)))] * 2)),
        ("does not fit", table(block(ROWS), handles=[(0, 1 << 63)])),
        ("does not fit", table(block(ROWS), handles=[(1 << 63, 8)])),
        ("has the checksum", table(block(ROWS), handles=[(1, 8)])),
        ("more than 64 bits", table(block(ROWS), handles=[(1 << 64, 8)])),
        ("4294967295 restart points", table(ROWS + b"\xff" * 4)),
        ("0 restart points", table(ROWS + bytes(4))),
        ("restart points", table(b"")),
        ("4 shared and 1 own", table(block(ROWS, row(b"x", b"", shared=4)))),
        ("18446744073709551615 own", table(block(ROWS, b"\x00" + b"\xff" * 9 + b"\x01\x00w"))),
        ("a value of 9 bytes", table(block(ROWS, b"\x00\x01\x09w"))),
        ("more than 64 bits", table(block(b"\x80" * 20))),
        ("10 bytes are left", table(block(b"\x00\x01\x0a" + b"w" * 10))),
    ],
    ids=reason,
)
def test_table_is_refused(tmp_path, found, index):
    assert found in refusal(bundle(tmp_path, index))


def test_names_that_multiply_are_refused_at_once(tmp_path):
    """Each of these entries of some bytes has a name of 60000."""
    key = b"k" * 60000
    rows = [row(b"", HEADER), row(key, entry())]
    rows += [row(b"%05d" % i, entry(), shared=len(key)) for i in range(20000)]
    began = time.perf_counter()
    assert "its names have more than" in refusal(bundle(tmp_path, table(block(*rows))))
    assert time.perf_counter() - began < 2


def test_blocks_that_are_named_many_times_are_refused_at_once(tmp_path):
    empty = block(restarts=(0,) * 500000)
    began = time.perf_counter()
    assert "within the one before it" in refusal(bundle(tmp_path, table(empty, handles=[(0, len(empty))] * 20000)))
    assert time.perf_counter() - began < 2


def test_index_of_absurd_size_is_not_read(tmp_path):
    prefix = bundle(tmp_path, b"")
    with open(index_of(prefix), "r+b") as file:
        file.truncate(1 << 40)  # of which the disk has nothing
    assert "it has more than 16777216 bytes" in refusal(prefix)


# Damage


def outcome(prefix: Path) -> str:
    """'same' if the golden tensors come back, or what the user is told."""
    try:
        assert_holds(tensorflow_bundle.read(prefix), golden_arrays())
    except UserError as error:
        assert str(prefix) in str(error)
        return str(error)
    return "same"


def test_index_cut_anywhere_is_told(golden):
    for length in range(len(GOLDEN_INDEX)):
        index_of(golden).write_bytes(GOLDEN_INDEX[:length])
        assert "golden.ckpt.index is damaged" in outcome(golden), length


def test_byte_of_the_index_that_flips_is_told(golden):
    """But for those of which nothing depends: the empty metaindex, its place and the footer's padding."""
    same = 0
    for at in range(len(GOLDEN_INDEX)):
        for bits in (0x01, 0x80, 0xFF):
            damaged = bytearray(GOLDEN_INDEX)
            damaged[at] ^= bits
            index_of(golden).write_bytes(damaged)
            same += outcome(golden) == "same"
    assert same < 3 * 60


@pytest.mark.parametrize("which", ["data", "index"])
def test_block_with_flipped_bytes_and_a_sound_checksum_is_no_traceback(golden, which):
    """As a hostile file has it: what is read is other tensors, or the user is told."""
    footer = GOLDEN_INDEX[-48:]
    _, at = leveldb._handle(footer, 0)
    (start, size), _ = leveldb._handle(footer, at)
    if which == "data":
        ((_, handle),) = leveldb._block_entries(GOLDEN_INDEX[start : start + size])
        (start, size), _ = leveldb._handle(handle, 0)
    rng = random.Random(0)
    for at in range(size):
        for bits in (0x01, 0x80, rng.randint(1, 255)):
            content = bytearray(GOLDEN_INDEX[start : start + size])
            content[at] ^= bits
            damaged = GOLDEN_INDEX[:start] + sealed(bytes(content)) + GOLDEN_INDEX[start + size + 5 :]
            index_of(golden).write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a dtype that becomes text
                    for tensor in tensorflow_bundle.read(golden).values():
                        assert tensor.read().shape == tensor.shape
            except UserError as error:
                assert str(golden) in str(error)


def test_data_cut_anywhere_is_told(golden):
    for length in range(len(GOLDEN_DATA)):
        data_of(golden).write_bytes(GOLDEN_DATA[:length])
        assert f"{data_of(golden)} has {length} bytes" in outcome(golden)


def test_byte_of_the_data_that_flips_is_told(golden):
    for at in range(len(GOLDEN_DATA)):
        damaged = bytearray(GOLDEN_DATA)
        damaged[at] ^= 0x10
        data_of(golden).write_bytes(damaged)
        assert "have the checksum" in outcome(golden), at


def test_data_that_are_cut_after_the_index_was_read_are_told(golden):
    tensors = tensorflow_bundle.read(golden)
    data_of(golden).write_bytes(GOLDEN_DATA[:-1])
    with pytest.raises(UserError, match=f"ends before byte {len(GOLDEN_DATA)}, where 'é' ends"):
        for tensor in tensors.values():
            tensor.read()
    data_of(golden).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        tensors["global_step"].read()


def test_missing_data_file_is_named(golden):
    data_of(golden).unlink()
    assert "there is no" in refusal(golden) and "golden.ckpt.data-00000-of-00001" in refusal(golden)


# What is no bundle


def test_v1_checkpoint_is_told_from_a_bundle(tmp_path):
    (tmp_path / "old.ckpt").write_bytes(GOLDEN_INDEX)  # it ends with the same magic
    assert "V1 checkpoint" in refusal(tmp_path / "old.ckpt")
    assert not tensorflow_bundle.recognises(tmp_path / "old.ckpt")


def test_prefix_is_asked_for_where_a_file_is_named(golden):
    assert "without .index" in refusal(index_of(golden))
    assert "without .index" in refusal(data_of(golden))
    assert "without .index" in refusal(golden.parent)
    assert "without .index" in refusal(golden.parent / "nothing")


def test_folder_or_other_file_as_index_is_told(tmp_path):
    index_of(tmp_path / "folder").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder")
    index_of(tmp_path / "other").write_bytes(b"name\nindex\n" * 100)
    assert "footer" in refusal(tmp_path / "other")


def test_bundle_is_known_by_the_end_of_its_index(golden, tmp_path):
    assert tensorflow_bundle.recognises(golden)
    for name, content in (("empty", b""), ("short", GOLDEN_INDEX[-4:]), ("cut", GOLDEN_INDEX[:-1])):
        index_of(tmp_path / name).write_bytes(content)
        assert not tensorflow_bundle.recognises(tmp_path / name)
    assert not tensorflow_bundle.recognises(tmp_path / "nothing")
    assert not tensorflow_bundle.recognises(index_of(golden))
    index_of(tmp_path / "folder").mkdir()
    assert not tensorflow_bundle.recognises(tmp_path / "folder")


# TensorFlow itself, where it is installed


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


def save_v2(tensorflow, prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    names = sorted(arrays)
    tensorflow.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tensorflow.constant(arrays[name]) for name in names],
    )


def test_golden_is_what_tensorflow_writes(tensorflow, golden, tmp_path):
    save_v2(tensorflow, tmp_path / "tf", golden_arrays())
    assert index_of(tmp_path / "tf").read_bytes() == GOLDEN_INDEX
    assert data_of(tmp_path / "tf").read_bytes() == GOLDEN_DATA
    save_v2(tensorflow, tmp_path / "many", many_arrays())
    assert hashlib.sha256(index_of(tmp_path / "many").read_bytes()).hexdigest() == MANY_INDEX_SHA256


@pytest.mark.parametrize("arrays", [golden_arrays, many_arrays], ids=["dtypes", "several blocks"])
def test_tensorflow_reads_what_is_written(tensorflow, tmp_path, arrays):
    tensorflow_bundle.write(tmp_path / "own", tensors_of(arrays()))
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "own"))
    assert sorted(reader.get_variable_to_shape_map()) == sorted(arrays())
    for name, array in arrays().items():
        assert same_bytes(np.asarray(reader.get_tensor(name)), array), name


def test_merged_shards_of_tensorflow_are_read(tensorflow, tmp_path):
    arrays, prefixes = golden_arrays(), []
    for shard in range(3):
        prefix = tensorflow.raw_ops.ShardedFilename(basename=str(tmp_path / "part"), shard=shard, num_shards=3)
        prefixes.append(prefix.numpy().decode())
        save_v2(tensorflow, Path(prefixes[-1]), {name: arrays[name] for name in sorted(arrays)[shard::3]})
    tensorflow.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=str(tmp_path / "merged"))
    assert data_of(tmp_path / "merged", 2, 3).is_file()
    assert_holds(tensorflow_bundle.read(tmp_path / "merged"), arrays)


def test_checkpoints_of_saver_are_read_or_refused(tensorflow, tmp_path):
    v1 = tensorflow.compat.v1
    arrays = {name: array for name, array in golden_arrays().items() if name.isascii()}
    with tensorflow.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.get_variable(name, initializer=array) for name, array in arrays.items()}
        parts = v1.get_variable("parts", (6, 2), partitioner=v1.fixed_size_partitioner(3), use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(variables).save(session, str(tmp_path / "v2"), global_step=7)
        steps = [variables["global_step"]]  # V1 has no bfloat16
        v1.train.Saver(steps, write_version=v1.train.SaverDef.V1).save(session, str(tmp_path / "v1"))
        v1.train.Saver([parts]).save(session, str(tmp_path / "parts"))
    assert_holds(tensorflow_bundle.read(tmp_path / "v2-7"), arrays)
    tensorflow_bundle.write(tmp_path / "own", tensorflow_bundle.read(tmp_path / "v2-7"))
    assert data_of(tmp_path / "own").read_bytes() == data_of(tmp_path / "v2-7").read_bytes()
    assert index_of(tmp_path / "own").read_bytes() == index_of(tmp_path / "v2-7").read_bytes()
    assert "V1 checkpoint" in refusal(tmp_path / "v1")
    assert "partitioned" in refusal(tmp_path / "parts")


@pytest.mark.parametrize("kind", ["v1", "partitioned", "big-endian"])
def test_the_advice_to_write_anew_is_sound(tensorflow, tmp_path, kind, monkeypatch):
    v1 = tensorflow.compat.v1
    old, array = tmp_path / "old", np.arange(12, dtype=np.float32).reshape(6, 2)
    if kind == "big-endian":
        monkeypatch.setattr(tensorflow_bundle, "_encode_header", lambda: HEADER[:2] + b"\x10\x01" + HEADER[2:])
        tensorflow_bundle.write(old, {"w": Tensor(array.dtype, array.shape, lambda: array.astype(">f4"))})
    else:
        with tensorflow.Graph().as_default(), v1.Session() as session:
            partitioner = v1.fixed_size_partitioner(3) if kind == "partitioned" else None
            variable = v1.get_variable("w", array.shape, partitioner=partitioner, use_resource=False)
            session.run(v1.global_variables_initializer())
            array = np.asarray(session.run(tensorflow.convert_to_tensor(variable)))
            version = v1.train.SaverDef.V1 if kind == "v1" else v1.train.SaverDef.V2
            v1.train.Saver(write_version=version).save(session, str(old))
    advice = refusal(old).partition("with TensorFlow: ")[2].removesuffix(".")
    exec(advice, {"tf": tensorflow, "OLD": str(old), "NEW": str(tmp_path / "new")})
    assert_holds(tensorflow_bundle.read(tmp_path / "new"), {"w": array})
