"""The files of an IP-Adapter: one of weights, and beside it the folder with the encoder of its pictures. Any thread."""

from __future__ import annotations

import re
from pathlib import Path

from models.files.leftovers import files_in

IMAGE_ENCODER = "image_encoder"  # as its authors publish it
FILE_NAME = re.compile(r"ip[-_ ]?adapter", re.IGNORECASE)


def ip_adapter_file(path: Path) -> Path | None:
    """Returns the file of an IP-Adapter: `path` itself, or the only weights in a folder beside an image encoder.

    Returns None for any other folder. Judges by names alone.
    """
    if path.is_file():
        return path
    if not (path / IMAGE_ENCODER / "config.json").is_file() or (path / "config.json").is_file():
        return None
    files = sorted(files_in(path, "*.safetensors"))
    is_one = len(files) == 1 and FILE_NAME.search(files[0].name) and not (path / "model_index.json").is_file()
    return files[0] if is_one else None


def image_encoder_folder(path: Path) -> Path | None:
    """Returns the folder of the encoder that belongs to an IP-Adapter; None where the model's own is to be used."""
    folder = (path if path.is_dir() else path.parent) / IMAGE_ENCODER
    return folder if (folder / "config.json").is_file() else None
