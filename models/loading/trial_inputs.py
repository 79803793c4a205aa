"""Pictures and a clip for the smoke test of models that need some: a gradient, a mask half white, a moving gradient.

Any thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from pipelines.diffusion_interface import Control, InputName, Inputs, MediaFile

SIDE_PIXELS = 256
N_FRAMES, FPS = 24, 8


def trial_inputs(names: Collection[InputName], folder: Path) -> Inputs:
    """Writes the files of these inputs into `folder`."""
    gradient = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turns) for turns in range(3)])
    picture = _picture(gradient, folder / "picture.png")
    return Inputs(
        image=picture if "image" in names else None,
        mask=_picture(Image.linear_gradient("L").point(_half), folder / "mask.png") if "mask" in names else None,
        images=(picture,) if "images" in names else (),
        last_image=picture if "last_image" in names else None,
        video=_clip(gradient, folder / "clip.mp4") if "video" in names else None,
        controls=(Control(image=picture),) if "control" in names else (),
    )


def _half(value: int) -> int:
    return 255 if value >= SIDE_PIXELS // 2 else 0


def _picture(picture: Image.Image, path: Path) -> MediaFile:
    picture.save(path)
    return MediaFile(str(path), _sha256(path), *picture.size)


def _clip(gradient: Image.Image, path: Path) -> MediaFile:
    pixels = np.asarray(gradient)
    writer = imageio_ffmpeg.write_frames(
        str(path), gradient.size, fps=FPS, codec="libx264", macro_block_size=1, ffmpeg_log_level="error"
    )
    writer.send(None)
    for i in range(N_FRAMES):
        writer.send(np.ascontiguousarray(np.roll(pixels, 8 * i, axis=1)))
    writer.close()
    return MediaFile(str(path), _sha256(path), *gradient.size, num_frames=N_FRAMES, fps=float(FPS))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
