"""Tells the format of a weight file from its first bytes, because a pickle may be called model.safetensors.

Any thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from models.files.regular_file import open_file

FileKind: TypeAlias = Literal["safetensors", "gguf", "pickle", "zip", "unknown"]

MAX_HEADER_BYTES = 32 << 20  # the format allows 100 MB; the header of 100,000 tensors takes 12 MiB


def sniff(path: Path) -> FileKind:
    """Returns "unknown" for a file that has none of the other formats. Raises as `open_file`."""
    with open_file(path) as file:
        head = file.read(16)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"PK"):
        return "zip"  # torch.save writes a zip around a pickle
    # 8 bytes of header length, then JSON. Tested before pickle, because a length may begin with 0x80.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return "safetensors"
    if head.startswith(b"\x80") or head[:1] in (b"(", b"c", b"]", b"}"):
        return "pickle"  # protocol 2 and later begin with 0x80; 0 and 1 begin with an opcode
    return "unknown"
