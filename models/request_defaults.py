"""Checks that the defaults, limits and sizes of a models.toml entry fit the checkpoint, before the model is listed.

A default that no request could run with, or that this type of model never reads, is an error. Any thread; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.checkpoint.image_size import sizes_by_aspect
from models.checkpoint.pipeline_source import pipeline_source
from models.errors import BadModel, nearest
from models.model_entry import NAME, ModelEntry
from models.spec import ModelSpec

DIFFUSION = ("steps", "guidance_scale", "negative_prompt", "width", "height", "scheduler", "clip_skip")
DEFAULTS_OF_TYPE = {
    "image": DIFFUSION,
    "video": (*DIFFUSION, "num_frames", "fps"),
    "chat": ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "system"),
    "embedding": (),
    "adapter": (),
}
LIMITS_OF_TYPE = {
    "image": ("max_steps", "max_pixels", "size_multiple"),
    "video": ("max_steps", "max_pixels", "size_multiple", "max_duration_s", "frames_multiple", "frames_remainder"),
    "chat": ("context_tokens",),
    "embedding": ("context_tokens",),
    "adapter": (),
}
MAY_BE_ZERO = (
    "guidance_scale",
    "clip_skip",
    "temperature",
    "top_k",
    "min_p",
    "frames_remainder",
)  # all other numbers are positive


def with_sizes(spec: ModelSpec, entry: ModelEntry, origin: str) -> ModelSpec:
    """Recomputes the sizes of the aspect ratios when the entry sets a native size.

    Sizes that the entry itself sets stay as they are.
    """
    if not {"width", "height"} & entry.defaults.keys() or not (spec.defaults.width and spec.defaults.height):
        return spec
    sizes = sizes_by_aspect((spec.defaults.width, spec.defaults.height), spec.limits.size_multiple)
    new = {ratio: size for ratio, size in sizes.items() if ratio not in entry.sizes}
    return replace(
        spec, sizes={**spec.sizes, **new}, origins={**spec.origins, **{f"sizes.{ratio}": origin for ratio in new}}
    )


def check_defaults(spec: ModelSpec, entry: ModelEntry) -> None:
    """Checks `spec`, to which `entry` is applied already. Raises `BadModel` that names the key at fault."""
    for section, values, known in (
        ("defaults", entry.defaults, DEFAULTS_OF_TYPE),
        ("limits", entry.limits, LIMITS_OF_TYPE),
    ):
        for key, value in values.items():
            if key not in known[spec.type]:
                raise BadModel(f"{section}.{key} does not apply to {spec.type} models")
            if isinstance(value, int | float) and (value < 0 or (value == 0 and key not in MAY_BE_ZERO)):
                raise BadModel(f"{section}.{key} must be {'0 or more' if key in MAY_BE_ZERO else 'more than 0'}")
    if spec.type == "adapter" and (spec.default or spec.pinned):
        raise BadModel(f"{'default' if spec.default else 'pinned'} does not apply to adapters: requests borrow them")
    if spec.type != "adapter" and entry.top.get("control_types"):
        raise BadModel("control_types is for ControlNets and T2I-Adapters")
    for alias in spec.aliases:
        if not NAME.fullmatch(alias):
            raise BadModel(f"aliases: '{alias[:80]}' is not a name: a-z, 0-9, '.', '_' and '-', at most 64 of them")
    if not spec.is_diffusion:
        if entry.sizes or entry.call:
            raise BadModel(f"{'sizes' if entry.sizes else 'call'} does not apply to {spec.type} models")
    elif spec.path is not None:  # the limits of a model that is not downloaded are not known yet
        _check_sizes(spec, entry)
        _check_pipeline_arguments(spec, entry)
    positions = None if spec.embedding is None else spec.embedding.max_positions
    longest = spec.limits.context_tokens
    if positions is not None and longest is not None and longest > positions:
        raise BadModel(f"limits.context_tokens is {longest}, and the model has places for {positions} tokens")
    for key in ("top_p", "min_p"):
        if (value := getattr(spec.defaults, key)) > 1:
            raise BadModel(f"defaults.{key} is {value}, more than 1")


def _check_sizes(spec: ModelSpec, entry: ModelEntry) -> None:
    """Checks the values that the entry sets, also against limits that the checkpoint has."""
    defaults, limits, set_keys = spec.defaults, spec.limits, entry.defaults.keys() | entry.limits.keys()
    sizes = {f"sizes.{ratio}": size for ratio, size in entry.sizes.items()}
    if {"width", "height"} & set_keys and defaults.width and defaults.height:
        sizes["defaults.width and defaults.height"] = (defaults.width, defaults.height)
    for key, (width, height) in sizes.items():
        if width % limits.size_multiple or height % limits.size_multiple:
            raise BadModel(f"{key}: {width}x{height} is not a multiple of {limits.size_multiple}")
        if width * height > limits.max_pixels:
            raise BadModel(f"{key}: {width}x{height} is more than limits.max_pixels, {limits.max_pixels}")
    if {"steps", "max_steps"} & set_keys and (defaults.steps or 0) > limits.max_steps:
        raise BadModel(f"defaults.steps is {defaults.steps}, more than limits.max_steps, {limits.max_steps}")
    frames = defaults.num_frames
    if "num_frames" in set_keys and frames and (frames - limits.frames_remainder) % limits.frames_multiple:
        plus = f" plus {limits.frames_remainder}" if limits.frames_remainder else ""
        raise BadModel(f"defaults.num_frames: {frames} is not a multiple of {limits.frames_multiple}{plus}")


def _check_pipeline_arguments(spec: ModelSpec, entry: ModelEntry) -> None:
    defaults = entry.defaults
    if (scheduler := defaults.get("scheduler")) is not None and scheduler not in spec.schedulers:
        if not spec.schedulers:
            raise BadModel("defaults.scheduler: this model has none that could be changed")
        raise BadModel(f"defaults.scheduler must be one of {', '.join(spec.schedulers)}")
    if defaults.get("clip_skip", 0) > spec.max_clip_skip:
        if not spec.max_clip_skip:
            raise BadModel("defaults.clip_skip: this model has no layers of CLIP that could be left out")
        raise BadModel(f"defaults.clip_skip must be at most {spec.max_clip_skip}")
    pipeline = pipeline_source(spec.pipeline) if spec.pipeline else None
    if pipeline is None:
        return
    arguments: Mapping[str, Any] = {
        **({"defaults.guidance_scale": spec.guidance_argument} if "guidance_scale" in defaults else {}),
        **({"defaults.negative_prompt": "negative_prompt"} if "negative_prompt" in defaults else {}),
        **{f"call.{key}": key for key in entry.call},
    }
    for key, argument in arguments.items():
        if argument not in pipeline.arguments:
            near = nearest(argument, sorted(pipeline.arguments)) if key.startswith("call.") else ""
            raise BadModel(f"{key}: {spec.pipeline} takes no such argument.{near}".removesuffix("."))
