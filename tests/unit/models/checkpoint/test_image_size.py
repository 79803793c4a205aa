"""The sizes of the aspect ratios follow from the native size."""

from __future__ import annotations

from models.checkpoint.image_size import sizes_by_aspect


def test_a_native_size_near_an_aspect_ratio_is_that_ratios_size() -> None:
    assert sizes_by_aspect((832, 480), 16) == {"16:9": (832, 480), "1:1": (624, 624), "9:16": (480, 832)}


def test_sizes_keep_about_the_native_number_of_pixels() -> None:
    for multiple in (8, 16, 32, 64):
        for width, height in sizes_by_aspect((1024, 1024), multiple).values():
            assert 0.9 < width * height / 1024**2 < 1.1
