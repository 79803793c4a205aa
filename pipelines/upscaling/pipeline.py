"""A pipeline that makes pictures larger, with the interface of a stock pipeline of diffusers. Device thread only.

So an upscaler runs in a lane like any other model: each call of its network is one tile, at which a job can be merged
with others, preempted or canceled, and each tile is one step of its progress.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from pipelines.tile_grid import OVERLAP, Tile, tiles_of
from pipelines.upscaling.joined_tiles import JoinedTiles
from pipelines.upscaling.upscaler import Upscaler


class ProgressBar(Protocol):
    def update(self, n: int = 1) -> object: ...


@dataclass(frozen=True, slots=True)
class UpscalerOutput:
    """frames: a list with one array (F, H, W, 3) of float32 in [0, 1]; for pictures images: (1, H, W, 3)."""

    images: Any

    def __getitem__(self, index: int) -> Any:
        return (self.images,)[index]


class UpscalerPipeline(DiffusionPipeline):
    def __init__(self, upscaler: Upscaler) -> None:
        super().__init__()
        self.register_modules(upscaler=upscaler)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | None = None,
        video: Sequence[Image.Image] | None = None,
        width: int | None = None,
        height: int | None = None,
        output_type: str = "np",
    ) -> UpscalerOutput:
        """Makes a picture or the frames of a clip larger by the factor of the network.

        width, height: of the result, to which the enlarged frames are brought by Lanczos resampling; None: as they
        come out of the network. output_type: "np" or "pil".
        """
        if (image is None) == (video is None):
            raise ValueError("Give either an image or a video.")
        frames = [image] if image is not None else list(video or ())
        arrays = np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32) / np.float32(255) for frame in frames])
        size = (width, height) if width is not None and height is not None else None
        enlarged = enlarge(arrays, self.upscaler, self.progress_bar, size)
        output: Any = enlarged
        if output_type == "pil":
            output = [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in enlarged]
        return UpscalerOutput(output if image is not None else [output])


def enlarge(
    frames: NDArray[np.float32],
    upscaler: Upscaler,
    progress_bar: Callable[..., Any],
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Returns the frames enlarged, (F, H, W, 3) in [0, 1].

    frames: (F, H, W, 3) in [0, 1]. progress_bar: makes a bar from `total`, the number of tiles in all frames. size:
    (width, height) to which the enlarged frames are resampled; None: as the network makes them.
    """
    height, width = frames.shape[1:3]
    tiles = [Tile(0, 0, height, width)] if upscaler.tiles_itself else tiles_of(width, height)
    with progress_bar(total=len(frames) * len(tiles)) as bar:
        return np.stack([resized(_enlarged(frame, tiles, upscaler, bar), size) for frame in frames])


def _enlarged(
    frame: NDArray[np.float32], tiles: Sequence[Tile], upscaler: Upscaler, bar: ProgressBar
) -> NDArray[np.float32]:
    height, width = (side * upscaler.scale for side in frame.shape[:2])
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    joined = JoinedTiles(width, height, OVERLAP * upscaler.scale)
    for tile in tiles:
        part = tile.of(pixels).to(upscaler.device, upscaler.dtype)
        joined.add(tile.times(upscaler.scale), upscaler(part)[0])
        bar.update()
    return np.ascontiguousarray(joined.picture().clamp_(0, 1).permute(1, 2, 0).numpy())


def resized(frame: NDArray[np.float32], size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Brings a frame, (H, W, 3) in [0, 1], to (width, height) by Lanczos resampling, in floating point."""
    if size is None or size == (frame.shape[1], frame.shape[0]):
        return frame
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(frame[..., channel])).resize(size, Image.Resampling.LANCZOS))
        for channel in range(frame.shape[2])
    ]
    return np.stack(channels, axis=-1).clip(0, 1)
