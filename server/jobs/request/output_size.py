"""Resolves the size of images and the length of clips: from the request, the picture or clip given, or the defaults.

Pure functions. Requested values must be on the model's grid; derived values are rounded to it.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from models.spec import Limits, ModelSpec
from pipelines.diffusion_interface import MediaFile
from server.errors import BadRequest

AspectRatio: TypeAlias = Literal["16:9", "1:1", "9:16"]

RATIOS: dict[AspectRatio, float] = {"16:9": 16 / 9, "1:1": 1.0, "9:16": 9 / 16}
RATIO_TOLERANCE = 0.05  # a default size within 5 % of the requested ratio is used unchanged: 832x480 is "16:9"

# A picture with fewer pixels than the first part of the model's native number of pixels is made larger, one with more
# than the second is made smaller, and a longer one than the last is cut off.
LEAST_OF_NATIVE, MOST_OF_NATIVE, LONGEST_RATIO = 1 / 16, 1.0, 4.0

# Defaults for models without their own: the values of stock diffusers pipelines.
DEFAULT_SIDE_PIXELS = 512
DEFAULT_FPS = 8
DEFAULT_DURATION_S = 2


def output_size(
    width: int | None,
    height: int | None,
    ratio: AspectRatio | None,
    spec: ModelSpec,
    like: MediaFile | None = None,
    enlarges: int = 1,
) -> tuple[int, int]:
    """(width, height) in pixels. None arguments were not given by the client. Raises `BadRequest`.

    like: the picture or clip that the output follows unless the client wants another size. enlarges: how many times as
    wide and high as its input the model makes the output.
    """
    if width is None and height is None:
        if like is not None and ratio is None:
            return _size_like(like, spec, enlarges)
        return _size_for(ratio or ("1:1" if spec.type == "image" else "16:9"), spec)
    if width is None or height is None:
        raise BadRequest("width and height must be given together.")
    if ratio is not None:
        raise BadRequest("aspect_ratio and width with height exclude each other: send one of them.")
    multiple = spec.limits.size_multiple * enlarges
    for name, value in (("width", width), ("height", height)):
        if value % multiple:
            low, high = max(multiple, value // multiple * multiple), (value // multiple + 1) * multiple
            near = f"{low} or {high}" if low != high else f"{low}"
            raise BadRequest(f"{name} must be a multiple of {multiple} for {spec.name}, for example {near}.")
    if width * height > spec.limits.max_pixels:
        raise BadRequest(f"width times height must be at most {spec.limits.max_pixels} pixels for {spec.name}.")
    return width, height


def _size_for(ratio: AspectRatio, spec: ModelSpec) -> tuple[int, int]:
    """The model's listed size for this ratio, else a size on its grid with about its native number of pixels."""
    if ratio in spec.sizes:
        return spec.sizes[ratio]
    native = (spec.defaults.width or DEFAULT_SIDE_PIXELS, spec.defaults.height or DEFAULT_SIDE_PIXELS)
    target = RATIOS[ratio]
    if abs(native[0] / native[1] / target - 1) <= RATIO_TOLERANCE:
        return native
    multiple = spec.limits.size_multiple
    pixels = min(native[0] * native[1], spec.limits.max_pixels)
    sides = math.sqrt(pixels * target), math.sqrt(pixels / target)
    width, height = (max(1, round(side / multiple)) * multiple for side in sides)
    while width * height > spec.limits.max_pixels and max(width, height) > multiple:
        width, height = (width - multiple, height) if width > height else (width, height - multiple)
    return width, height


def _size_like(like: MediaFile, spec: ModelSpec, enlarges: int) -> tuple[int, int]:
    """The size on the model's grid that is nearest to the picture's, with its shape, within the bounds above."""
    multiple = spec.limits.size_multiple
    native = (spec.defaults.width or DEFAULT_SIDE_PIXELS) * (spec.defaults.height or DEFAULT_SIDE_PIXELS)
    most = min(native * MOST_OF_NATIVE, spec.limits.max_pixels / enlarges**2)
    least = native * LEAST_OF_NATIVE if enlarges == 1 else 0
    pixels = min(max(like.width * like.height, least), most)
    ratio = min(max(like.width / like.height, 1 / LONGEST_RATIO), LONGEST_RATIO)
    sides = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
    if like.width * like.height == pixels and ratio == like.width / like.height:
        sides = float(like.width), float(like.height)  # exact
    width, height = (max(1, round(side / multiple)) * multiple for side in sides)
    while width * height * enlarges**2 > spec.limits.max_pixels and max(width, height) > multiple:
        width, height = (width - multiple, height) if width > height else (width, height - multiple)
    return width * enlarges, height * enlarges


def cut_off(file: MediaFile, width: int, height: int) -> float:
    """The part of a picture, 0 … 1, that does not fit into a size of another shape."""
    shape, wanted = file.width / file.height, width / height
    return 1 - min(shape, wanted) / max(shape, wanted)


def clip_length_like(clip: MediaFile, spec: ModelSpec) -> tuple[int, int]:
    """As `clip_length`, for an output with the length of a clip, as far as the model makes one as long.

    That is the native length of the model: a longer clip is asked for by `num_frames` or `duration`.
    """
    fps = spec.defaults.fps or DEFAULT_FPS
    seconds = clip.num_frames / (clip.fps or fps)
    most, _ = clip_length(None, None, spec)
    frames = _nearest_valid(min(max(1, round(seconds * fps)), most), spec.limits)
    return frames if frames <= most else _nearest_valid(most - spec.limits.frames_multiple // 2, spec.limits), fps


def clip_length(num_frames: int | None, duration_s: int | None, spec: ModelSpec) -> tuple[int, int]:
    """(frames, frames per second). None arguments were not given by the client. Raises `BadRequest`."""
    limits, fps = spec.limits, spec.defaults.fps or DEFAULT_FPS
    if num_frames is not None:
        if duration_s is not None:
            raise BadRequest("duration and num_frames exclude each other: send one of them.")
        _check_frames(num_frames, spec, fps)
        return num_frames, fps
    if duration_s is not None:
        if duration_s > limits.max_duration_s:
            raise BadRequest(f"duration must be at most {limits.max_duration_s} seconds for {spec.name}.")
        return _nearest_valid(duration_s * fps, limits), fps
    return spec.defaults.num_frames or _nearest_valid(min(DEFAULT_DURATION_S, limits.max_duration_s) * fps, limits), fps


def _check_frames(num_frames: int, spec: ModelSpec, fps: int) -> None:
    limits = spec.limits
    most = _nearest_valid(limits.max_duration_s * fps, limits)
    if num_frames > most:
        raise BadRequest(
            f"num_frames must be at most {most} for {spec.name}: {limits.max_duration_s} s at {fps} frames per second."
        )
    near = _nearest_valid(num_frames, limits)
    if near != num_frames:
        plus = f" plus {limits.frames_remainder}" if limits.frames_remainder else ""
        raise BadRequest(
            f"num_frames must be a multiple of {limits.frames_multiple}{plus} for {spec.name}, for example {near}."
        )


def _nearest_valid(num_frames: int, limits: Limits) -> int:
    """The nearest number of frames that the model can make, at least 1; the larger of two equally near ones."""
    multiple, remainder = limits.frames_multiple, limits.frames_remainder
    min_multiples = 0 if remainder > 0 else 1
    return max(min_multiples, math.floor((num_frames - remainder) / multiple + 0.5)) * multiple + remainder
