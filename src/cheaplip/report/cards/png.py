"""Writes pixels as a PNG data URI, by the standard library alone."""

import base64
import struct
import zlib

__all__ = ["Pixels", "data_uri"]

Pixels = list[list[tuple[int, int, int]]]
"""Rows of (red, green, blue), each from 0 to 255."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def data_uri(pixels: Pixels) -> str:
    """Write rows of (red, green, blue), each from 0 to 255, as ``data:image/png;base64,...``.

    Reference:
        ISO/IEC 15948, Portable Network Graphics.
    """
    lines = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return "data:image/png;base64," + base64.b64encode(_SIGNATURE + b"".join(_chunk(*part) for part in parts)).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
