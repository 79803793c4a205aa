"""What a picture in a message may be as a file: known by its first bytes, for clients often name the wrong media type.

Pure. What the bytes hold is looked at later, on a worker thread (`pipelines/chat/prompts/pictures.py`).
"""

from __future__ import annotations

import re

from server.units import size

MAX_IMAGE_BYTES = 20 * 2**20
FILE_TYPES = "a PNG, JPEG, WebP or GIF file"
FIRST_BYTES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP", re.DOTALL)
TOO_LARGE = f"a picture of at most {size(MAX_IMAGE_BYTES)}"


def what_it_must_be(data: bytes) -> str | None:
    """Returns what a file must be that is too large, or of no type that is read here; None for any other."""
    if len(data) > MAX_IMAGE_BYTES:
        return TOO_LARGE
    return None if FIRST_BYTES.match(data) else FILE_TYPES
