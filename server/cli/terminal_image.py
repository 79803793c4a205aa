"""Shows an image in the terminal, by the kitty or iTerm2 protocol, as sixel, or as coloured half blocks."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from server.cli.terminal_graphics import Graphics, graphics

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

MAX_COLUMNS = 80
CELL = (8, 16)  # assumed width and height of a character in pixels; only sixel depends on it
KITTY_CHUNK = 4096  # bytes of base64 per escape sequence, the protocol's limit


def show(content: bytes, console: Console) -> None:
    """Shows an image, or does nothing if the output is not a terminal or cannot show images."""
    kind = graphics(colours=console.color_system in ("256", "truecolor"))
    if kind == "none":
        return
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.load()
        columns = min(console.width - 1, MAX_COLUMNS, max(1, image.width // CELL[0]))
        if kind == "blocks":
            columns = min(console.width - 1, MAX_COLUMNS)
            for line in half_blocks(image, columns):
                console.print(line, soft_wrap=True)
            return
        sys.stdout.write(encoded(kind, image, columns) + "\n")
        sys.stdout.flush()


def encoded(kind: Graphics, image: Image, columns: int) -> str:
    """Returns the escape sequences that show the image in the given protocol."""
    match kind:
        case "kitty":
            return kitty(_png(image), columns)
        case "iterm":
            return iterm(_png(image), columns)
        case _:
            return sixel(_fitted(image, columns * CELL[0]))


def kitty(png: bytes, columns: int) -> str:
    """Encodes a PNG: a=T transmits and shows, f=100 is PNG, m=1 announces more chunks, q=2 suppresses answers.

    Source: kitty graphics protocol.
    """
    text = base64.standard_b64encode(png).decode()
    chunks = [text[i : i + KITTY_CHUNK] for i in range(0, len(text), KITTY_CHUNK)]
    keys = [f"a=T,f=100,q=2,c={columns},"] + [""] * (len(chunks) - 1)
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\x1b_G{k}m={m};{chunk}\x1b\\" for k, m, chunk in zip(keys, more, chunks, strict=True))


def iterm(png: bytes, columns: int) -> str:
    text = base64.standard_b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};width={columns}:{text}\x07"


def sixel(image: Image) -> str:
    """Encodes an image as sixel: for each colour and band of six rows, one character per column, whose bits are the
    rows; !n repeats a character n times. Source: DEC STD 070.
    """
    import numpy as np

    indexed = image.quantize(255)
    pixels = np.asarray(indexed)
    height, width = pixels.shape
    palette = np.asarray(indexed.getpalette(), dtype=np.uint16).reshape(-1, 3) * 100 // 255
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    parts += [f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(palette)]
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        bits = 1 << np.arange(len(band), dtype=np.uint8)[:, None]
        for colour in np.unique(band):
            row = ((band == colour) * bits).sum(axis=0) + 63
            runs = "".join(_run(chr(value), len(list(same))) for value, same in groupby(row))
            parts.append(f"#{colour}{runs}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def half_blocks(image: Image, columns: int) -> Iterator[object]:
    """Yields lines of text: a character's foreground colour is its upper half, the background its lower half."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    small = _fitted(image, columns)
    pixels = small.load()
    assert pixels is not None
    for y in range(0, small.height - 1, 2):
        line = Text()
        for x in range(small.width):
            (r, g, b), (r2, g2, b2) = pixels[x, y], pixels[x, y + 1]  # type: ignore[misc]  # RGB: three numbers
            line.append("▀", Style(color=Color.from_rgb(r, g, b), bgcolor=Color.from_rgb(r2, g2, b2)))
        yield line


def _run(character: str, length: int) -> str:
    return f"!{length}{character}" if length > 3 else character * length


def _fitted(image: Image, width: int) -> Image:
    """Returns the image in RGB, `width` pixels wide, with an even number of rows."""
    height = max(2, round(image.height * width / image.width / 2) * 2)
    return image.convert("RGB").resize((width, height))


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()
