"""Which files are taken, known by their first bytes: what a client says about a file is often wrong. Pure functions."""

from __future__ import annotations

import re

MAX_BYTES = 32 * 2**20  # of one file as it is sent
TAKEN = "a PNG, JPEG or WebP picture, or an MP4 or WebM clip"
EXTENSIONS = {"image/png": "png", "video/mp4": "mp4", "video/webm": "webm"}  # of files as they are kept
NOT_CLIPS = re.compile(rb"hei[cmsfxv]|hev[cmsx]|mif[12]|msf1|avi[fs]|jpe?g|jp2 |jpx |jxl |crx |qt  |M4[AB] ")
EBML, WEBM, HEAD_BYTES = b"\x1a\x45\xdf\xa3", b"\x42\x82\x84webm", 64  # the identifier and length of the DocType


def media_type_of(head: bytes) -> str | None:
    """Returns the media type of a file that is taken, or None. head: its first 64 bytes, or more."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and not NOT_CLIPS.match(head, 8):
        return "video/mp4"
    if head.startswith(EBML) and WEBM in head[:HEAD_BYTES]:
        return "video/webm"
    return None
