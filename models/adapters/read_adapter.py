"""Turns a folder or file that is an adapter into a `ModelSpec` of the type adapter. Any thread; no torch."""

from __future__ import annotations

from pathlib import Path

from models.adapters.adapter_files import AdapterFiles, adapter_bytes
from models.adapters.control_types import modes_of, types_in_name
from models.spec import ModelSpec

CONTROLS = ("controlnet", "t2i_adapter")


def read_adapter(path: Path, files: AdapterFiles, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    modes = modes_of(files.cls, files.config) if files.kind == "controlnet" else {}
    told = types_in_name(source.rpartition(":")[2]) or types_in_name(name) if files.kind in CONTROLS else ()
    return ModelSpec(
        name=name,
        type="adapter",
        path=path,
        source=source,
        adapter=files.kind,
        adapter_class=files.cls,
        control_types=tuple(modes) or told,
        control_modes=modes,
        weight_bytes=adapter_bytes(path, float_bytes),
    )
