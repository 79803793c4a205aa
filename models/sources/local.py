"""A folder or a file on this machine; relative ones lie beside the models.toml that names them."""

from __future__ import annotations

import os
from pathlib import Path

from models.errors import SourceMissing


def find_local(source: str, beside: Path) -> Path | None:
    """None when it is no path of this machine; `SourceMissing` when it is written like one and nothing is there."""
    path = Path(os.path.expanduser(source))  # an unknown ~user stays as it is, and is then nothing
    path = path if path.is_absolute() else beside / path
    if path.is_dir() or (path.is_file() and path.suffix in (".safetensors", ".gguf")):
        return path
    if source.startswith((".", "/", "~")):
        wrong = "neither a .safetensors nor a .gguf file" if path.is_file() else "no folder"
        raise SourceMissing(f"source '{source}' is {wrong}")
    return None
