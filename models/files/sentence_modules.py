"""Reads modules.json, the list of an embedding model's parts in the layout of sentence-transformers. Any thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel
from models.files.json_files import read_json

MODULES = "modules.json"
LIBRARY = "sentence_transformers."
MAX_MODULES = 16
MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class SentenceModule:
    kind: str  # the last part of the class's name, "Pooling"; the whole name of a class that is the checkpoint's own
    folder: str  # inside the checkpoint; "": the checkpoint's own


def has_modules(folder: Path) -> bool:
    return (folder / MODULES).is_file()


def sentence_modules(folder: Path) -> list[SentenceModule]:
    """Returns the parts in their order; none for a folder without modules.json. Raises `BadModel`."""
    if not has_modules(folder):
        return []
    listed = read_json(folder / MODULES, MAX_BYTES, "a list of modules")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_MODULES:
        raise BadModel(f"{MODULES} is not a list of 1 to {MAX_MODULES} modules")
    return [_module(entry) for entry in listed]


def module_folders(folder: Path) -> list[str]:
    """Returns the folders of the parts that have one of their own and are in it: "1_Pooling"."""
    names = (module.folder for module in sentence_modules(folder) if module.folder)
    return [name for name in dict.fromkeys(names) if (folder / name).is_dir()]


def _module(entry: object) -> SentenceModule:
    match entry:
        case {"type": str(name), "path": str(path)}:
            if path in (".", "..") or "/" in path or "\\" in path:
                raise BadModel(f"{MODULES} points outside its folder", detail=path)
            kind = name.rpartition(".")[2] if name.startswith(LIBRARY) else name
            return SentenceModule(kind[:80], path)
    raise BadModel(f"{MODULES} has an entry without type and path")
