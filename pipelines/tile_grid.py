"""The grid of overlapping tiles of one size that a picture is enlarged in. Pure functions, no torch; any thread.

All tiles of a picture have the same size, so that those of several jobs can share forwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# Pixels of the picture that goes in. 4x-models in bfloat16 need about 1 GB for a tile of this size.
TILE = 256
OVERLAP = 32  # a pixel's value depends on neighbours about this far away: farther ones change nothing that is seen


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, frame: Any) -> Any:
        """frame: an array or tensor (…, H, W)."""
        return frame[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def times(self, scale: int) -> Tile:
        return Tile(self.top * scale, self.left * scale, self.height * scale, self.width * scale)


def tiles_of(width: int, height: int, side: int = TILE, overlap: int = OVERLAP) -> list[Tile]:
    """side: of a tile; a smaller picture is one tile. The last tile of a row overlaps the one before by more."""
    lefts, tops = _starts(width, side, overlap), _starts(height, side, overlap)
    return [Tile(top, left, min(side, height), min(side, width)) for top in tops for left in lefts]


def tile_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the tiles of such a picture."""
    return min(width, TILE), min(height, TILE)


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]


def size_before(
    own: tuple[int, int], wanted: tuple[int, int], fit: Literal["crop", "stretch", "pad"]
) -> tuple[int, int]:
    """The size to which a picture of the size `own` is brought before it is enlarged to `wanted`, at its own scale.

    All are (width, height). It is the picture's own size, unless a side has to be cut off or filled up.
    """
    if fit == "stretch":
        return own
    ratios = wanted[0] / own[0], wanted[1] / own[1]
    ratio = max(ratios) if fit == "crop" else min(ratios)
    return max(1, round(wanted[0] / ratio)), max(1, round(wanted[1] / ratio))
