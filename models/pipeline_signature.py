"""Reads which components a diffusers pipeline class takes from its source, without importing it. Any thread; no torch.

diffusers opens those entries of a model_index.json that are components by the class's `__init__`. Every other key is
a plain value of the class or ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from models.pipeline_class import pipeline_class

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PipelineSignature:
    required: frozenset[str]  # components that must be listed, be it as null
    optional: frozenset[str]  # components that may be left out
    classes: Mapping[str, tuple[str, ...]]  # component → the classes that its annotation names, and others

    @property
    def components(self) -> frozenset[str]:
        return self.required | self.optional


@lru_cache(maxsize=256)
def pipeline_signature(class_name: str) -> PipelineSignature | None:
    """Returns None when diffusers has no such class, or its source has no `__init__` that tells."""
    arguments = _find(class_name, _init_arguments)
    if arguments is None:
        return None
    without_default, with_default = arguments
    declared = _find(class_name, _optional_components) or frozenset()
    # A class that fetches its connected pipelines fills in what its index does not list.
    required = frozenset() if _find(class_name, _connects) else without_default - declared
    classes = _find(class_name, _annotations) or {}
    return PipelineSignature(required, without_default - required | with_default & declared, classes)


def _find(class_name: str, read: Callable[[ast.ClassDef], T | None]) -> T | None:
    """Returns what `read` finds in the class, else in the nearest of its bases that diffusers' pipelines define."""
    for cls in _with_bases(class_name):
        if (found := read(cls)) is not None:
            return found
    return None


def _with_bases(class_name: str) -> Iterator[ast.ClassDef]:
    found = pipeline_class(class_name)
    if found is None:
        return
    cls, _ = found
    yield cls
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id != "DiffusionPipeline":
            yield from _with_bases(base.id)


def _init_arguments(cls: ast.ClassDef) -> tuple[frozenset[str], frozenset[str]] | None:
    """Returns the names of the arguments without and with a default."""
    init = _init(cls)
    if init is None:
        return None
    positional = [arg.arg for arg in (*init.args.posonlyargs, *init.args.args)][1:]  # drops self
    n_required = len(positional) - len(init.args.defaults)
    keyword_only = [*zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]
    required = {*positional[:n_required], *(arg.arg for arg, default in keyword_only if default is None)}
    return frozenset(required), frozenset((*positional, *(arg.arg for arg, _ in keyword_only))) - required


def _annotations(cls: ast.ClassDef) -> dict[str, tuple[str, ...]] | None:
    """Returns the names of classes in the annotation of each argument."""
    init = _init(cls)
    if init is None:
        return None
    return {
        arg.arg: tuple(dict.fromkeys(node.id for node in ast.walk(arg.annotation) if isinstance(node, ast.Name)))
        for arg in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)
        if arg.annotation is not None
    }


def _init(cls: ast.ClassDef) -> ast.FunctionDef | None:
    return next((node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)


def _optional_components(cls: ast.ClassDef) -> frozenset[str] | None:
    value = _class_value(cls, "_optional_components")
    return None if value is None else frozenset(map(str, ast.literal_eval(value)))


def _connects(cls: ast.ClassDef) -> bool | None:
    value = _class_value(cls, "_load_connected_pipes")
    return None if value is None else bool(ast.literal_eval(value))


def _class_value(cls: ast.ClassDef, name: str) -> ast.expr | None:
    for node in cls.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == name:
                return value
    return None
