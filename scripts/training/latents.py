"""Latents stage: drawings are made, encoded and kept as latents, so that the denoisers' training reads no pixels.

Files `<name>.pt` in the cache: {"drawings": [fields of a Drawing],
"latents": (count, frames, channels, height, width) float16}.
"""

from dataclasses import asdict

import numpy as np
import torch
from diffusers import AutoencoderKL
from scenes.attributes import Drawing, random_drawing
from scenes.draw import clip

from .common import SIZES, cache_dir, device
from .vae import to_pixels

STILLS = {"1:1": 7000, "16:9": 5000, "9:16": 4000}
CLIPS = {"16:9": 1300, "1:1": 300, "9:16": 300}  # of 16 frames
LONG_CLIPS = {"16:9": 50}  # of 80 frames


@torch.inference_mode()
def encode(vae: AutoencoderKL, frames: np.ndarray) -> torch.Tensor:
    """(count, H, W, 3) bytes → (count, channels, H/8, W/8) float16, scaled to about unit variance."""
    pixels = to_pixels(frames).to(device(), memory_format=torch.channels_last)
    with torch.autocast(device().type, torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mean
    return (latents.float() * vae.config.scaling_factor).half().cpu()


def make(vae: AutoencoderKL, rng: np.random.Generator, aspect: str, count: int, n_frames: int, name: str) -> None:
    width, height = SIZES[aspect]
    drawings = [random_drawing(rng, video=n_frames > 1) for _ in range(count)]
    latents = []
    per_batch = max(1, 64 // n_frames)
    for start in range(0, count, per_batch):
        frames = [clip(drawing, width, height, n_frames) for drawing in drawings[start : start + per_batch]]
        encoded = encode(vae, np.concatenate(frames))
        latents.append(encoded.view(len(frames), n_frames, *encoded.shape[1:]))
    torch.save(
        {"drawings": [asdict(drawing) for drawing in drawings], "latents": torch.cat(latents)},
        cache_dir() / f"{name}.pt",
    )
    print(f"latents: {name} {count} x {n_frames} frames", flush=True)


def read(name: str) -> tuple[torch.Tensor, list[Drawing]]:
    """Latents (count, frames, channels, height, width) float16 and what they show."""
    kept = torch.load(cache_dir() / f"{name}.pt", weights_only=True)
    return kept["latents"], [Drawing(**fields) for fields in kept["drawings"]]


def train(_minutes: float, seed: int = 0) -> None:
    """Draw and encode everything; takes as long as it takes."""
    rng = np.random.default_rng(seed + 1)
    vae = AutoencoderKL.from_pretrained(cache_dir() / "vae").to(device(), memory_format=torch.channels_last)
    for aspect, count in STILLS.items():
        make(vae, rng, aspect, count, 1, f"stills-{aspect.replace(':', 'x')}")
    for aspect, count in CLIPS.items():
        make(vae, rng, aspect, count, 16, f"clips-{aspect.replace(':', 'x')}")
    for aspect, count in LONG_CLIPS.items():
        make(vae, rng, aspect, count, 80, f"long-{aspect.replace(':', 'x')}")
