"""Lets a VAE decode in tiles for one call. Device thread only.

The VAEs of diffusers cut only what is larger than a tile, and the tile of some is as large as the pictures that their
model makes, so that switching tiles on would change nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch

SIZES = re.compile(r"tile_(sample|latent)_(min|stride|min_overlap)_(size|height|width)")
LEAST_SIDE = 4  # latents, of a tile: a smaller one is hardly more than what it shares with the next


@contextlib.contextmanager
def in_tiles(vae: Any, latents: torch.Tensor, halvings: int = 0) -> Iterator[None]:
    """Within the block, `vae` decodes latents (…, H, W) of this size in at least two tiles, where it can.

    halvings: how often to halve the sides of the tiles further. Raises NotImplementedError or AttributeError when the
    VAE has no tiles.
    """
    sizes = {name: value for name, value in vars(vae).items() if SIZES.fullmatch(name) and isinstance(value, int)}
    vae.enable_tiling()
    try:
        while sizes and _side(vae) >= max(latents.shape[-2:]) and _halve(vae, sizes):
            pass
        for _ in range(halvings if sizes else 0):
            _halve(vae, sizes)
        yield
    finally:
        for name, value in sizes.items():
            setattr(vae, name, value)
        vae.disable_tiling()


def _side(vae: Any) -> int:
    """The longer side of a tile, in latents; 0 when the VAE does not say."""
    for names in (("tile_latent_min_size",), ("tile_latent_min_height", "tile_latent_min_width")):
        if hasattr(vae, names[0]):
            return int(max(getattr(vae, name) for name in names))
    pixels = max(getattr(vae, "tile_sample_min_height", 0), getattr(vae, "tile_sample_min_width", 0))
    return int(pixels // _compression(vae))


def _halve(vae: Any, names: Any) -> bool:
    """Halve the sides of the tiles and what they share; returns whether that was possible.

    Each side stays a whole number of latents, so that the parts of the picture go on fitting together.
    """
    compression = _compression(vae)
    units = {name: compression if name.startswith("tile_sample") else 1 for name in names}
    sides = {name: getattr(vae, name) for name in names}
    if any(side % (2 * units[name]) for name, side in sides.items()):
        return False
    if any(side // (2 * units[name]) < LEAST_SIDE for name, side in sides.items() if name.endswith(_TILE_ENDINGS)):
        return False
    for name, side in sides.items():
        setattr(vae, name, side // 2)
    return True


_TILE_ENDINGS = ("min_size", "min_height", "min_width")


def _compression(vae: Any) -> int:
    """Pixels of a picture for each latent, along one side."""
    ratio = getattr(vae, "spatial_compression_ratio", None)
    return int(ratio or 2 ** (len(getattr(vae.config, "block_out_channels", ())) - 1) or 1)
