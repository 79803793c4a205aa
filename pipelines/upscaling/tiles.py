"""Splits a picture into overlapping tiles of one size, and joins the enlarged tiles without seams. Pure functions.

All tiles of a picture have the same size, so that those of several jobs can share forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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

    def of(self, frame: torch.Tensor) -> torch.Tensor:
        """frame: (B, C, H, W)."""
        return frame[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def times(self, scale: int) -> Tile:
        return Tile(self.top * scale, self.left * scale, self.height * scale, self.width * scale)


def tiles_of(width: int, height: int, side: int = TILE, overlap: int = OVERLAP) -> list[Tile]:
    """side: of a tile; a smaller picture is one tile. The last tile of a row overlaps the one before by more."""
    lefts, tops = _starts(width, side, overlap), _starts(height, side, overlap)
    return [Tile(top, left, min(side, height), min(side, width)) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]


class JoinedTiles:
    """A picture that is put together from tiles. Where they overlap, one fades into the other."""

    def __init__(self, width: int, height: int, overlap: int) -> None:
        """All in pixels of the joined picture."""
        self._sum = torch.zeros(3, height, width)
        self._weights = torch.zeros(height, width)
        self._overlap = overlap

    def add(self, tile: Tile, pixels: torch.Tensor) -> None:
        """pixels: (3, H, W) of the tile, on any device."""
        height, width = self._weights.shape
        rows = self._ramp(tile.top, tile.height, height)
        weights = rows[:, None] * self._ramp(tile.left, tile.width, width)
        tile.of(self._sum).add_(pixels.to("cpu", torch.float32) * weights)
        tile.of(self._weights).add_(weights)

    def _ramp(self, start: int, length: int, whole: int) -> torch.Tensor:
        """1 in the middle, and next to nothing where the tile is cut off: there the network saw no neighbours."""
        position = torch.arange(length, dtype=torch.float32)
        from_edge = torch.full((length,), float(self._overlap))
        if start > 0:
            from_edge = torch.minimum(from_edge, position)
        if start + length < whole:
            from_edge = torch.minimum(from_edge, position.flip(0))
        return ((from_edge - self._overlap / 4) / (self._overlap / 2)).clamp(1e-6, 1)

    def picture(self) -> torch.Tensor:
        """(3, H, W) float32 in host memory."""
        return self._sum.div_(self._weights)
