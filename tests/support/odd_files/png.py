"""PNG files: all kinds of pixels, all kinds of damage."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.odd_files.case import (
    DAMAGED,
    END,
    NOT_TAKEN,
    SIGNATURE,
    TOO_LARGE,
    Case,
    Look,
    anything,
    chunk,
    either,
    encoded,
    header,
    png,
    profile,
    refused,
    sample,
    taken,
    turned,
)

RED_ROWS = (b"\0" + b"\xc8\x28\x1e" * 6) * 4
SWAPPED = (5, 6, 7, 8)  # orientations that swap width and height
# Where the blue corner of the sample is after each orientation: left or right, top or bottom.
CORNERS = {1: "lt", 2: "rt", 3: "rb", 4: "lb", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}


def is_blue_at(corner: str) -> Look:
    def look(picture: Image.Image) -> bool:
        x = 0 if corner[0] == "l" else picture.width - 1
        y = 0 if corner[1] == "t" else picture.height - 1
        red, _, blue = picture.convert("RGB").getpixel((x, y))
        return blue > 150 > red

    return look


def has_mode(mode: str) -> Look:
    return lambda picture: picture.mode == mode


def has_first_pixel(*values: int, within: int = 0) -> Look:
    def look(picture: Image.Image) -> bool:
        found = picture.getpixel((0, 0))
        found = found if isinstance(found, tuple) else (found,)
        return len(found) == len(values) and all(abs(a - b) <= within for a, b in zip(found, values, strict=True))

    return look


def pngs() -> Iterator[Case]:
    yield from _kinds_of_pixels()
    yield from _sizes()
    yield from _metadata()
    yield from _damaged()


def _kinds_of_pixels() -> Iterator[Case]:
    for mode, kept in (("1", "L"), ("L", "L"), ("LA", "RGBA"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")):
        picture = sample(mode)
        if mode == "LA":
            picture = picture.copy()
            picture.putalpha(100)
        yield taken(f"png {mode}", encoded(picture, "PNG"), look=has_mode(kept))
    half = sample("RGBA").copy()
    half.putalpha(128)
    yield taken("png half transparent", encoded(half, "PNG"), look=has_first_pixel(10, 20, 220, 128))
    palette = sample("P")
    blue = palette.getpixel((0, 0))
    yield taken("png palette, one transparent", encoded(palette, "PNG", transparency=blue), look=has_mode("RGBA"))
    shades = bytes(range(256))
    yield taken("png palette, many shades", encoded(palette, "PNG", transparency=shades), look=has_mode("RGBA"))
    yield taken("png color key", encoded(sample(), "PNG", transparency=(10, 20, 220)), look=has_mode("RGBA"))
    yield taken("png gray key", encoded(sample("L"), "PNG", transparency=0), look=has_mode("RGB"))
    for value, gray in ((0, 0), (255, 1), (32_896, 128), (65_535, 255)):
        wide = Image.new("I;16", (6, 4), value)
        yield taken(f"png 16-bit gray {value}", encoded(wide, "PNG"), look=has_first_pixel(gray))
    for color, n, kept in ((2, 3, (255, 128, 0)), (6, 4, (255, 128, 0, 128)), (4, 2, (255, 255, 255, 128))):
        values = (65_535, 32_896, 0, 32_896)[:n] if n > 2 else (65_535, 32_896)
        row = b"\0" + struct.pack(f">{n}H", *values) * 6
        data = png(header(6, 4, 16, color), row * 4)
        yield taken(f"png 16-bit color {color}", data, look=has_first_pixel(*kept, within=1))
    for depth in (1, 2, 4):
        rows = (b"\0" + b"\xff" * ((6 * depth + 7) // 8)) * 4
        yield taken(f"png {depth}-bit gray", png(header(6, 4, depth, 0), rows), look=has_first_pixel(255))
    table = chunk(b"PLTE", bytes([1, 2, 3, 250, 128, 0]))
    yield taken("png 1-bit palette", png(header(6, 4, 1, 3), (b"\0\xff") * 4, table), look=has_first_pixel(250, 128, 0))
    # Adam7: seven small pictures, here of 1 × 1.
    yield taken("png interlaced", png(header(1, 1, 8, 2, 1), b"\0\xc8\x28\x1e"), (1, 1), has_first_pixel(200, 40, 30))
    frames = [sample(), sample().rotate(180)]
    animated = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=100)
    yield taken("png animated", animated, look=is_blue_at("lt"))


def _sizes() -> Iterator[Case]:
    yield taken("png 1 x 1", encoded(Image.new("RGB", (1, 1)), "PNG"), (1, 1))
    yield taken("png 1 wide", encoded(Image.new("L", (1, 9000)), "PNG"), (1, 9000))
    yield taken("png 32,768 wide", encoded(Image.new("1", (32_768, 3)), "PNG"), (32_768, 3))
    yield refused("png 32,769 wide", encoded(Image.new("1", (32_769, 3)), "PNG"), TOO_LARGE)
    yield refused("png 65,535 wide", encoded(Image.new("1", (65_535, 2)), "PNG"), TOO_LARGE)
    yield refused("png 65,535 high", encoded(Image.new("1", (2, 65_535)), "PNG"), TOO_LARGE)
    for side in (6_001, 9_000, 20_000, 65_535, 2**31 - 1):
        yield refused(f"png says {side} a side", png(header(side, side), RED_ROWS), TOO_LARGE)
    for width, height in ((0, 4), (6, 0), (0, 0)):
        yield refused(f"png says {width} x {height}", png(header(width, height), RED_ROWS), DAMAGED)
    for bad in (2**31, 2**32 - 1):
        yield refused(f"png says {bad} wide", png(header(bad, 4), RED_ROWS), TOO_LARGE, DAMAGED)


def _metadata() -> Iterator[Case]:
    for orientation, corner in CORNERS.items():
        size = (4, 6) if orientation in SWAPPED else (6, 4)
        data = encoded(sample(), "PNG", exif=turned(orientation))
        yield taken(f"png orientation {orientation}", data, size, is_blue_at(corner))
    yield taken("png orientation 99", encoded(sample(), "PNG", exif=turned(99)), look=is_blue_at("lt"))
    broken = {
        "exif of no meaning": chunk(b"eXIf", b"no exif at all"),
        "exif that ends early": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff\x01\x12"),
        "empty exif": chunk(b"eXIf", b""),
        "profile that is not compressed": chunk(b"iCCP", b"x\0\0not compressed"),
        "profile of no meaning": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        "gamma": chunk(b"gAMA", struct.pack(">I", 45_455)),
        "gamma of zero": chunk(b"gAMA", struct.pack(">I", 0)),
        "private chunk": chunk(b"prVt", b"\0" * 1000),
        "time": chunk(b"tIME", b"\xff" * 7),
        "resolution": chunk(b"pHYs", struct.pack(">IIB", 2**31, 1, 1)),
    }
    for name, extra in broken.items():
        yield either(f"png with {name}", png(header(6, 4), RED_ROWS, extra), (6, 4), DAMAGED)
    plain = has_first_pixel(10, 20, 220, within=2)
    yield taken("png with a profile", encoded(sample(), "PNG", icc_profile=profile()), look=plain)
    yield taken("png gray with a color profile", encoded(sample("L"), "PNG", icc_profile=profile()), look=has_mode("L"))
    text = PngInfo()
    text.add_text("parameters", "<script>alert(1)</script>")
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    yield taken("png with text", encoded(sample(), "PNG", pnginfo=text))
    whole = encoded(sample(), "PNG")
    for name, tail in (("a web page", b"<html><script>alert(1)</script>"), ("a zip", b"PK\x05\x06" + bytes(18)),
                       ("another png", whole), ("zeros", bytes(5000))):  # fmt: skip
        yield taken(f"png followed by {name}", whole + tail)


def _damaged() -> Iterator[Case]:
    whole = encoded(sample(size=(60, 40)), "PNG")
    for percent in (1, 5, 20, 40, 60, 80, 90, 99):
        yield either(f"png cut at {percent} %", whole[: len(whole) * percent // 100], (60, 40), DAMAGED, NOT_TAKEN)
    yield either("png without its end", whole[:-12], (60, 40), DAMAGED)
    rng = random.Random(15)
    for n in range(24):
        data = bytearray(whole)
        for _ in range(1 + n % 6):
            data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        yield anything(f"png with flipped bits {n}", bytes(data))
    rows = chunk(b"IDAT", zlib.compress(RED_ROWS))
    yield refused("png signature alone", SIGNATURE, DAMAGED)
    yield refused("png header alone", SIGNATURE + header(6, 4), DAMAGED)
    yield refused("png without pixels", SIGNATURE + header(6, 4) + END, DAMAGED)
    yield refused("png of an empty pixel chunk", SIGNATURE + header(6, 4) + chunk(b"IDAT", b"") + END, DAMAGED)
    yield refused("png pixels before the header", SIGNATURE + rows + header(6, 4) + END, DAMAGED)
    yield refused("png with too few rows", png(header(6, 4), RED_ROWS[:20]), DAMAGED)
    yield taken("png with too many rows", png(header(6, 4), RED_ROWS * 50))
    yield either("png with a filter of 9", png(header(6, 4), b"\x09" + RED_ROWS[1:]), (6, 4), DAMAGED)
    yield refused("png pixels of no zlib", SIGNATURE + header(6, 4) + chunk(b"IDAT", b"x" * 99) + END, DAMAGED)
    wrong = rows[:-4] + b"oops"
    yield either("png with a wrong checksum", SIGNATURE + header(6, 4) + wrong + END, (6, 4), DAMAGED)
    yield refused("png header with a wrong checksum", SIGNATURE + header(6, 4)[:-4] + b"oops" + rows + END, DAMAGED)
    for depth, color in ((3, 2), (16, 3), (1, 2), (8, 1), (8, 7), (0, 0), (255, 255)):
        yield refused(f"png of {depth} bits of color {color}", png(header(6, 4, depth, color), RED_ROWS), DAMAGED)
    yield either("png palette without a palette", png(header(6, 4, 8, 3), (b"\0" + b"\1" * 6) * 4), (6, 4), DAMAGED)
    short = chunk(b"PLTE", bytes(3))
    yield either("png colors after the palette", png(header(6, 4, 8, 3), (b"\0\xff" * 7) * 4, short), (6, 4), DAMAGED)
    yield refused("png chunk of 2 GiB", SIGNATURE + header(6, 4) + struct.pack(">I", 2**31 - 1) + b"IDATxx", DAMAGED)
    yield refused("png chunk of 4 GiB", SIGNATURE + header(6, 4) + b"\xff\xff\xff\xffIDATxx", DAMAGED)
    yield refused("png chunk without a name", SIGNATURE + header(6, 4) + bytes(12) + rows + END, DAMAGED)
    control = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield either("png of two billion frames", png(header(6, 4), RED_ROWS, control), (6, 4), DAMAGED)


def png_bombs() -> Iterator[Case]:
    zeros = zlib.compress(bytes(64 << 20), 9)
    text = chunk(b"zTXt", b"k\0\0" + zeros)
    yield either("png text of 64 MiB", png(header(6, 4), RED_ROWS, text), (6, 4), DAMAGED)
    many = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20), 9)) * 200
    yield either("png texts of 200 MiB", png(header(6, 4), RED_ROWS, many), (6, 4), DAMAGED)
    big_profile = chunk(b"iCCP", b"x\0\0" + zeros)
    yield either("png profile of 64 MiB", png(header(6, 4), RED_ROWS, big_profile), (6, 4), DAMAGED)
    rows = SIGNATURE + header(6, 4) + chunk(b"IDAT", zlib.compress(bytes(256 << 20), 9)) + END
    yield taken("png rows of 256 MiB", rows)
    parts = chunk(b"tEXt", b"k\0v") * 200_000
    yield refused("png of 200,000 chunks", png(header(6, 4), RED_ROWS, parts), DAMAGED)
    pieces = zlib.compress(RED_ROWS)
    split = b"".join(chunk(b"IDAT", pieces[i : i + 1]) for i in range(len(pieces)))
    yield taken("png pixels in pieces of a byte", SIGNATURE + header(6, 4) + split + END)
    empty = chunk(b"IDAT", b"") * 100_000
    yield refused("png of 100,000 empty chunks", png(header(6, 4), RED_ROWS, empty), DAMAGED)
    yield taken("png of 36 megapixels", encoded(Image.new("L", (6000, 6000)), "PNG"), (6000, 6000))
