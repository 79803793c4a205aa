"""Parses models.toml into entries: what its author sets for a model, applied over what the checkpoint has. Any thread.

  [models.NAME]           type, source, revision, aliases, default, dtype, device, pinned, keep_alive_s, max_running,
                          control_types, scale
  [models.NAME.defaults]  the fields of models.spec.Defaults     [models.NAME.sizes]  "16:9" = [width, height]
  [models.NAME.limits]    the fields of models.spec.Limits       [models.NAME.call]   arguments of the pipeline's
  __call__ [models.NAME.load]      the fields of models.spec.LoadOptions

An unknown key is an error, because a misspelt key would be a setting that silently does nothing.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from models.errors import BadConfig, nearest
from models.sources.hub_id import at_revision
from models.spec import Defaults, Dtype, Limits, LoadOptions, ModelSpec, ModelType

Names = tuple[str, ...]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SECTIONS = ("defaults", "limits", "sizes", "call", "load")
TOP_KEYS = (
    "type",
    "source",
    "revision",
    "aliases",
    "default",
    "dtype",
    "device",
    "pinned",
    "keep_alive_s",
    "max_running",
    "control_types",
    "scale",
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    name: str
    top: Mapping[str, Any]  # the keys of [models.NAME] itself
    defaults: Mapping[str, Any]
    limits: Mapping[str, Any]
    sizes: Mapping[str, tuple[int, int]]
    call: Mapping[str, object]
    load: Mapping[str, Any]

    @property
    def source(self) -> str | None:
        """Returns the source at its revision: "owner/name@revision:file".

        The key `revision` wins over a revision in the source: a pull of "owner/name@branch" pins the commit there.
        """
        source, revision = self.top.get("source"), self.top.get("revision")
        return source if source is None or revision is None else at_revision(str(source), str(revision))

    @property
    def type(self) -> ModelType | None:
        return self.top.get("type")

    @property
    def dtype(self) -> Dtype:
        dtype: Dtype = self.top.get("dtype", "auto")
        return dtype

    def apply_to(self, spec: ModelSpec, origin: str) -> ModelSpec:
        """Returns the spec with the values of this entry, recorded as set by `origin`; all other values stay."""
        top = {key: value for key, value in self.top.items() if key not in ("type", "source")}
        keys = [*top]
        for section in SECTIONS:
            keys += [f"{section}.{key}" for key in getattr(self, section)]
        return replace(
            spec,
            **top,
            defaults=replace(spec.defaults, **self.defaults),
            limits=replace(spec.limits, **self.limits),
            sizes={**spec.sizes, **self.sizes},
            call={**spec.call, **self.call},
            load=replace(spec.load, **self.load),
            origins={**spec.origins, **dict.fromkeys(keys, origin)},
        )


def read_entries(toml: Path) -> list[ModelEntry]:
    """Parses the file. Raises `BadConfig` that names the file and the key at fault."""
    try:
        parsed = tomllib.loads(toml.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{toml}: {error}") from error
    try:
        _check_keys(parsed, ("models",), "")
        return [parse_entry(name, table) for name, table in _table(parsed.get("models", {}), "models").items()]
    except BadConfig as error:
        raise BadConfig(f"{toml}: {error.message}") from error


def parse_entry(name: str, value: object) -> ModelEntry:
    """Parses one [models.NAME] table. Raises `BadConfig` that names the key at fault."""
    where = f"models.{name}"
    if not NAME.fullmatch(name):
        raise BadConfig(f"[{where}]: a model's name is made of a-z, 0-9, '.', '_' and '-', at most 64 of them")
    table = _table(value, where)
    _check_keys(table, (*TOP_KEYS, *SECTIONS), where)
    return ModelEntry(
        name=name,
        top=_typed({key: table[key] for key in TOP_KEYS if key in table}, ModelSpec, where),
        defaults=_typed(_table(table.get("defaults", {}), f"{where}.defaults"), Defaults, f"{where}.defaults"),
        limits=_typed(_table(table.get("limits", {}), f"{where}.limits"), Limits, f"{where}.limits"),
        sizes=_sizes(_table(table.get("sizes", {}), f"{where}.sizes"), f"{where}.sizes"),
        call=_plain_values(_table(table.get("call", {}), f"{where}.call"), f"{where}.call"),
        load=_typed(_table(table.get("load", {}), f"{where}.load"), LoadOptions, f"{where}.load"),
    )


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadConfig(f"[{where}] is not a table")
    return value


def _plain_values(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the table, whose values go into the pipeline's call and into stored jobs, as JSON."""
    for key, value in table.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise BadConfig(
                f"[{where}] {key} is not a text, a finite number, true or false, or a list of these"
            ) from None
    return dict(table)


def _check_keys(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise BadConfig(f"[{where}] unknown key '{key}'.{nearest(key, known)}")


def _typed(
    table: Mapping[str, Any], cls: type[Defaults | Limits | LoadOptions | ModelSpec], where: str
) -> dict[str, Any]:
    """Returns the table once every key is a field of `cls` and every value has the type of its field."""
    _check_keys(table, tuple(field.name for field in fields(cls)), where)
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    for key, value in table.items():
        allowed = _allowed(hints[key])
        if allowed == (Names,):
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise BadConfig(f"[{where}] {key} = {value!r} is not a list of texts")
            found[key] = tuple(value)
            continue
        if float in allowed and type(value) is int:
            value = float(value)
        if type(value) not in allowed and value not in allowed:
            raise BadConfig(f"[{where}] {key} = {value!r} is not {_description(allowed)}")
        if isinstance(value, float) and not (math.isfinite(value) or (key == "keep_alive_s" and value > 0)):
            raise BadConfig(f"[{where}] {key} = {value!r} is not a number")
        found[key] = value
    return found


def _allowed(hint: Any) -> tuple[Any, ...]:
    """Returns the types or values that a type hint allows: (int,) for `int | None`, the values of a Literal."""
    if get_origin(hint) in (UnionType, typing.Union):
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        return tuple(allowed for choice in choices for allowed in _allowed(choice))
    return get_args(hint) if get_origin(hint) is typing.Literal else (hint,)


def _description(allowed: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(
        names.get(choice, repr(choice)) if isinstance(choice, type) else repr(choice) for choice in allowed
    )


def _sizes(table: Mapping[str, Any], where: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for aspect, size in table.items():
        match size:
            case [int(width), int(height)] if width > 0 and height > 0:
                found[aspect] = (width, height)
            case _:
                raise BadConfig(f"[{where}] '{aspect}' is not [width, height] in pixels")
    return found
