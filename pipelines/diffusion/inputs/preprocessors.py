"""Makes the map that a ControlNet follows from a photo, where that needs nothing but NumPy. Pure functions; any thread.

Maps that a network makes (depth, poses, soft edges) are the client's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Differences of brightness, as OpenCV's Canny has them and most ControlNets for edges were trained with.
LOW_THRESHOLD, HIGH_THRESHOLD = 100, 200
TAN_22_5 = 13573  # 2^15 times the tangent of 22.5°, rounded as OpenCV has it
MAP_SHARE = 0.9  # of a map of edges, at least so many pixels are black or white
NEAR_END = 32  # a brightness within this distance of 0 or 255 counts as black or white

Ints = NDArray[np.int64]


def canny(picture: Image.Image) -> Image.Image:
    """White edges on black, equal to `cv2.Canny(picture, 100, 200)` of OpenCV pixel by pixel."""
    found = canny_edges(np.asarray(picture.convert("RGB")), LOW_THRESHOLD, HIGH_THRESHOLD)
    return Image.fromarray(np.where(found, 255, 0).astype(np.uint8)).convert("RGB")


def invert(picture: Image.Image) -> Image.Image:
    """A drawing in black on white becomes one in white on black, which ControlNets for lines expect."""
    return ImageOps.invert(picture.convert("RGB"))


def unchanged(picture: Image.Image) -> Image.Image:
    return picture


RUN: Mapping[str, Callable[[Image.Image], Image.Image]] = {"canny": canny, "invert": invert, "none": unchanged}


def is_map_of_edges(picture: Image.Image) -> bool:
    """Whether a picture is a map of edges already, and no photo: nearly all of it is black or white."""
    gray = np.asarray(picture.convert("L"))
    ends = (gray <= NEAR_END) | (gray >= 255 - NEAR_END)
    return bool(ends.mean() >= MAP_SHARE)


def canny_edges(pixels: NDArray[np.uint8], low: int, high: int) -> NDArray[np.bool_]:
    """Finds edges by Canny's method: gradients, thinning to ridges, and hysteresis between two thresholds.

    pixels: (H, W, C); of the channels, each pixel takes the one with the steepest gradient. Returns (H, W).
    Source: Canny 1986, and the choices of OpenCV's implementation: Sobel over 3x3 pixels without blur, |dx| + |dy|.
    """
    dx, dy = _steepest(*_sobel(pixels.astype(np.int64)))
    steepness = np.abs(dx) + np.abs(dy)
    ridges = _is_ridge(dx, dy, steepness) & (steepness > low)
    return _connected(ridges, ridges & (steepness > high))


def _sobel(pixels: Ints) -> tuple[Ints, Ints]:
    """The gradients of each channel to the right and downwards; beyond its border a picture goes on unchanged."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_right = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return smooth_down[:, 2:] - smooth_down[:, :-2], smooth_right[2:] - smooth_right[:-2]


def _steepest(dx: Ints, dy: Ints) -> tuple[Ints, Ints]:
    channel = np.argmax(np.abs(dx) + np.abs(dy), axis=2, keepdims=True)
    return np.take_along_axis(dx, channel, 2)[..., 0], np.take_along_axis(dy, channel, 2)[..., 0]


def _is_ridge(dx: Ints, dy: Ints, steepness: Ints) -> NDArray[np.bool_]:
    """Whether a pixel is the steepest of the three along its gradient, whose direction is one of four."""
    height, width = steepness.shape
    around = np.pad(steepness, 1)  # nothing is steep beyond the border

    def neighbour(down: int, right: int) -> Ints:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx), np.abs(dy) << 15
    flat, steep = x * TAN_22_5, x * TAN_22_5 + (x << 16)  # y below tan 22.5° of x, and above tan 67.5° of it
    across = (steepness > neighbour(0, -1)) & (steepness >= neighbour(0, 1))
    along = (steepness > neighbour(-1, 0)) & (steepness >= neighbour(1, 0))
    falling = (steepness > neighbour(-1, -1)) & (steepness > neighbour(1, 1))
    rising = (steepness > neighbour(-1, 1)) & (steepness > neighbour(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(y < flat, across, np.where(y > steep, along, diagonal))


def _connected(candidates: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The candidates that touch a seed, or another connected candidate, at a side or a corner."""
    width = candidates.shape[1] + 2
    free = np.pad(candidates & ~seeds, 1).ravel()  # the border spares the checks for it
    found = np.pad(seeds, 1).ravel()
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    reached = np.flatnonzero(found)
    while reached.size:
        around = np.unique((reached[:, None] + steps).ravel())
        reached = around[free[around]]
        free[reached], found[reached] = False, True
    return found.reshape(-1, width)[1:-1, 1:-1]
