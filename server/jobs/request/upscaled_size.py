"""Works out sizes where pictures and clips are made larger: after a job, or by a job of an upscaler alone.

Pure functions. Errors name the field.
"""

from __future__ import annotations

import math

from models.spec import ModelSpec
from pipelines.diffusion_interface import MediaFile
from pipelines.tile_grid import size_before, tiles_of
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest

MAX_CLIP_PIXELS = 300_000_000  # of all frames of an enlarged clip, which are in memory at once with 12 bytes a pixel


def enlarged(
    size: tuple[int, int], scale: float, spec: ModelSpec, num_frames: int | None, field: str
) -> tuple[int, int]:
    """(width, height) of the result. num_frames: of a clip, whose encoders need even sides. Raises `BadRequest`."""
    grid = 1 if num_frames is None else 2
    width, height = (max(grid, round(side * scale / grid) * grid) for side in size)
    if width * height > spec.limits.max_pixels:
        raise BadRequest(
            f"{field}: {width}x{height} is more than {spec.limits.max_pixels} pixels. Send a smaller scale or size.",
            param=field,
        )
    if num_frames is not None and width * height * num_frames > MAX_CLIP_PIXELS:
        raise BadRequest(
            f"{field}: {num_frames} frames of {width}x{height} are more than {MAX_CLIP_PIXELS} pixels. Send a smaller "
            f"scale or fewer frames.",
            param=field,
        )
    return width, height


def upscaler_size(
    request: GenerateRequest, spec: ModelSpec, file: MediaFile, num_frames: int | None
) -> tuple[int, int]:
    """(width, height) that a job of an upscaler makes of a picture or clip. Raises `BadRequest`.

    `width` and `height` may have any shape: `fit` says what becomes of the rest.
    """
    if request.aspect_ratio is not None:
        raise BadRequest(f"aspect_ratio: {spec.name} keeps the shape of the picture.", param="aspect_ratio")
    field = "image" if num_frames is None else "video"
    if request.width is not None or request.height is not None:
        if request.width is None or request.height is None:
            raise BadRequest("width and height must be given together.")
        return enlarged((request.width, request.height), 1.0, spec, num_frames, "width")
    wanted = request.upscale.scale if request.upscale is not None else None
    assert spec.scale is not None, "the catalogue refuses an upscaler without"
    return enlarged((file.width, file.height), wanted or spec.scale, spec, num_frames, field)


def upscaler_length(request: GenerateRequest, spec: ModelSpec, clip: MediaFile) -> tuple[int, int]:
    """(frames, frames per second) of an enlarged clip: its own. Raises `BadRequest`."""
    for field in ("num_frames", "duration"):
        if getattr(request, field) is not None:
            raise BadRequest(f"{field}: {spec.name} keeps the frames of the clip.", param=field)
    rate = clip.fps or 1.0
    fps = max(1, round(rate))
    return max(1, math.floor(clip.num_frames * fps / rate)), fps


def upscaler_steps(request: GenerateRequest, size: tuple[int, int], file: MediaFile, num_frames: int | None) -> int:
    """The tiles that are made one after the other. size: of the result."""
    before = size_before((file.width, file.height), size, request.fit)
    return len(tiles_of(*before)) * (num_frames or 1)
