"""LoRA files by name: <data_dir>/loras/NAME.safetensors, looked at when they are asked for, so that a new one needs no restart. No torch."""

from __future__ import annotations

from pathlib import Path

from models.errors import BadModel, UnknownModel, nearest
from models.files import read_safetensors_header


class LoraFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.safetensors") if path.is_file())

    def find(self, name: str) -> Path:
        """Only what `names` lists, so a name is never a path. Raises `UnknownModel`, or `BadModel` for a file that is none."""
        names = self.names()
        if name not in names:
            raise UnknownModel(f"There is no LoRA of that name.{nearest(name, names, 3)}")
        path = self._folder / f"{name}.safetensors"
        tensors = read_safetensors_header(path)
        if not tensors:
            raise BadModel(f"the LoRA {name} holds no weights")
        return path
