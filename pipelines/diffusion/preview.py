"""What a job looks like while it is made: latents to colours by one small matrix, fitted from the model's own VAE. Device thread only.

The latents are seen where every diffusers pipeline hands them to its noise scheduler, so there is no code for a family here.
Layouts that are not recognised give no preview; the job itself is never touched.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines import device

INTERVAL_S = 0.25  # between two previews of a job: each makes the host wait for the device once
SIDE = 16  # latents a side of the pictures that the matrix is fitted on
PICTURES = 8


@dataclass(frozen=True, slots=True)
class Projection:
    """RGB in [-1, 1] ≈ latents · matrix + offset, place by place."""

    matrix: Tensor  # (C, 3) float32
    offset: Tensor  # (3,)

    def colours(self, latents: Tensor) -> NDArray[np.uint8]:
        """latents: (C, H, W), as the pipeline denoises them. Returns (H, W, 3)."""
        rgb = torch.einsum("chw,cd->hwd", latents.float(), self.matrix) + self.offset
        pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).to(torch.uint8)
        return np.asarray(pixels.cpu().numpy())


class Previews:
    """Of one model. Its matrix is fitted for the first request that wants to be seen."""

    def __init__(self) -> None:
        self._projection: Projection | None = None
        self._fitted = False

    def fit(self, vae: Any | None) -> None:
        """Once. None: there is no VAE to ask, and there will be no previews."""
        if not self._fitted:
            self._fitted, self._projection = True, None if vae is None else fit(vae)

    def watch(self, own: Any, ratio: float, show: Callable[[NDArray[np.uint8]], None]) -> None:
        """`own`: one request's copy of the pipeline. See `watch` below."""
        if self._projection is not None:
            watch(own.scheduler, self._projection, ratio, show)


def fit(vae: Any) -> Projection | None:
    """Least squares over a few soft pictures that `vae` encodes. None for a VAE that cannot be asked that way."""
    try:
        return _fit(vae)
    except Exception as error:  # stock code of any family; a preview is worth nothing that it could break
        if device.is_fatal(error):
            raise
        return None


@torch.no_grad()
def _fit(vae: Any) -> Projection:
    parameter = next(vae.parameters())
    generator = torch.Generator("cpu").manual_seed(0)
    coarse = torch.rand(PICTURES, 3, 4, 4, generator=generator) * 2 - 1
    small = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    scale = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
    pictures = torch.nn.functional.interpolate(small, scale_factor=scale, mode="bilinear")
    clips = _is_for_clips(vae)
    encoded = vae.encode((pictures[:, :, None] if clips else pictures).to(parameter))
    found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    latents = _as_denoised(vae, (found[:, :, 0] if clips else found).float())
    seen = torch.nn.functional.interpolate(small, size=latents.shape[-2:], mode="area").to(latents.device)
    rows = latents.movedim(1, -1).flatten(0, -2)  # (B·H·W, C)
    rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1).cpu()
    solution = torch.linalg.lstsq(rows, seen.movedim(1, -1).flatten(0, -2).cpu()).solution.to(latents.device)
    return Projection(solution[:-1], solution[-1])


def _is_for_clips(vae: Any) -> bool:
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())


def _as_denoised(vae: Any, latents: Tensor) -> Tensor:
    """The encoder's latents as pipelines denoise them. latents: (B, C, H, W)."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        return (latents - _column(mean, latents)) / _column(std, latents)
    return (latents - (getattr(config, "shift_factor", None) or 0.0)) * (getattr(config, "scaling_factor", None) or 1.0)


def _column(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)


def one_frame(latents: Tensor, channels: int, ratio: float) -> Tensor | None:
    """The picture, or the middle frame of the clip, of the first row: (C, H, W); None for a layout that is not known.

    Known are (B, C, H, W), (B, C, F, H, W), (B, F, C, H, W), and rows of 2x2 patches (B, H·W/4, 4·C) whose ratio of width to
    height is `ratio`.
    """
    match latents.shape:
        case (_, c, _, _) if c == channels:
            return latents[0]
        case (_, c, frames, _, _) if c == channels:
            return latents[0, :, frames // 2]
        case (_, frames, c, _, _) if c == channels:
            return latents[0, frames // 2]
        case (_, n, c) if c == 4 * channels:
            height = round((n / ratio) ** 0.5)
            if height and n % height == 0:
                patches = latents[0].reshape(height, n // height, channels, 2, 2)  # h w c a b
                return patches.permute(2, 0, 3, 1, 4).reshape(channels, 2 * height, 2 * (n // height))
    return None


def watch(scheduler: Any, projection: Projection, ratio: float, show: Callable[[NDArray[np.uint8]], None]) -> None:
    """Have `show` called with the colours of what `scheduler`, which is one request's own, steps; now and then, not each time."""
    step = scheduler.step
    shown_at = -INTERVAL_S

    @functools.wraps(step)  # pipelines look at its signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal shown_at
        result = step(*args, **kwargs)
        if time.monotonic() - shown_at >= INTERVAL_S:
            shown_at = time.monotonic()
            try:
                given = inspect.signature(step).bind(*args, **kwargs).arguments
                clean = _clean(scheduler, given["model_output"], given["sample"], result)
                frame = one_frame(clean, len(projection.matrix), ratio)
                if frame is not None:
                    show(projection.colours(frame))
            except Exception as error:  # a layout that only looked known; the job goes on without previews
                if device.is_fatal(error):
                    raise
                shown_at = math.inf
        return result

    scheduler.step = watched


def _clean(scheduler: Any, model_output: Tensor, sample: Tensor, result: Any) -> Tensor:
    """Where the model thinks this is going, where that can be told; else what it is now, noise and all."""
    predicted = getattr(result, "pred_original_sample", None)
    if isinstance(predicted, Tensor):
        return predicted
    index, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if "FlowMatch" in type(scheduler).__name__ and sigmas is not None and index and model_output.shape == sample.shape:
        sigma: Tensor = sigmas[index - 1].to(sample.device)
        return sample - sigma * model_output
    moved = result[0] if isinstance(result, tuple) else result.prev_sample
    assert isinstance(moved, Tensor)
    return moved
