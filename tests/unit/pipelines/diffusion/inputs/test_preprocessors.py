"""Maps from photos: edges as OpenCV finds them, and pictures that are maps already."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.diffusion.inputs.preprocessors import RUN, canny, canny_edges, invert, is_map_of_edges
from pipelines.diffusion_interface import PREPROCESSORS

# What cv2.Canny(pixels, 100, 200) of OpenCV 4 returns for `blocks_and_a_disc`, one bit for each pixel.
BY_OPENCV = (
    "ERERAREREBEREQ79CXcALxCBCAQQEMAJD2gA9xEABQEQAEASAAQOYAA3EgAAASAAUBIABQ7wAE8RAASBCACQEMABD/dmfwAZmAEREQARERABEREA"
)


def blocks_and_a_disc() -> NDArray[np.uint8]:
    small = np.random.default_rng(7).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    pixels = np.kron(small, np.ones((4, 4, 1), np.uint8))
    y, x = np.mgrid[:24, :28]
    pixels[(y - 12) ** 2 + (x - 14) ** 2 < 64] = (250, 40, 10)
    return pixels


def test_the_edges_are_those_of_opencv() -> None:
    expected = np.unpackbits(np.frombuffer(base64.b64decode(BY_OPENCV), np.uint8))[: 24 * 28].reshape(24, 28)

    assert np.array_equal(canny_edges(blocks_and_a_disc(), 100, 200), expected.astype(bool))


def test_a_weak_edge_counts_only_where_it_touches_a_strong_one() -> None:
    pixels = np.zeros((12, 9, 3), np.uint8)
    pixels[:4, 4:], pixels[4:, 4:] = 200, 40  # a step of 200 that goes on as one of 40
    alone = np.where(pixels == 200, 40, pixels).astype(np.uint8)

    assert canny_edges(pixels, 100, 200)[6].any()
    assert not canny_edges(alone, 100, 200).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_pictures_of_one_pixel_or_line_have_edges_without_an_error(size: tuple[int, int]) -> None:
    assert canny(Image.new("RGB", size, "white")).size == size


def test_a_photo_is_told_from_a_map_of_edges() -> None:
    photo = Image.radial_gradient("L").resize((64, 64)).convert("RGB")

    assert not is_map_of_edges(photo)
    assert is_map_of_edges(canny(photo))
    assert is_map_of_edges(Image.new("RGB", (8, 8), "black"))


def test_every_preprocessor_that_a_request_may_name_can_be_run() -> None:
    picture = Image.new("L", (8, 8), 200)

    assert set(RUN) == set(PREPROCESSORS)
    assert invert(picture).getpixel((0, 0)) == (55, 55, 55)
    assert {name: RUN[name](picture).size for name in RUN} == dict.fromkeys(PREPROCESSORS, (8, 8))
