"""Image stage: trains the text-to-image denoiser, a PixArt transformer over 64 tokens."""

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel

from .common import LATENT_CHANNELS, device
from .flow import PICTURE_LEVELS, Text, fit
from .latents import read

BATCH = 32
SHAPE_SHARE = 0.7  # of a batch; there are far more kinds of shape than of scene to learn
BUCKETS = ("1x1", "16x9", "9x16")


def make() -> PixArtTransformer2DModel:
    model = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        cross_attention_dim=192,
        caption_channels=128,
        sample_size=16,
        patch_size=2,
        norm_type="ada_norm_single",
        attention_bias=True,
        interpolation_scale=1.0,
        use_additional_conditions=False,
    )
    for layer in (model.proj_out, model.adaln_single.linear):  # every block starts as the identity
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def train(minutes: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed + 3)
    sets = [read(f"stills-{name}") for name in BUCKETS]
    shares = np.array([len(drawings) for _, drawings in sets], float)

    def draw(_fraction: float) -> tuple[torch.Tensor, list]:
        latents, drawings = sets[rng.choice(len(sets), p=shares / shares.sum())]
        is_shape = np.array([drawing.type == "shape" for drawing in drawings])
        weights = np.where(is_shape, SHAPE_SHARE / is_shape.sum(), (1 - SHAPE_SHARE) / (~is_shape).sum())
        index = rng.choice(len(drawings), size=BATCH, p=weights)
        return latents[index, 0], [drawings[i] for i in index]

    model = make().to(device())

    def predict(noisy: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(
            noisy,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample

    fit("image", model, predict, draw, Text(masked=True), PICTURE_LEVELS, minutes, seed)
