"""Pictures of any shape and mode come to the size of the output, in RGB."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.diffusion.inputs import geometry
from pipelines.diffusion.inputs.geometry import bounded, fitted, fitted_mask, in_colors
from pipelines.diffusion_interface import Fit

RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def stripes() -> Image.Image:
    """64 x 32: red, blue, blue, red in four columns."""
    picture = Image.new("RGB", (64, 32), RED)
    picture.paste(BLUE, (16, 0, 48, 32))
    return picture


@pytest.mark.parametrize(
    ("fit", "colors"),
    [
        ("crop", {(1, 16): BLUE, (30, 16): BLUE}),
        ("stretch", {(1, 16): RED, (16, 16): BLUE, (30, 16): RED, (16, 1): BLUE}),
        ("pad", {(1, 16): RED, (16, 16): BLUE, (30, 16): RED, (16, 1): BLACK, (16, 30): BLACK}),
    ],
)
def test_what_is_left_over_is_cut_off_squeezed_or_padded(fit: Fit, colors: dict[tuple[int, int], object]) -> None:
    picture = fitted(stripes(), 32, 32, fit)

    assert picture.size == (32, 32)
    assert {place: picture.getpixel(place) for place in colors} == colors


def test_a_picture_of_the_right_size_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)

    for fit in ("crop", "stretch", "pad"):
        assert np.array_equal(np.asarray(fitted(Image.fromarray(pixels), 48, 32, fit)), pixels)


def test_transparent_parts_are_white() -> None:
    picture = Image.new("RGBA", (2, 1), (*RED, 255))
    picture.putpixel((1, 0), (*BLUE, 0))
    half = Image.new("RGBA", (1, 1), (*BLACK, 128))

    assert [in_colors(picture).getpixel((x, 0)) for x in range(2)] == [RED, WHITE]
    assert in_colors(half).getpixel((0, 0)) == (127, 127, 127)
    assert in_colors(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_a_mask_has_the_geometry_of_its_picture() -> None:
    mask = Image.new("L", (32, 16), 0)  # half the size of its picture
    mask.paste(255, (8, 0, 16, 16))
    left_middle = fitted_mask(mask, (64, 32), 32, 32, "crop")

    assert left_middle.mode == "L"
    assert (left_middle.getpixel((4, 16)), left_middle.getpixel((28, 16))) == (255, 0)


def test_a_mask_made_smaller_stays_within_the_values_of_its_neighbors() -> None:
    mask = Image.new("L", (96, 96), 0)
    mask.paste(200, (40, 0, 96, 96))
    values = np.asarray(fitted_mask(mask, (96, 96), 32, 32, "crop"))

    assert (values.min(), values.max()) == (0, 200)


def test_a_reference_keeps_its_shape_and_is_made_smaller_only_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bounded(stripes()).size == (64, 32)
    monkeypatch.setattr(geometry, "MAX_REFERENCE_PIXELS", 512)
    assert bounded(stripes()).size == (32, 16)
