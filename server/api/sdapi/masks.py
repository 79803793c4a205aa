"""What AUTOMATIC1111 does with a mask, and with the picture under it, before an image is made. Worker threads only.

The files are our own copies: pictures that were decoded, checked and written again as PNG.
"""

from __future__ import annotations

from PIL import Image, ImageFilter, ImageOps

from server.api.sdapi.resizing import png

FILL_SIDE = 1024  # pixels
OPAQUE = 128  # a mask in the alpha channel repaints where it is above
# How the hole is filled: ever finer pictures of what surrounds it, one over the other. Radius in pixels, and how often.
FILL_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2))


def prepared_mask(path: str, *, is_inverted: bool, blur: tuple[int, int]) -> tuple[bytes, bool]:
    """Returns the mask as a PNG, white where the picture is repainted, and whether it repaints anything.

    blur: the radius in pixels, horizontally and vertically.
    """
    with Image.open(path) as image:
        mask = _single_channel(image)
    if is_inverted:
        mask = ImageOps.invert(mask)
    blurred = mask.filter(ImageFilter.GaussianBlur(blur)) if any(blur) else mask
    return png(blurred), blurred.getbbox() is not None


def _single_channel(image: Image.Image) -> Image.Image:
    """A mask may be the alpha channel of a picture, if that is not opaque everywhere."""
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha.point([255 if value > OPAQUE else 0 for value in range(256)])
    return image.convert("L")


def without_content(path: str, mask_path: str) -> bytes:
    """Returns the picture as a PNG whose white parts in the mask hold nothing but the colors around them.

    mask_path: a mask of one channel; it is stretched to the size of the picture.
    """
    with Image.open(path) as image, Image.open(mask_path) as mask:
        picture = image.convert("RGB")
        hole = mask.convert("L").resize(picture.size)
    filling = _surroundings(picture, hole).resize(picture.size, Image.Resampling.BILINEAR)
    return png(Image.composite(filling, picture, hole))


def _surroundings(picture: Image.Image, hole: Image.Image) -> Image.Image:
    """The picture with its hole filled, made smaller if it is large: the filling has no details."""
    small = picture.convert("RGBA")
    small.putalpha(ImageOps.invert(hole))
    small = small.convert("RGBa")  # colors times opacity, so that the hole's own do not bleed into what surrounds it
    small.thumbnail((FILL_SIDE, FILL_SIDE), Image.Resampling.BOX)
    filled = Image.new("RGBA", small.size)  # transparent, so that far from the edge the colors do not get darker
    for radius, times in FILL_LAYERS:
        blurred = small.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            filled.alpha_composite(blurred)
    filled.alpha_composite(small.convert("RGBA"))
    return filled.convert("RGB")
