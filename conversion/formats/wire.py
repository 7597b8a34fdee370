"""Protobuf's wire format: the bytes of which ONNX, MindSpore's .ckpt and TensorFlow's index are made.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

BYTES = 2  # the wire type of what is length-delimited: text, messages, packed numbers


def varint(value: int) -> bytes:
    """An unsigned integer: seven bits a byte, the lowest first, the top bit set where more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def begin(field: int, size: int) -> bytes:
    """What stands before the `size` bytes of a length-delimited field."""
    return varint(field << 3 | BYTES) + varint(size)
