"""Brings pictures to the size at which a pipeline takes them. Pure functions over Pillow images; any thread."""

from __future__ import annotations

from PIL import Image, ImageOps

from pipelines.diffusion_interface import Fit

WHITE = (255, 255, 255)
MAX_REFERENCE_PIXELS = 4 << 20  # of a picture that keeps its own size; pipelines make references smaller than that


def in_colors(picture: Image.Image) -> Image.Image:
    """The picture as RGB, laid on white where it is transparent."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*WHITE, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def fitted(
    picture: Image.Image, width: int, height: int, fit: Fit, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """The picture at this size. `crop` cuts off what is left over, `pad` puts black around it.

    A picture that has the size already is returned as it is.
    """
    size = width, height
    if picture.size == size:
        return picture
    if fit == "crop":
        return ImageOps.fit(picture, size, method=resample)
    if fit == "pad":
        return ImageOps.pad(picture, size, method=resample)
    return picture.resize(size, resample)


def fitted_mask(mask: Image.Image, of: tuple[int, int], width: int, height: int, fit: Fit) -> Image.Image:
    """The mask in gray, with the geometry of the picture that it belongs to. of: the size of that picture's file.

    Linear interpolation keeps the values between those of the neighbors: Lanczos would overshoot at the edges.
    """
    linear = Image.Resampling.BILINEAR
    gray = mask.convert("L")
    if gray.size != of:
        gray = gray.resize(of, linear)
    return fitted(gray, width, height, fit, linear)


def bounded(picture: Image.Image) -> Image.Image:
    """The picture in its own size, or made smaller where it has more than `MAX_REFERENCE_PIXELS`."""
    n_pixels = picture.width * picture.height
    if n_pixels <= MAX_REFERENCE_PIXELS:
        return picture
    scale = (MAX_REFERENCE_PIXELS / n_pixels) ** 0.5
    size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
