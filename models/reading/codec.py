"""Writes what was read of a checkpoint as JSON, and makes the same values of it again. Pure functions.

Tuples, sets, paths and the classes below come back as they were, so that a model that was read by another process
equals one that was read by this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from models.check import CheckReport, DeviceMemory
from models.check_parts import Part
from models.embedding_layout import DenseLayout, EmbeddingLayout
from models.model_entry import ModelEntry
from models.reading.outcome import Outcome, Refusal
from models.spec import Defaults, Limits, LoadOptions, ModelSpec
from pipelines.diffusion_interface import PipelineTask

CLASSES: Mapping[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        ModelSpec, Defaults, Limits, LoadOptions, EmbeddingLayout, DenseLayout, PipelineTask, ModelEntry, Outcome,
        Refusal, CheckReport, DeviceMemory, Part,
    )
}  # fmt: skip
KIND = "@"  # the key that tells what an object stands for


def encode(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return {KIND: "path", "of": str(value)}
        case tuple():
            return {KIND: "tuple", "of": [encode(each) for each in value]}
        case frozenset():
            return {KIND: "set", "of": [encode(each) for each in sorted(value)]}
        case list():
            return [encode(each) for each in value]
        case Mapping() if KIND not in value and all(isinstance(key, str) for key in value):
            return {key: encode(each) for key, each in value.items()}
        case Mapping():
            return {KIND: "dict", "of": [[encode(key), encode(each)] for key, each in value.items()]}
    name = type(value).__name__
    assert CLASSES.get(name) is type(value), f"{name} is none of the classes that are written"
    return {KIND: name, **{field.name: encode(getattr(value, field.name)) for field in fields(CLASSES[name])}}


def decode(value: Any) -> Any:
    """Raises ValueError, TypeError or KeyError for anything that `encode` does not make."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    match value.get(KIND):
        case None:
            return {key: decode(each) for key, each in value.items()}
        case "path":
            return Path(value["of"])
        case "tuple":
            return tuple(decode(each) for each in value["of"])
        case "set":
            return frozenset(decode(each) for each in value["of"])
        case "dict":
            return {decode(key): decode(each) for key, each in value["of"]}
        case str(name):
            return CLASSES[name](**{key: decode(each) for key, each in value.items() if key != KIND})
    raise ValueError("not written by encode")
