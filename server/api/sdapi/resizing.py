"""Resizing without a model, as AUTOMATIC1111's upscalers "Lanczos" and "Nearest" do. Worker threads only."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

RESIZERS: Mapping[str, Image.Resampling] = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}


def resized(path: str, size: tuple[int, int], resizer: str, part: tuple[int, int] | None) -> bytes:
    """Resizes the picture of a PNG file to `size`, and cuts `part` out of its middle, both width and height in pixels.

    Returns a PNG.
    """
    with Image.open(path) as image:
        result = image.resize(size, RESIZERS[resizer])
    return png(cropped(result, part) if part else result)


def cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of `image` in a picture of `size`; black where the image is smaller."""
    width, height = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()
