"""Protobuf's wire format: as protobuf itself writes it, and whatever bytes are read end in fields or in a sentence."""

import random

import pytest

from conversion.formats import wire
from conversion.formats.faults import Damaged

NUMBERS = sorted({edge + near for bits in range(0, 65, 7) for edge in (1 << bits,) for near in (-1, 0, 1)} - {1 << 64})
NUMBERS = [number for number in NUMBERS if 0 <= number < 1 << 64] + [(1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.fixture(params=["memory", "file"])
def readable(request, tmp_path):
    """Makes bytes readable: as they are, or from a file."""
    files = []

    def make(data: bytes):
        if request.param == "memory":
            return data
        (tmp_path / "data").write_bytes(data)
        files.append(open(tmp_path / "data", "rb"))
        return wire.FileBytes(files[-1])

    yield make
    for file in files:
        file.close()


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_come_back_and_say_where_they_end(number, readable):
    data = b"x" + wire.varint(number) + b"\xff"
    assert wire.read_varint(readable(data), 1, len(data)) == (number, len(data) - 1)


def test_fields_are_written_as_protobuf_writes_them():
    wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
    for number in NUMBERS:
        theirs = wrappers.UInt64Value(value=number).SerializeToString()
        assert theirs == (wire.number(wire.tag(1, wire.VARINT), number) if number else b"")
        assert wrappers.Int64Value.FromString(theirs).value == wire.signed(number)
    for size in (1, 127, 128, 20000):
        content = random.Random(size).randbytes(size)
        assert wrappers.BytesValue(value=content).SerializeToString() == wire.sized(wire.tag(1), content)


def test_a_message_of_every_kind_of_field_comes_back(readable):
    message = (
        wire.number(wire.tag(1, wire.VARINT), 300)
        + wire.sized(wire.tag(2), b"inner")
        + wire.fixed32(wire.tag(200, wire.FIXED32), 0xDEADBEEF)
        + wire.varint(wire.tag(3, wire.FIXED64))
        + bytes(range(8))
        + wire.sized(wire.tag(2), b"")
    )
    expected = [(0x08, 300), (0x12, b"inner"), (0x645, 0xDEADBEEF), (0x19, 0x0706050403020100), (0x12, b"")]
    assert list(wire.fields(message)) == expected
    data = b"before" + message + b"after"
    found = list(wire.places(readable(data), 6, 6 + len(message)))
    assert [(tag, data[value] if isinstance(value, slice) else value) for tag, value in found] == expected


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80", "continues after the end"),
        (b"\x08", "continues after the end"),
        (b"\x08\x80\x80", "the number at byte 1 continues after the end"),
        (b"\x08" + b"\x80" * 100, "the number at byte 1 has more than 64 bits"),
        (b"\xff" * 100, "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x12\x05abcd", "claims 5 bytes, but 4 are left"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "claims 18446744073709551615 bytes, but 0 are left"),  # -1 as an int64
        (b"\x08\x01\x12\x80\x80\x80\x80\x08" + bytes(9), "the field at byte 2 claims 2147483648 bytes, but 9 are left"),
        (b"\x35abc", "claims 4 bytes, but 3 are left"),
        (b"\x31" + bytes(7), "claims 8 bytes, but 7 are left"),
        (b"\x0b", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0e", "wire type 6"),
        (b"\x0f", "wire type 7"),
    ],
    ids=repr,
)
def test_what_no_message_has_is_told(data, told, readable):
    for more in (b"", b"\x00" * 20):  # what comes after the message does not help it
        with pytest.raises(Damaged) as raised:
            list(wire.places(readable(data + more), 0, len(data)))
        assert told in str(raised.value)


def test_a_field_ends_within_the_message_around_it(readable):
    outer = wire.sized(wire.tag(1), b"\x0a\x05ab") + b"the next one"
    ((_, place),) = wire.places(readable(outer), 0, 6)
    with pytest.raises(Damaged, match="claims 5 bytes, but 2 are left"):
        list(wire.places(readable(outer), place.start, place.stop))


def test_a_tag_that_has_no_place_there_is_told_before_what_it_brings(readable):
    message = wire.number(wire.tag(1, wire.VARINT), 1) + wire.varint(wire.tag(7)) + b"\xff" * 30
    fields = wire.places(readable(message), 0, len(message), {wire.tag(1, wire.VARINT)})
    assert next(fields) == (8, 1)
    with pytest.raises(Damaged, match="the field at byte 2 has number 7 and wire type 2, which do not belong there"):
        next(fields)


def test_a_file_that_ends_before_it_said_is_told(tmp_path):
    (tmp_path / "short").write_bytes(b"\x08\x80")
    with open(tmp_path / "short", "rb") as file, pytest.raises(Damaged, match="continues after the end"):
        list(wire.places(wire.FileBytes(file), 0, 100))


def test_any_bytes_end_in_fields_within_them_or_in_a_sentence(readable):
    random_, told = random.Random(0), 0
    for _ in range(1000):
        data = random_.randbytes(random_.randrange(60))
        try:
            for _, value in wire.places(readable(data), 0, len(data)):
                if isinstance(value, slice):
                    assert 0 <= value.start <= value.stop <= len(data)
                else:
                    assert 0 <= value < 1 << 64
        except Damaged as fault:
            told += 1
            assert len(str(fault)) < 200 and str(fault).isprintable()
    assert told > 300
