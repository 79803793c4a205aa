"""Reads lists that model classes of diffusers declare, from their source, without importing them. Any thread."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

from models.installed_libraries import package_folder


@lru_cache(maxsize=256)
def declared_names(class_name: str, attribute: str) -> tuple[str, ...]:
    """Returns the texts in `attribute = [...]` in the body of the class; none when it has no such attribute."""
    path = _files_by_class().get(class_name)
    if path is None:
        return ()
    rest = path.read_text(encoding="utf-8").split(f"\nclass {class_name}(", 1)[-1]
    body = re.split(r"\n(?=class |@|def )", rest, maxsplit=1)[0]
    found = re.search(rf"^    {attribute} = (\[.*?\])", body, re.MULTILINE | re.DOTALL)
    return tuple(str(name) for name in ast.literal_eval(found[1])) if found else ()


@lru_cache(maxsize=1)
def _files_by_class() -> dict[str, Path]:
    paths = sorted((package_folder("diffusers") / "models").rglob("*.py"))
    head = re.compile(r"^class (\w+)\(", re.MULTILINE)
    return {name: path for path in paths for name in head.findall(path.read_text(encoding="utf-8"))}


@lru_cache(maxsize=1)
def single_file_classes() -> frozenset[str]:
    """Returns the model classes that diffusers reads from a single file."""
    text = (package_folder("diffusers") / "loaders" / "single_file_model.py").read_text(encoding="utf-8")
    table = text.split("SINGLE_FILE_LOADABLE_CLASSES = {", 1)[-1].split("\n}", 1)[0]
    return frozenset(re.findall(r'^    "(\w+)": \{', table, re.MULTILINE))
