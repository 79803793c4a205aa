"""Do the defaults, limits and sizes that an entry says fit its model? Asked before it is listed; no torch.

A default that no request could be run with, or that nothing of this type reads, is an error of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.checkpoint import sizes_by_aspect
from models.entries import NAME, Entry
from models.errors import BadModel, nearest
from models.pipeline_source import pipeline_source
from models.spec import ModelSpec

PICTURE = ("steps", "guidance_scale", "negative_prompt", "width", "height", "scheduler", "clip_skip")
READ = {
    "image": PICTURE,
    "video": (*PICTURE, "num_frames", "fps"),
    "chat": ("max_tokens", "temperature", "top_p", "repetition_penalty", "system"),
}
LIMITS = {
    "image": ("max_steps", "max_pixels", "size_multiple"),
    "video": ("max_steps", "max_pixels", "size_multiple", "max_duration_s", "frames_multiple", "frames_remainder"),
    "chat": ("context_tokens",),
}
FROM_ZERO = ("guidance_scale", "clip_skip", "temperature", "frames_remainder")  # all other numbers are above it


def with_sizes(spec: ModelSpec, entry: Entry, who: str) -> ModelSpec:
    """A native size that was said decides the sizes of the aspect ratios, too, but for those that were said themselves."""
    if not {"width", "height"} & entry.defaults.keys() or not (spec.defaults.width and spec.defaults.height):
        return spec
    sizes = sizes_by_aspect((spec.defaults.width, spec.defaults.height), spec.limits.size_multiple)
    new = {ratio: size for ratio, size in sizes.items() if ratio not in entry.sizes}
    return replace(
        spec, sizes={**spec.sizes, **new}, origins={**spec.origins, **{f"sizes.{ratio}": who for ratio in new}}
    )


def check_defaults(spec: ModelSpec, entry: Entry) -> None:
    """`spec` with the entry laid over it. Raises `BadModel` that names the key."""
    for section, said, read in (("defaults", entry.defaults, READ), ("limits", entry.limits, LIMITS)):
        for key, value in said.items():
            if key not in read[spec.type]:
                raise BadModel(f"{section}.{key} means nothing to a model for {spec.type}")
            if isinstance(value, int | float) and (value < 0 or (value == 0 and key not in FROM_ZERO)):
                raise BadModel(f"{section}.{key} must be {'0 or more' if key in FROM_ZERO else 'more than 0'}")
    for alias in spec.aliases:
        if not NAME.fullmatch(alias):
            raise BadModel(f"aliases: '{alias[:80]}' is no name: a-z, 0-9, '.', '_' and '-', at most 64 of them")
    if spec.type == "chat":
        if entry.sizes or entry.call:
            raise BadModel(f"{'sizes' if entry.sizes else 'call'} means nothing to a model for chat")
    elif spec.path is not None:  # what is not here yet has said nothing of itself
        _check_sizes(spec, entry)
        _check_call(spec, entry)
    if (top_p := spec.defaults.top_p) > 1:
        raise BadModel(f"defaults.top_p is {top_p}, more than 1")


def _check_sizes(spec: ModelSpec, entry: Entry) -> None:
    defaults, limits, said = spec.defaults, spec.limits, entry.defaults.keys() | entry.limits.keys()
    sizes = {f"sizes.{ratio}": size for ratio, size in entry.sizes.items()}
    if {"width", "height"} & said and defaults.width and defaults.height:
        sizes["defaults.width and defaults.height"] = (defaults.width, defaults.height)
    for key, (width, height) in sizes.items():
        if width % limits.size_multiple or height % limits.size_multiple:
            raise BadModel(f"{key}: {width}x{height} is no multiple of {limits.size_multiple}")
        if width * height > limits.max_pixels:
            raise BadModel(f"{key}: {width}x{height} is more than limits.max_pixels, {limits.max_pixels}")
    if {"steps", "max_steps"} & said and (defaults.steps or 0) > limits.max_steps:
        raise BadModel(f"defaults.steps is {defaults.steps}, more than limits.max_steps, {limits.max_steps}")
    frames = defaults.num_frames
    if "num_frames" in said and frames and (frames - limits.frames_remainder) % limits.frames_multiple:
        plus = f" plus {limits.frames_remainder}" if limits.frames_remainder else ""
        raise BadModel(f"defaults.num_frames: {frames} is no multiple of {limits.frames_multiple}{plus}")


def _check_call(spec: ModelSpec, entry: Entry) -> None:
    """Against what the pipeline takes."""
    said = entry.defaults
    if (scheduler := said.get("scheduler")) is not None and scheduler not in spec.schedulers:
        if not spec.schedulers:
            raise BadModel("defaults.scheduler: this model has none that could be changed")
        raise BadModel(f"defaults.scheduler must be one of {', '.join(spec.schedulers)}")
    if said.get("clip_skip", 0) > spec.max_clip_skip:
        if not spec.max_clip_skip:
            raise BadModel("defaults.clip_skip: this model has no layers of CLIP that could be left out")
        raise BadModel(f"defaults.clip_skip must be at most {spec.max_clip_skip}")
    pipeline = pipeline_source(spec.pipeline) if spec.pipeline else None
    if pipeline is None:
        return
    wanted: Mapping[str, Any] = {f"defaults.{key}": key for key in ("guidance_scale", "negative_prompt") if key in said}
    for where, argument in {**wanted, **{f"call.{key}": key for key in entry.call}}.items():
        if argument not in pipeline.arguments:
            near = nearest(argument, sorted(pipeline.arguments)) if where.startswith("call.") else ""
            raise BadModel(f"{where}: {spec.pipeline} takes no such argument.{near}".removesuffix("."))
