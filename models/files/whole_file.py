"""Writes a small file at once, so that nobody ever reads half of it. Any thread."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Puts a file with this text in the place of what is there. Raises `OSError`; then `path` is as it was.

    What was written last may be lost with the machine's power.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text)
    new.replace(path)
