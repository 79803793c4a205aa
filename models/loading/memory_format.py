"""Chooses how a VAE lays out its convolutions in memory, by measurement. Device thread only.

With the channels last, tensor cores read pictures as they are; otherwise cuDNN rearranges them before and after a
convolution. Which is faster depends on the card, on cuDNN and on the widths of the model.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.loading.measured import Measured
from pipelines import device as devices
from pipelines.batching.merging import difference
from pipelines.batching.proof import TOLERANCE
from pipelines.timing import WORTH, shortest_seconds

logger = logging.getLogger(__name__)

# Of the trial: what is small takes as long as its kernels are launched, whatever their layout. A clip has more to do
# for each pixel, and its first frame is decoded in a way of its own.
PICTURE_SIDE, CLIP_SIDE, CLIP_LATENTS = 512, 256, 3  # pixels, pixels, latent frames
LEAST_SIDE, LARGEST_SIDE = 8, 64  # latents

FLAT = nn.Conv2d | nn.ConvTranspose2d
DEEP = nn.Conv3d | nn.ConvTranspose3d


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    """What the trial of a VAE found."""

    channels_last: bool
    speed: float  # with the channels last: how many times as fast
    distance: float  # of the pixels of both, relative to the largest value

    def __str__(self) -> str:
        return (
            f"Its VAE has the channels last in memory, which makes it {self.speed:.2f} times as fast and changes "
            f"pixels by at most {self.distance:.1g} of their range."
        )


def choose_memory_format(vae: Any, device: str, measured: Measured | None = None) -> MemoryFormat | None:
    """Puts the channels of a VAE last where that is faster and agrees; returns what was found, None without a trial.

    Whatever goes wrong in the trial leaves the VAE as it was, unless the device is lost. measured: remembers the result
    for every VAE of the same shape.
    """
    if not isinstance(vae, nn.Module) or not _convolutions(vae):
        return None
    measured = measured or Measured(None)
    try:
        latents = _trial_latents(vae, device)
        key = _key(vae, latents, device)
        known = measured.get(key)
        found = MemoryFormat(**known) if known is not None else _compare(vae, latents, device)
        measured.put(key, channels_last=found.channels_last, speed=found.speed, distance=found.distance)
    except Exception as error:  # a VAE of another interface, or without the memory for a trial
        if devices.is_fatal(error):
            raise
        logger.warning("memory format not measured", extra={"vae": type(vae).__name__}, exc_info=True)
        found = None
    lay_out(vae, channels_last=found is not None and found.channels_last)
    return found


@torch.no_grad()
def _compare(vae: Any, latents: torch.Tensor, device: str) -> MemoryFormat:
    """Leaves the channels last."""
    decode = functools.partial(_decode, vae, latents)
    expected = decode()
    usual_s = shortest_seconds(decode, device, runs=1)
    lay_out(vae, channels_last=True)
    distance = difference(decode(), expected)
    agrees = distance <= TOLERANCE.get(expected.dtype, 0.0)
    last_s = shortest_seconds(decode, device, runs=1)
    return MemoryFormat(agrees and last_s <= WORTH * usual_s, round(usual_s / last_s, 3), distance)


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def lay_out(module: nn.Module, *, channels_last: bool) -> None:
    """Put the channels of every convolution's weight last, or where a checkpoint has them.

    One weight at a time, so that no second copy of the module is needed. Activations follow the weights.
    """
    for convolution in _convolutions(module):
        last = torch.channels_last_3d if isinstance(convolution, DEEP) else torch.channels_last
        wanted = last if channels_last else torch.contiguous_format
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=wanted)


def _convolutions(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, FLAT | DEEP)]


def _trial_latents(vae: Any, device: str) -> torch.Tensor:
    """Noise of the shape of a small picture's latents; of a clip's, where convolutions have three dimensions."""
    config, weight = vae.config, next(vae.parameters())
    channels = getattr(config, "latent_channels", None) or config.z_dim
    compression = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(config.block_out_channels) - 1)
    is_deep = any(isinstance(part, DEEP) for part in _convolutions(vae))
    side = (CLIP_SIDE if is_deep else PICTURE_SIDE) // int(compression)
    side = min(LARGEST_SIDE, max(LEAST_SIDE, side))
    shape = (1, channels, CLIP_LATENTS, side, side) if is_deep else (1, channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, weight.dtype)


def _key(vae: nn.Module, latents: torch.Tensor, device: str) -> str:
    """Names the trial: VAEs whose weights have equal shapes and dtypes take equally long."""
    layers = repr([(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in vae.named_parameters()])
    shape = hashlib.blake2b(layers.encode(), digest_size=8).hexdigest()
    libraries = f"{devices.name(device)}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    return f"memory format, {libraries}, {type(vae).__name__} {shape}, {tuple(latents.shape)}"
