"""Chooses how a VAE lays out its convolutions in memory, by measurement. Device thread only.

With the channels last, tensor cores read images as they are; otherwise cuDNN rearranges them before and after a
convolution. Which is faster depends on the card, on cuDNN and on the widths of the model.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import nn

from pipelines.batching.merging import difference
from pipelines.batching.proof import TOLERANCE
from pipelines.device import is_fatal
from pipelines.timing import WORTH, shortest_seconds

logger = logging.getLogger(__name__)

SIDE = 32  # of the trial's latents: a picture of 256 by 256 pixels, which takes little memory


def choose_memory_format(vae: Any, device: str) -> bool:
    """Puts the channels of a VAE for pictures last where that is faster and agrees; returns whether it did.

    Whatever goes wrong in the trial leaves the VAE as it was, unless the device is lost.
    """
    if not isinstance(vae, nn.Module) or not _has_flat_convolutions(vae):
        return False
    try:
        if _is_faster_with_channels_last(vae, device):
            return True
    except Exception as error:  # a VAE of another interface, or without the memory for a trial
        if is_fatal(error):
            raise
        logger.warning("memory format not measured", extra={"vae": type(vae).__name__}, exc_info=True)
    _lay_out(vae, torch.contiguous_format)
    return False


@torch.no_grad()
def _is_faster_with_channels_last(vae: Any, device: str) -> bool:
    dtype = next(vae.parameters()).dtype
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(1, vae.config.latent_channels, SIDE, SIDE, generator=noise).to(device, dtype)
    decode = functools.partial(_decode, vae, latents)
    expected = decode()
    usual_s = shortest_seconds(decode, device)
    _lay_out(vae, torch.channels_last)
    if difference(decode(), expected) > TOLERANCE.get(dtype, 0.0):
        return False
    return shortest_seconds(decode, device) <= WORTH * usual_s


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 4:  # of a convolution
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _has_flat_convolutions(module: nn.Module) -> bool:
    """Whether its convolutions are all of two dimensions: those of video have three."""
    kinds = {type(part) for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    return bool(kinds) and all(issubclass(kind, nn.Conv2d) for kind in kinds)
