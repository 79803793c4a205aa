"""JPEG and WebP files: all kinds of pixels, all kinds of damage."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from PIL import Image

from tests.support.odd_files.case import (
    DAMAGED,
    NOT_TAKEN,
    TOO_LARGE,
    Case,
    anything,
    either,
    encoded,
    profile,
    refused,
    sample,
    taken,
    turned,
)
from tests.support.odd_files.png import CORNERS, SWAPPED, has_first_pixel, has_mode, is_blue_at

SIZE = (48, 32)
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    return encoded(sample(mode, SIZE), "JPEG", **{"quality": 95, **options})


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpegs() -> Iterator[Case]:
    blue = has_first_pixel(10, 20, 220, within=12)
    yield taken("jpeg", jpeg(), SIZE, blue)
    yield taken("jpeg gray", jpeg("L"), SIZE, has_mode("L"))
    yield taken(
        "jpeg cmyk", jpeg("CMYK"), SIZE, has_first_pixel(10, 20, 220, within=20)
    )  # Pillow inverts as Adobe does
    yield taken("jpeg progressive", jpeg(progressive=True), SIZE, blue)
    yield taken("jpeg with restarts", jpeg(restart_marker_blocks=1), SIZE, blue)
    yield taken("jpeg 4:4:4", jpeg(subsampling=0), SIZE, blue)
    yield taken("jpeg with a profile", jpeg(icc_profile=profile()), SIZE, blue)
    yield taken("jpeg with the profile of another space", jpeg("CMYK", icc_profile=profile()), SIZE, has_mode("RGB"))
    yield taken("jpeg with a profile of no meaning", jpeg(icc_profile=b"no profile" * 20), SIZE, blue)
    for orientation, corner in CORNERS.items():
        size = SIZE[::-1] if orientation in SWAPPED else SIZE
        yield taken(f"jpeg orientation {orientation}", jpeg(exif=turned(orientation)), size, is_blue_at(corner))
    two = encoded(sample(size=SIZE), "MPO", save_all=True, append_images=[sample(size=SIZE).rotate(180)])
    yield taken("jpeg of two pictures", two, SIZE, is_blue_at("lt"))
    yield from _odd_segments()
    yield from _damaged_jpegs()


def _odd_segments() -> Iterator[Case]:
    start, rest = jpeg()[:2], jpeg()[2:]
    odd = {
        "exif of no meaning": segment(0xE1, b"Exif\0\0no exif"),
        "exif that points behind its end": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "exif that points to itself": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08"),
        "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        "an empty comment": segment(0xFE, b""),
        "a comment": segment(0xFE, b"<?php phpinfo(); ?>" * 100),
        "half a profile": segment(0xE2, b"ICC_PROFILE\0\x01\x02" + profile()),
        "a hundred comments": segment(0xFE, b"x") * 100,
        "an index of pictures of no meaning": segment(0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"),
    }
    for name, extra in odd.items():
        yield either(f"jpeg with {name}", start + extra + rest, SIZE, DAMAGED)
    yield taken("jpeg followed by a web page", jpeg() + b"<html><script>alert(1)</script>", SIZE)
    yield taken("jpeg followed by a zip", jpeg() + b"PK\x05\x06" + bytes(18), SIZE)


def _damaged_jpegs() -> Iterator[Case]:
    whole = jpeg()
    for percent in (1, 5, 20, 40, 60, 80, 95, 99):
        cut = whole[: len(whole) * percent // 100]
        yield either(f"jpeg cut at {percent} %", cut, SIZE, DAMAGED, NOT_TAKEN)
    rng = random.Random(16)
    for n in range(24):
        data = bytearray(whole)
        for _ in range(1 + n % 6):
            data[rng.randrange(3, len(data))] ^= 1 << rng.randrange(8)
        yield anything(f"jpeg with flipped bits {n}", bytes(data))
    at = whole.index(b"\xff\xc0")
    for width, height in ((65_535, 65_535), (65_500, 1), (1, 65_500), (9000, 9000)):
        said = whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]
        yield refused(f"jpeg says {width} x {height}", said, TOO_LARGE)
    for width, height in ((0, 32), (48, 0)):
        said = whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]
        yield refused(f"jpeg says {width} x {height}", said, DAMAGED)
    yield refused("jpeg of 12 bits", whole[: at + 4] + b"\x0c" + whole[at + 5 :], DAMAGED)
    for marker, name in ((0xC3, "lossless"), (0xC5, "hierarchical"), (0xC9, "arithmetic"), (0xCD, "nothing")):
        yield either(f"jpeg that says it is {name}", whole.replace(b"\xff\xc0", bytes([0xFF, marker])), SIZE, DAMAGED)
    yield refused("jpeg of five channels", whole[: at + 9] + b"\x05" + whole[at + 10 :], DAMAGED)
    yield refused("jpeg start alone", b"\xff\xd8\xff", DAMAGED)
    yield refused("jpeg start and end", b"\xff\xd8\xff\xd9", DAMAGED)
    yield refused("jpeg start and zeros", b"\xff\xd8\xff" + bytes(5000), DAMAGED)


def webp(mode: str = "RGB", **options: object) -> bytes:
    return encoded(sample(mode, SIZE), "WEBP", **{"quality": 95, **options})


def webps() -> Iterator[Case]:
    blue = has_first_pixel(10, 20, 220, within=12)
    yield taken("webp", webp(), SIZE, blue)
    yield taken("webp lossless", webp(lossless=True), SIZE, has_first_pixel(10, 20, 220))
    half = sample("RGBA", SIZE).copy()
    half.putalpha(128)
    yield taken("webp half transparent", encoded(half, "WEBP"), SIZE, has_mode("RGBA"))
    yield taken("webp with a profile", webp(icc_profile=profile()), SIZE, blue)
    yield taken("webp with a profile of no meaning", webp(icc_profile=b"no profile"), SIZE, blue)
    for orientation in (3, 6, 8):
        size = SIZE[::-1] if orientation in SWAPPED else SIZE
        data = webp(exif=turned(orientation))
        yield taken(f"webp orientation {orientation}", data, size, is_blue_at(CORNERS[orientation]))
    frames = [sample(size=SIZE), sample(size=SIZE).rotate(180)]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    yield taken("webp animated", animated, SIZE, is_blue_at("lt"))
    yield taken("webp followed by a web page", webp() + b"<html>", SIZE)
    whole = webp()
    for percent in (10, 30, 50, 70, 90, 99):
        yield either(f"webp cut at {percent} %", whole[: len(whole) * percent // 100], SIZE, DAMAGED, NOT_TAKEN)
    rng = random.Random(17)
    for n in range(20):
        data = bytearray(whole)
        for _ in range(1 + n % 6):
            data[rng.randrange(12, len(data))] ^= 1 << rng.randrange(8)
        yield anything(f"webp with flipped bits {n}", bytes(data))
    yield refused("webp head alone", b"RIFF\x04\0\0\0WEBP", DAMAGED)
    yield refused("webp of zeros", b"RIFF\xff\0\0\0WEBPVP8 " + bytes(300), DAMAGED)
    yield refused("webp of zeros, lossless", b"RIFF\xff\0\0\0WEBPVP8L" + bytes(300), DAMAGED)
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\xff\xff" * 2
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    yield refused("webp says 16,777,216 a side", b"RIFF" + struct.pack("<I", len(body)) + body, TOO_LARGE, DAMAGED)
    large = Image.new("L", (16_383, 2))
    yield taken("webp 16,383 wide", encoded(large, "WEBP", lossless=True), (16_383, 2))


def jpeg_bombs() -> Iterator[Case]:
    start, rest = jpeg()[:2], jpeg()[2:]
    many = segment(0xFE, b"") * 400_000
    yield refused("jpeg of 400,000 segments", start + many + rest, DAMAGED)
    yield refused("jpeg of fill bytes", start + b"\xff" * 2_000_000 + rest, DAMAGED)
    progressive = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True, quality=5)
    scan = progressive.rindex(b"\xff\xda")
    again = progressive[scan:-2] * 400 + b"\xff\xd9"
    yield refused("jpeg of 400 scans", progressive[:scan] + again, DAMAGED)


def webp_bombs() -> Iterator[Case]:
    many = [Image.new("L", (9, 9), n % 256) for n in range(3000)]
    yield taken("webp of 3000 frames", encoded(many[0], "WEBP", save_all=True, append_images=many[1:]), (9, 9))
    yield refused("webp of 49 megapixels", encoded(Image.new("L", (7000, 7000)), "WEBP", method=0), TOO_LARGE)
