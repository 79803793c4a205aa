"""Shows what a job looks like while it is made: one small matrix, fitted to the model's VAE, maps latents to colors.

Device thread only. The latents are read where every diffusers pipeline hands them to its noise scheduler, so there is
no code for a family here. Unknown layouts give no preview; the job itself is never affected.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines import device

T = TypeVar("T")

INTERVAL_S = 0.25  # between two previews of a job
SIDE = 16  # of the pictures that the matrix is fitted on, in latents
N_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Projection:
    """RGB in [-1, 1] ≈ latents · matrix + offset, at each position."""

    matrix: Tensor  # (C, 3) float32
    offset: Tensor  # (3,)

    def colours(self, latents: Tensor) -> PictureCopy:
        """Map latents, (C, H, W) as the pipeline denoises them, to colors (H, W, 3)."""
        rgb = torch.einsum("chw,cd->hwd", latents.float(), self.matrix) + self.offset
        return PictureCopy(((rgb.clamp(-1, 1) + 1) * 127.5).to(torch.uint8))


class PictureCopy:
    """Colors (H, W, 3) uint8 on their way to the host, which does not wait for them."""

    def __init__(self, pixels: Tensor) -> None:
        self._shape = pixels.shape
        self._copy = device.HostCopy(pixels.flatten(), device.pinned((pixels.numel(),), torch.uint8, pixels.device))

    @property
    def is_done(self) -> bool:
        return self._copy.is_done

    def picture(self) -> NDArray[np.uint8]:
        return np.asarray(self._copy.wait().reshape(self._shape).numpy())


class Previews:
    """The previews of one model's requests. The matrix is fitted for the first request that wants previews."""

    def __init__(self) -> None:
        self._projection: Projection | None = None
        self._fitting: Fitting | None = None
        self._fitted = False

    def fit(self, vae: Any | None) -> None:
        """Begin to fit the matrix, once. vae: None when the model has none; then there are no previews."""
        if not self._fitted:
            self._fitted, self._fitting = True, None if vae is None else _attempt(lambda: Fitting(vae))

    def projection(self) -> Projection | None:
        """The matrix; None while the device has not encoded the pictures that it is fitted on, and without a matrix."""
        if self._fitting is not None and self._fitting.is_done:
            self._projection, self._fitting = _attempt(self._fitting.solve), None
        return self._projection

    def watch(self, own: Any, ratio: float, show: Callable[[NDArray[np.uint8]], None]) -> None:
        """Send previews of a request. own: its copy of the pipeline; the rest as in the function `watch`."""
        if self._fitting is not None or self._projection is not None:
            watch(own.scheduler, self.projection, ratio, show)


def fit(vae: Any) -> Projection | None:
    """Least squares over a few smooth pictures that `vae` encodes. None when the VAE cannot be used this way."""
    return _attempt(lambda: Fitting(vae).solve())


def _attempt(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except Exception as error:  # stock code of any family may raise anything; a preview must not break a job
        if device.is_fatal(error):
            raise
        return None


class Fitting:
    """The encoding of a few smooth pictures, which the host does not wait for."""

    @torch.no_grad()
    def __init__(self, vae: Any) -> None:
        parameter = next(vae.parameters())
        generator = torch.Generator("cpu").manual_seed(0)
        coarse = torch.rand(N_PICTURES, 3, 4, 4, generator=generator) * 2 - 1
        self._small = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
        scale = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
        pictures = torch.nn.functional.interpolate(self._small, scale_factor=scale, mode="bilinear")
        clips = _takes_clips(vae)
        pictures = (pictures[:, :, None] if clips else pictures).to(parameter.dtype)
        encoded = vae.encode(device.upload(pictures, parameter.device))
        found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        latents = (found[:, :, 0] if clips else found).float()
        self._vae, self._shape, self._device = vae, latents.shape, latents.device
        host = device.pinned((latents.numel(),), torch.float32, latents.device)
        self._copy = device.HostCopy(latents.flatten(), host)

    @property
    def is_done(self) -> bool:
        return self._copy.is_done

    def solve(self) -> Projection:
        latents = _normalized(self._vae, self._copy.wait().reshape(self._shape))
        seen = torch.nn.functional.interpolate(self._small, size=latents.shape[-2:], mode="area")
        rows = latents.movedim(1, -1).flatten(0, -2)  # (B·H·W, C)
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        solution = torch.linalg.lstsq(rows, seen.movedim(1, -1).flatten(0, -2)).solution
        solution = device.upload(solution, self._device)
        return Projection(solution[:-1], solution[-1])


def _takes_clips(vae: Any) -> bool:
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())


def _normalized(vae: Any, latents: Tensor) -> Tensor:
    """The encoder's latents in the scale in which pipelines denoise them. latents: (B, C, H, W)."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        return (latents - _column(mean, latents)) / _column(std, latents)
    return (latents - (getattr(config, "shift_factor", None) or 0.0)) * (getattr(config, "scaling_factor", None) or 1.0)


def _column(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)


def one_frame(latents: Tensor, channels: int, ratio: float) -> Tensor | None:
    """The latents (C, H, W) of the first row's picture, or of the middle frame of its clip; None for an unknown layout.

    Known layouts are (B, C, H, W), (B, C, F, H, W), (B, F, C, H, W), and 2x2 patches (B, H·W/4, 4·C) of a picture whose
    width divided by its height is `ratio`.
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


def watch(
    scheduler: Any,
    projection: Callable[[], Projection | None],
    ratio: float,
    show: Callable[[NDArray[np.uint8]], None],
) -> None:
    """Make `scheduler`, one request's own, call `show` with colors (H, W, 3), once per `INTERVAL_S`.

    A GPU may not have computed them when the step returns; they are then shown after a later step. projection: returns
    None while there is no matrix yet.
    """
    step = scheduler.step
    shown_at = -INTERVAL_S
    coming: PictureCopy | None = None

    @functools.wraps(step)  # pipelines look at its signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal shown_at, coming
        result = step(*args, **kwargs)
        due = coming is None and time.monotonic() - shown_at >= INTERVAL_S
        if due and (found := projection()) is not None:
            shown_at = time.monotonic()
            try:
                given = inspect.signature(step).bind(*args, **kwargs).arguments
                clean = _predicted_result(scheduler, given["model_output"], given["sample"], result)
                frame = one_frame(clean, len(found.matrix), ratio)
                if frame is not None:
                    coming = found.colours(frame)
            except Exception as error:  # not the layout that it seemed to be; the job goes on without previews
                if device.is_fatal(error):
                    raise
                shown_at = math.inf
        if coming is not None and coming.is_done:
            show(coming.picture())
            coming = None
        return result

    scheduler.step = watched


def _predicted_result(scheduler: Any, model_output: Tensor, sample: Tensor, result: Any) -> Tensor:
    """The result that the model predicts, if the scheduler tells it; otherwise the present latents with their noise."""
    predicted = getattr(result, "pred_original_sample", None)
    if isinstance(predicted, Tensor):
        return predicted
    index, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if "FlowMatch" in type(scheduler).__name__ and sigmas is not None and index and model_output.shape == sample.shape:
        sigma: Tensor = sigmas[index - 1]  # left where it is: kernels read a scalar of the host without waiting
        return sample - sigma * model_output
    moved = result[0] if isinstance(result, tuple) else result.prev_sample
    assert isinstance(moved, Tensor)
    return moved
