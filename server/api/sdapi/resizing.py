"""Resizing without a model, as AUTOMATIC1111's upscalers "Lanczos" and "Nearest" do. Worker threads only."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

RESIZERS: Mapping[str, Image.Resampling] = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}


def resized(path: str, width: int, height: int, filter_name: str, crop: tuple[int, int] | None) -> bytes:
    """Resizes the picture of a PNG file to `width` x `height`, and then cuts its middle out to the size `crop`.

    Returns a PNG.
    """
    with Image.open(path) as image:
        result = image.resize((width, height), RESIZERS[filter_name])
    return png(cropped(result, crop) if crop else result)


def cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of `image` in a picture of `size`; black where the image is smaller."""
    width, height = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()
