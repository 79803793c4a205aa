"""How large a picture and how long a clip become: as asked for, or the model's own, on the grid the model can make. Pure functions."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from models.spec import Limits, ModelSpec
from server.errors import BadRequest

AspectRatio: TypeAlias = Literal["16:9", "1:1", "9:16"]

RATIOS: dict[AspectRatio, float] = {"16:9": 16 / 9, "1:1": 1.0, "9:16": 9 / 16}
SAME_SHAPE = 0.05  # a model's own size within 5 % of the ratio asked for is taken as it is: 832x480 is "16:9"

# For checkpoints that say nothing themselves; the values of stock diffusers pipelines.
SIDE_PIXELS = 512
FPS = 8
DURATION_S = 2


def size(width: int | None, height: int | None, ratio: AspectRatio | None, spec: ModelSpec) -> tuple[int, int]:
    """(width, height) in pixels; None is not said. Raises `BadRequest`."""
    if width is None and height is None:
        return _size_for(ratio or ("1:1" if spec.type == "image" else "16:9"), spec)
    if width is None or height is None:
        raise BadRequest("width and height must be given together.")
    if ratio is not None:
        raise BadRequest("aspect_ratio and width with height exclude each other: send one of them.")
    multiple = spec.limits.size_multiple
    for name, value in (("width", width), ("height", height)):
        if value % multiple:
            low, high = max(multiple, value // multiple * multiple), (value // multiple + 1) * multiple
            near = f"{low} or {high}" if low != high else f"{low}"
            raise BadRequest(f"{name} must be a multiple of {multiple} for {spec.name}, for example {near}.")
    if width * height > spec.limits.max_pixels:
        raise BadRequest(f"width times height must be at most {spec.limits.max_pixels} pixels for {spec.name}.")
    return width, height


def _size_for(ratio: AspectRatio, spec: ModelSpec) -> tuple[int, int]:
    """The model's own size for this ratio, else one of about its native number of pixels on its grid."""
    if ratio in spec.sizes:
        return spec.sizes[ratio]
    native = (spec.defaults.width or SIDE_PIXELS, spec.defaults.height or SIDE_PIXELS)
    wanted = RATIOS[ratio]
    if abs(native[0] / native[1] / wanted - 1) <= SAME_SHAPE:
        return native
    multiple = spec.limits.size_multiple
    pixels = min(native[0] * native[1], spec.limits.max_pixels)
    sides = math.sqrt(pixels * wanted), math.sqrt(pixels / wanted)
    width, height = (max(1, round(side / multiple)) * multiple for side in sides)
    while width * height > spec.limits.max_pixels and max(width, height) > multiple:
        width, height = (width - multiple, height) if width > height else (width, height - multiple)
    return width, height


def length(num_frames: int | None, duration_s: int | None, spec: ModelSpec) -> tuple[int, int]:
    """(frames, frames per second); None is not said. Raises `BadRequest`."""
    limits, fps = spec.limits, spec.defaults.fps or FPS
    if num_frames is not None:
        if duration_s is not None:
            raise BadRequest("duration and num_frames exclude each other: send one of them.")
        _check_frames(num_frames, spec, fps)
        return num_frames, fps
    if duration_s is not None:
        if duration_s > limits.max_duration_s:
            raise BadRequest(f"duration must be at most {limits.max_duration_s} seconds for {spec.name}.")
        return _snapped(duration_s * fps, limits), fps
    return spec.defaults.num_frames or _snapped(min(DURATION_S, limits.max_duration_s) * fps, limits), fps


def _check_frames(num_frames: int, spec: ModelSpec, fps: int) -> None:
    limits = spec.limits
    most = _snapped(limits.max_duration_s * fps, limits)
    if num_frames > most:
        raise BadRequest(
            f"num_frames must be at most {most} for {spec.name}: {limits.max_duration_s} s at {fps} a second."
        )
    near = _snapped(num_frames, limits)
    if near != num_frames:
        plus = f" plus {limits.frames_remainder}" if limits.frames_remainder else ""
        raise BadRequest(
            f"num_frames must be a multiple of {limits.frames_multiple}{plus} for {spec.name}, for example {near}."
        )


def _snapped(num_frames: int, limits: Limits) -> int:
    """The nearest number of frames the model can make, at least one; the larger of two equally near."""
    multiple, remainder = limits.frames_multiple, limits.frames_remainder
    least = 0 if remainder > 0 else 1
    return max(least, math.floor((num_frames - remainder) / multiple + 0.5)) * multiple + remainder
