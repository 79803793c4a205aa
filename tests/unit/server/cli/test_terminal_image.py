"""An image in the escape sequences of each terminal protocol."""

from __future__ import annotations

from PIL import Image

from server.cli.terminal_image import encoded, half_blocks


def two_halves() -> Image.Image:
    """Returns an image of 16×12 pixels, the left half red and the right half blue."""
    image = Image.new("RGB", (16, 12), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 16, 12))
    return image


def test_kitty_and_iterm_sequences_have_the_format_of_their_protocol() -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    chunks = encoded("kitty", image, 8).split("\x1b\\")[:-1]

    assert chunks[0].startswith("\x1b_Ga=T,f=100,q=2,c=8,m=1;")
    assert chunks[-1].startswith("\x1b_Gm=0;")
    assert all(len(chunk.partition(";")[2]) <= 4096 for chunk in chunks)
    assert encoded("iterm", image, 8).startswith("\x1b]1337;File=inline=1;size=")


def test_sixel_draws_each_colour_of_six_rows_in_runs() -> None:
    sixel = encoded("sixel", two_halves(), 2)

    assert sixel.startswith('\x1bP0;1q"1;1;16;12#')
    assert sixel.endswith("-\x1b\\")
    for colour in ("100;0;0", "0;0;100"):
        assert colour in sixel
    assert sixel.count("-") == 2  # twelve rows
    assert sixel.count("!8~") == 4  # each colour fills one half of both bands


def test_a_line_of_half_blocks_shows_two_rows() -> None:
    lines = list(half_blocks(two_halves(), 16))

    assert [str(line) for line in lines] == ["▀" * 16] * 6
