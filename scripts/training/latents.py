"""Makes drawings, encodes them and saves the latents, so that the denoisers' training needs no pixels.

Files `<name>.pt` in the cache: {"drawings": [fields of a Drawing],
"latents": (count, frames, channels, height, width) float16}.
"""

from dataclasses import asdict

import numpy as np
import torch
from diffusers import AutoencoderKL
from scenes.attributes import Drawing, random_drawing
from scenes.draw import clip

from .common import SIZES, cache_dir, device, mixed_precision
from .vae import to_pixels


@torch.inference_mode()
def encode(vae: AutoencoderKL, frames: np.ndarray) -> torch.Tensor:
    """(count, H, W, 3) bytes → (count, channels, H/8, W/8) float16, scaled to about unit variance."""
    pixels = to_pixels(frames).to(device(), memory_format=torch.channels_last)
    with mixed_precision():
        latents = vae.encode(pixels).latent_dist.mean
    return (latents.float() * vae.config.scaling_factor).half().cpu()


def make(prefix: str, counts: dict[str, int], n_frames: int, rng: np.random.Generator, shape_share: float) -> None:
    """Draws and encodes `counts` drawings of each aspect ratio, into `<prefix>-<aspect>.pt`."""
    vae = AutoencoderKL.from_pretrained(cache_dir() / "vae").to(device(), memory_format=torch.channels_last)
    for aspect, count in counts.items():
        width, height = SIZES[aspect]
        drawings = [random_drawing(rng, video=n_frames > 1, shape_share=shape_share) for _ in range(count)]
        latents = []
        per_batch = max(1, 64 // n_frames)
        for start in range(0, count, per_batch):
            frames = [clip(drawing, width, height, n_frames) for drawing in drawings[start : start + per_batch]]
            encoded = encode(vae, np.concatenate(frames))
            latents.append(encoded.view(len(frames), n_frames, *encoded.shape[1:]))
        name = f"{prefix}-{aspect.replace(':', 'x')}"
        torch.save(
            {"drawings": [asdict(drawing) for drawing in drawings], "latents": torch.cat(latents)},
            cache_dir() / f"{name}.pt",
        )
        print(f"latents: {name} {count} x {n_frames} frames", flush=True)


def read(name: str) -> tuple[torch.Tensor, list[Drawing]]:
    """Returns latents, (count, frames, channels, height, width) float16, and their drawings."""
    kept = torch.load(cache_dir() / f"{name}.pt", weights_only=True)
    return kept["latents"], [Drawing(**fields) for fields in kept["drawings"]]
