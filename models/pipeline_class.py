"""Finds the source of a pipeline class in the installed diffusers, without importing it. Any thread; no torch."""

from __future__ import annotations

import ast
from functools import lru_cache

from models.installed_libraries import pipeline_files
from models.python_source import parse


@lru_cache(maxsize=8)  # a tree takes some megabytes; all readers of a class come one after another
def pipeline_class(class_name: str) -> tuple[ast.ClassDef, str] | None:
    """Returns the class and the text of its file; None when diffusers has no such class."""
    path = pipeline_files().get(class_name)
    if path is None:
        return None
    text = path.read_text(encoding="utf-8")
    tree = parse(text)
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name), text
