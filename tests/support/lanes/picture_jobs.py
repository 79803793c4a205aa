"""Requests with pictures and clips for small checkpoints, and stock classes called directly with the same inputs."""

from __future__ import annotations

import atexit
import functools
import inspect
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import diffusers
import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.diffusion_interface import DiffusionRequest, InputName, Inputs, MediaFile
from tests.support.lanes.lane_play import request
from tests.support.lanes.stock_families import Family

Task: TypeAlias = Literal["text", "image", "mask"]  # what a request starts from; "mask": a picture with a mask


def picture_file(path: Path, width: int, height: int, seed: int = 0, mode: str = "RGB") -> MediaFile:
    """Write a PNG of soft blobs, as a picture has rather than noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), dtype=np.uint8)
    small = Image.fromarray(coarse[..., 0] if mode == "L" else coarse, mode)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return MediaFile(str(path), f"{seed:064x}", width, height)


def mask_file(path: Path, width: int, height: int) -> MediaFile:
    """Write a mask whose right half is repainted."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    mask.save(path)
    return MediaFile(str(path), "1" * 64, width, height)


def clip_file(path: Path, width: int, height: int, num_frames: int, fps: int = 8) -> MediaFile:
    """Write a clip in which a picture gets brighter from frame to frame."""
    coarse = np.random.default_rng(5).integers(0, 128, (4, 4, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    codec = {".mp4": "libx264", ".webm": "libvpx-vp9"}[path.suffix]
    options = {"codec": codec, "macro_block_size": 1, "quality": 10, "ffmpeg_log_level": "error"}
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, **options)
    writer.send(None)
    for i in range(num_frames):
        writer.send(np.ascontiguousarray(still + np.uint8(100 * i // num_frames)))
    writer.close()
    return MediaFile(str(path), "2" * 64, width, height, num_frames, float(fps))


def frames(clip: MediaFile) -> list[Image.Image]:
    """All frames of a clip."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", clip.path, "-f", "rawvideo",
               "-pix_fmt", "rgb24", "-"]  # fmt: skip
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    array = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, clip.height, clip.width, 3)
    return [Image.fromarray(frame) for frame in array]


def picture_fields(task: Task) -> dict[str, Any]:
    """The fields of a request of this task over the tiny Stable Diffusion. The files last as long as the tests."""
    if task == "text":
        return {}
    photo, mask = _photo_and_mask()
    if task == "image":
        return {
            "pipeline": "StableDiffusionImg2ImgPipeline",
            "inputs": Inputs(image=photo),
            "input_arguments": {"image": "image"},
            "strength": 0.6,
            "steps": 5,
        }
    return {
        "pipeline": "StableDiffusionInpaintPipeline",
        "inputs": Inputs(image=photo, mask=mask),
        "input_arguments": {"image": "image", "mask": "mask_image"},
        "strength": 0.9,
    }


@functools.cache
def _photo_and_mask() -> tuple[MediaFile, MediaFile]:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return picture_file(folder / "photo.png", 32, 32), mask_file(folder / "mask.png", 32, 32)


def task(
    family: Family, name: str, pipeline: str, arguments: dict[InputName, str], files: dict[str, Any], **wanted: Any
) -> DiffusionRequest:
    """A request to another pipeline class over the family's checkpoint. files: fields of `Inputs`."""
    return request(family, name, pipeline=pipeline, inputs=Inputs(**files), input_arguments=arguments, **wanted)


def direct_task(
    pipeline: Any, wanted: DiffusionRequest, *, lent: Mapping[str, Any] | None = None, **inputs: Any
) -> NDArray[np.float32]:
    """The output of the stock class, made by diffusers itself over the pipeline's components: (F, H, W, 3).

    lent: further modules of the class, such as a ControlNet. inputs: the values of its arguments for pictures and
    clips.
    """
    cls: Any = getattr(diffusers, wanted.pipeline or type(pipeline).__name__)
    stock = pipeline if type(pipeline) is cls else cls.from_pipe(pipeline, dtype=pipeline.dtype, **(lent or {}))
    stock.set_progress_bar_config(disable=True)
    values: dict[str, Any] = {
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
        "width": wanted.width,
        "height": wanted.height,
        "num_frames": wanted.num_frames,
        "num_inference_steps": wanted.steps,
        "guidance_scale": wanted.guidance_scale,
        "strength": wanted.strength,
        **wanted.call,
    }
    parameters = inspect.signature(cls.__call__).parameters
    given = {name: value for name, value in values.items() if value is not None and name in parameters}
    torch.manual_seed(wanted.seed)
    generator = torch.Generator("cpu").manual_seed(wanted.seed)
    media = stock(**given, **inputs, generator=generator, output_type="np")[0]
    return np.asarray(media[0] if wanted.num_frames else media, dtype=np.float32)
