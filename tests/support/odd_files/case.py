"""One file of the corpus, and the parts that files are made of."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image, ImageCms

from server.jobs.inputs import clips, media_types, pictures

NOT_TAKEN = f"file must be {media_types.TAKEN}."
DAMAGED = f"file must be {pictures.NOT_READ}."
TOO_LARGE = f"file must be {pictures.TOO_LARGE}."
DAMAGED_CLIP = f"file must be {clips.NOT_READ}."
NO_PICTURES = f"file must be {clips.NO_PICTURES}."
CLIP_TOO_LARGE = f"file must be {clips.TOO_LARGE}."
CLIP_TOO_LONG = f"file must be {clips.TOO_LONG}."

Look = Callable[[Image.Image], object]  # whether the picture as it is kept looks right


@dataclass(frozen=True)
class Case:
    """`size`: of what is kept when the file is taken; None: it must be refused. `refused`: the texts that a refusal may
    have; empty: the file must be taken. Neither: any answer is right but a fault of the server.
    """

    name: str
    data: bytes
    size: tuple[int, int] | None = None
    refused: tuple[str, ...] = ()
    look: Look = lambda picture: True
    num_frames: int = 1


def taken(
    name: str, data: bytes, size: tuple[int, int] = (6, 4), look: Look = lambda picture: True, **more: Any
) -> Case:
    return Case(name, data, size, look=look, **more)


def refused(name: str, data: bytes, *texts: str, **more: Any) -> Case:
    return Case(name, data, refused=texts, **more)


def either(name: str, data: bytes, size: tuple[int, int], *texts: str, **more: Any) -> Case:
    """A damage that some decoders read past: a result of the right size, or a refusal."""
    return Case(name, data, size, texts, **more)


def anything(name: str, data: bytes) -> Case:
    """A damage that may be read past, may not be noticed, or may make another file of it."""
    return Case(name, data)


@cache
def sample(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    """Red with a blue pixel in the upper left corner, so that turns can be told."""
    picture = Image.new("RGB", size, (200, 40, 30))
    picture.paste((10, 20, 220), (0, 0, max(1, size[0] // 3), max(1, size[1] // 2)))
    return picture.convert(mode)


def encoded(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, fmt, **options)
    return target.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return exif


@cache
def profile(description: bytes = b"Another one ") -> bytes:
    """An ICC profile of sRGB's colors that does not say so, so that it is applied."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made.replace(b"sRGB built-in", description[:13].ljust(13)).replace(
        "sRGB built-in".encode("utf-16-be"), description[:13].ljust(13).decode().encode("utf-16-be")
    )


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checked = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)


SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND", b"")


def header(width: int, height: int, depth: int = 8, color: int = 2, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))


def png(ihdr: bytes, rows: bytes, *between: bytes, level: int = 6) -> bytes:
    """rows: each after its filter byte."""
    return SIGNATURE + ihdr + b"".join(between) + chunk(b"IDAT", zlib.compress(rows, level)) + END
