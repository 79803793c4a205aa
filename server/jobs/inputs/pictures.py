"""Reads a picture of any kind that is taken, and writes it as PNG: upright, 8 bits per channel, in sRGB, no metadata.

Runs in the process that decodes (`decode_worker.py`), which bounds the memory and the time that a file may take.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageCms, ImageOps

from pipelines.chat.prompts.picture_files import has_too_many_parts, has_too_many_scans
from server.jobs.inputs.decoded import Decoded, Refused

FORMATS = ("PNG", "JPEG", "WEBP")
ANIMATED = ("PNG", "WEBP")  # a JPEG with several pictures is a photo with previews, depth or another exposure
MAX_PIXELS = 36_000_000  # 8K video and most cameras have less
MAX_SIDE = 32_768  # pixels
NOT_READ = "a PNG, JPEG or WebP picture that can be read and is not damaged"
TOO_LARGE = f"a picture of at most {MAX_PIXELS:,} pixels, and at most {MAX_SIDE:,} on a side"
FIRST_FRAME = "An animated picture was sent. Its first frame is used."
PROFILE_IGNORED = "The color profile of a picture does not fit it and was ignored: colors may differ."
PNG_LEVEL = 1  # zlib: a third of the time of the default for about a tenth more bytes
COLOR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # by mode, in the words of ICC profiles
INTENT, FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION  # as browsers convert


def write_png(source: Path, target: Path) -> Decoded:
    """Raises `Refused`, `OSError` for the target, `MemoryError`."""
    picture, warnings = _read(source.read_bytes())
    picture.info = {}  # profiles, comments, transparent colors, all of which are applied by now
    picture.save(target, "PNG", compress_level=PNG_LEVEL)
    return Decoded("image/png", picture.width, picture.height, warnings=tuple(warnings))


def _read(data: bytes) -> tuple[Image.Image, list[str]]:
    try:
        picture, profile, warnings = _upright(data)
        picture, fits = _in_srgb(_plain(picture), profile)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files, struct.error among them
        raise Refused(NOT_READ) from error
    if not fits:
        warnings.append(PROFILE_IGNORED)
    return _without_needless_alpha(picture), warnings


def _upright(data: bytes) -> tuple[Image.Image, bytes | None, list[str]]:
    """Returns a copy, so that the decoder and its memory are gone, and the file's color profile."""
    opened = _open(data)
    warnings = [FIRST_FRAME] if opened.format in ANIMATED and getattr(opened, "n_frames", 1) > 1 else []
    opened.seek(0)
    opened.load()
    return ImageOps.exif_transpose(opened), opened.info.get("icc_profile"), warnings


def _open(data: bytes) -> Image.Image:
    """Reads the header."""
    if has_too_many_parts(data):
        raise Refused(NOT_READ)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused(TOO_LARGE) from error
    except Exception as error:
        raise Refused(NOT_READ) from error
    n_pixels = picture.width * picture.height
    if n_pixels > MAX_PIXELS or max(picture.size) > MAX_SIDE:
        raise Refused(TOO_LARGE)
    if has_too_many_scans(data, n_pixels):
        raise Refused(NOT_READ)
    return picture


def _plain(picture: Image.Image) -> Image.Image:
    """Returns the picture in L, RGB, RGBA or CMYK."""
    if picture.mode.startswith("I"):  # 16 bits of gray, which `convert` would cut off at 255
        return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode == "1":
        return picture.convert("L")
    return picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, bool]:
    """Returns the picture in L, RGB or RGBA, and False for a profile that cannot be applied to it."""
    fits = True
    if profile is not None:
        opaque = picture.convert("RGB") if picture.mode == "RGBA" else picture
        try:
            converted = _converted(opaque, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            fits = False
        else:
            if picture.mode == "RGBA":
                converted.putalpha(picture.getchannel("A"))
            picture = converted
    return (picture.convert("RGB") if picture.mode == "CMYK" else picture), fits


def _converted(picture: Image.Image, profile: bytes) -> Image.Image:
    """Raises `ValueError` for a profile of another color space, and what `ImageCms` raises for a damaged one."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != COLOR_SPACES[picture.mode]:
        raise ValueError
    if (source.profile.profile_description or "").startswith("sRGB"):
        return picture.copy()  # values stay exactly as they are
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, source, srgb, renderingIntent=INTENT, outputMode="RGB", flags=FLAGS)
    assert converted is not None, "only a conversion in place returns None"
    return converted.convert("L") if picture.mode == "L" else converted


def _without_needless_alpha(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert("RGB")
    return picture
