"""Turns a folder or file that is an adapter into a `ModelSpec` of the type adapter. Any thread; no torch.

An upscaler is an image model as well: one that makes a picture larger, and takes no prompt.
"""

from __future__ import annotations

from pathlib import Path

from models.adapters.adapter_files import AdapterFiles, adapter_bytes
from models.adapters.control_types import modes_of, types_in_name
from models.adapters.upscaler_file import SCALE
from models.spec import Limits, ModelSpec
from pipelines.diffusion_interface import UPSCALER, PipelineTask

CONTROLS = ("controlnet", "t2i_adapter")
ARGUMENTS = frozenset({"image", "video", "width", "height"})  # of the upscalers' pipeline


def read_adapter(path: Path, files: AdapterFiles, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    if files.kind == "upscaler":
        return _upscaler(path, files, name=name, source=source, float_bytes=float_bytes)
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


def _upscaler(path: Path, files: AdapterFiles, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    scale = files.config.get(SCALE)
    return ModelSpec(
        name=name,
        type="image",
        path=path,
        source=source,
        pipeline=UPSCALER,
        adapter="upscaler",
        adapter_class=files.cls,
        scale=scale if isinstance(scale, int) else None,
        weight_bytes=adapter_bytes(path, float_bytes),
        arguments=ARGUMENTS,
        tasks=(
            PipelineTask(UPSCALER, {"image": "image"}, frozenset({"image"}), ARGUMENTS),
            PipelineTask(UPSCALER, {"video": "video"}, frozenset({"video"}), ARGUMENTS),
        ),
        limits=Limits(size_multiple=1),
    )
