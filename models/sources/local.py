"""Finds a folder or file on this machine. Any thread."""

from __future__ import annotations

import os
from pathlib import Path

from models.errors import SourceMissing


def find_local(source: str, relative_to: Path) -> Path | None:
    """Returns None when `source` is not an existing path. Raises `SourceMissing` when it is clearly written as one."""
    path = Path(os.path.expanduser(source))  # an unknown ~user stays as it is, and then does not exist
    path = path if path.is_absolute() else relative_to / path
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # a name that is too long
        is_folder = is_file = False
    if is_folder or (is_file and path.suffix in (".safetensors", ".gguf")):
        return path
    if source.startswith((".", "/", "~")):
        wrong = "neither a .safetensors nor a .gguf file" if is_file else "no folder"
        raise SourceMissing(f"source '{source}' is {wrong}")
    return None
