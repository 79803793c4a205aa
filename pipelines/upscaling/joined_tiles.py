"""Joins enlarged tiles without seams. Any thread."""

from __future__ import annotations

import torch

from pipelines.tile_grid import Tile


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
