"""Decoder stage: trains the decoder further, for sharper pictures from the same latents.

The encoder does not change, so that its latents and the denoisers trained on them stay valid.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL

from .common import Average, Progress, cache_dir, device, mixed_precision
from .vae import crops, differences, make_optimizers, set_rate


def train(minutes: float, seed: int = 0, batch_size: int = 12) -> None:
    """Trains the decoder in the cache folder `vae` further and saves it there."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 5)
    model = AutoencoderKL.from_pretrained(cache_dir() / "vae").to(device(), memory_format=torch.channels_last)
    average = Average(model.decoder, 0.995)
    optimizers = make_optimizers(model.decoder)
    progress = Progress("decoder", minutes)
    while progress.fraction < 1:
        set_rate(optimizers, progress)
        pixels = crops(rng, batch_size).to(device(), memory_format=torch.channels_last)
        with mixed_precision():
            with torch.no_grad():
                latents = model.encode(pixels).latent_dist.sample()
            output = model.decoder(latents).float()
        error, edges = differences(output, pixels)
        model.decoder.zero_grad()
        (error + 2 * edges).backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(model.decoder)
        progress.update(error=error.detach(), edges=edges.detach())
    model.decoder.load_state_dict(average.model.state_dict())
    model.save_pretrained(cache_dir() / "vae")
