"""Counts the parts of a picture's file, of which an attacker can put millions into a few megabytes. Pure functions.

Pillow goes through the parts of PNG, JPEG and GIF files in Python, a few microseconds each, and decodes every scan of a
progressive JPEG over the whole picture. Honest files have thousands of parts at most, and about ten scans.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

MAX_PARTS = 20_000  # of a PNG of 20 MiB whose encoder wrote 1 KiB at a time
MAX_SCANNED_PIXELS = 1_200_000_000  # over all scans: about two seconds
PNG, JPEG, GIF = b"\x89PNG", b"\xff\xd8", b"GIF8"
START_OF_SCAN = b"\xff\xda"


def has_too_many_parts(data: bytes) -> bool:
    parts: Iterator[int] = iter(())
    if data.startswith(PNG):
        parts = _png_chunks(data)
    elif data.startswith(JPEG):
        parts = _jpeg_segments(data)
    elif data.startswith(GIF):
        parts = _gif_blocks(data)
    return next(islice(parts, MAX_PARTS, None), None) is not None


def has_too_many_scans(data: bytes, n_pixels: int) -> bool:
    """n_pixels: of the picture. In the coded data of a JPEG, the two bytes that start a scan mean nothing else."""
    return data.startswith(JPEG) and data.count(START_OF_SCAN) * n_pixels > MAX_SCANNED_PIXELS


def _png_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        if data[at + 4 : at + 8] == b"IEND":  # Pillow reads no further
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Those before the first scan, and the bytes between them that fill up."""
    at = 2
    while at + 4 <= len(data) and data[at : at + 2] != START_OF_SCAN:
        yield at
        is_segment = data[at] == 0xFF and data[at + 1] not in (0x00, 0xFF)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if is_segment else 1


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Those before the first picture."""
    at = 13 + (3 << (data[10] % 8 + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    while at + 2 < len(data) and data[at] != 0x2C:
        yield at
        at += 2 if data[at] == 0x21 else 1
        while at < len(data) and data[at]:  # the pieces of an extension
            yield at
            at += 1 + data[at]
        at += 1
