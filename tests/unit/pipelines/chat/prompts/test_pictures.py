"""Files of pictures that clients send: what a model sees of them, and what is refused, however it was made."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.chat.prompts.pictures import MAX_PIXELS_TOGETHER, decode
from pipelines.chat_interface import MessageImage, PromptRefused


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(data: bytes, longest_side: int | None = None) -> Image.Image:
    [picture] = decode([MessageImage(0, data, place="here", longest_side=longest_side)])
    assert picture.mode == "RGB"
    return picture


def refusal(*files: bytes) -> str:
    with pytest.raises(PromptRefused) as refused:
        decode([MessageImage(0, data, place=f"picture {i}") for i, data in enumerate(files)])
    return refused.value.message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, color: int = 0, bits: int = 8, more: bytes = b"") -> bytes:
    """Returns a PNG with these compressed rows, whatever its header says of them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_type_of_file_is_read(kind: str) -> None:
    picture = seen(file(Image.new("RGB", (20, 10), RED), kind))

    assert picture.size == (20, 10)
    assert np.abs(np.asarray(picture)[5, 5].astype(int) - RED).max() <= 3


def test_a_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # its camera was held on its side
    picture = Image.new("RGB", (20, 10), RED)
    picture.paste("white", (0, 0, 10, 10))

    turned = seen(file(picture, "PNG", exif=exif))

    assert turned.size == (10, 20)
    assert (turned.getpixel((5, 2)), turned.getpixel((5, 17))) == (WHITE, RED)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_on_white(mode: str) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    found = seen(file(picture.convert(mode)))

    assert found.getpixel((0, 0)) == WHITE
    assert found.getpixel((1, 0)) != WHITE


def test_a_transparent_color_of_a_palette_is_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((1, 0), 1)

    found = seen(file(picture, "GIF", transparency=0))

    assert [found.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


def test_16_bits_of_gray_become_8() -> None:
    gray = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))

    assert np.asarray(seen(file(gray)))[0, :, 0].tolist() == [0, 128, 255]


def test_the_colors_of_printing_become_rgb() -> None:
    picture = seen(file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))

    assert np.abs(np.asarray(picture)[4, 4].astype(int) - RED).max() <= 8


def test_of_an_animation_the_first_frame_is_seen() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "white")]

    assert seen(file(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == RED


def test_a_picture_becomes_as_small_as_asked_and_never_larger() -> None:
    assert seen(file(Image.new("RGB", (1000, 10))), longest_side=512).size == (512, 5)
    assert seen(file(Image.new("RGB", (100, 10))), longest_side=512).size == (100, 10)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "picture 0 must be a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n", "picture 0 must be a picture that can be read"),
        (file(Image.new("RGB", (64, 64)))[:-30], "picture 0 must be a picture that can be read"),
        (file(Image.effect_noise((64, 64), 99), "JPEG")[:300], "picture 0 must be a picture that can be read"),
        (file(Image.new("RGB", (64, 64)), "TIFF"), "picture 0 must be a picture that can be read"),
        (file(Image.new("RGB", (64, 64)), "BMP"), "picture 0 must be a picture that can be read"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 \x00\x00\x00\x00", "picture 0 must be a picture that can be read"),
        (b"GIF89a\xff\xff\xff\xff\x00\x00\x00", "picture 0 must"),
        (png(1, 65_535, b""), "picture 0 must have at most 36,000,000 pixels, and at most 32,768 on a side"),
        (png(2**31 - 1, 2**31 - 1, b""), "picture 0 must"),
        (png(0, 5, b""), "picture 0 must be a picture that can be read"),
        (png(4, 4, b"no zlib"), "picture 0 must be a picture that can be read"),
    ],
)
def test_damaged_foreign_and_huge_files_are_refused(data: bytes, error: str) -> None:
    assert refusal(data).startswith(error)


def test_a_bomb_is_refused_by_its_header_without_memory_for_its_pixels() -> None:
    """Rows of one color become a thousandth of their size, and so does a comment of 64 MiB."""
    rows = zlib.compress(bytes(2**24), 9)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9))
    tracemalloc.start()
    try:
        assert refusal(png(50_000, 30_000, rows)).startswith("picture 0 must be a picture that can be read")
        assert refusal(png(9_000, 9_000, rows)).startswith("picture 0 must have at most")
        assert refusal(png(4, 4, rows, more=text)).startswith("picture 0 must be a picture that can be read")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 64 << 20


def with_parts(kind: str, n_parts: int) -> bytes:
    """Returns a sound file with so many empty parts, which no reader needs."""
    data = file(Image.new("L", (8, 8)), kind)
    at, part = {
        "PNG": (33, chunk(b"abCd", b"")),
        "JPEG": (2, b"\xff\xfe\x00\x02"),
        "GIF": (data.find(b"\x2c\x00\x00"), b"\x21\xfe\x01a\x00"),
    }[kind]
    return data[:at] + part * n_parts + data[at:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_file_of_millions_of_parts_is_refused_before_they_are_read(kind: str) -> None:
    assert seen(with_parts(kind, 5_000)).size == (8, 8)
    with pytest.raises(PromptRefused, match="that can be read") as refused:
        seen(with_parts(kind, 2_000_000))

    assert refused.value.detail == "too many parts"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_they_are_decoded() -> None:
    """Its last scan of 59 bytes is repeated, which decodes all pixels again each time."""
    data = file(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]

    assert seen(data[:-2] + scan * 5 + data[-2:]).size == (2000, 2000)
    with pytest.raises(PromptRefused, match="that can be read") as refused:
        seen(data[:-2] + scan * 5_000 + data[-2:])
    assert refused.value.detail == "too many scans"


def test_the_pictures_of_one_request_have_so_many_pixels_together() -> None:
    one = png(6_000, 5_000, b"")
    assert MAX_PIXELS_TOGETHER < 3 * 6_000 * 5_000

    assert (
        refusal(one, one, one) == "The pictures of one request may have 72,000,000 pixels together. Send fewer or "
        "smaller ones."
    )


def test_random_damage_is_refused_or_read_but_raises_nothing_else() -> None:
    dice = random.Random(14)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 4), dtype=np.uint8), "RGBA")
    files = [file(noise), file(noise.convert("RGB"), "JPEG"), file(noise, "WEBP"), file(noise.convert("P"), "GIF")]
    n_read = 0
    for _ in range(400):
        data = bytearray(dice.choice(files))
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        del data[dice.randint(len(data) // 2, len(data)) :]
        try:
            decode([MessageImage(0, bytes(data), place="here")])
            n_read += 1
        except PromptRefused:
            pass

    assert 0 < n_read < 400
