"""Video stage: trains the text-to-video denoiser, a CogVideoX transformer whose tokens are 4 frames × 16 × 16 pixels.

Training starts with pieces of four frames, which have about as many tokens as a picture and cost as little. It goes on
with clips of two seconds and ends with some of ten seconds, so that every position in time has been trained.
"""

import numpy as np
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

from .common import LATENT_CHANNELS, LATENT_FACTOR, device
from .flow import CLIP_LEVELS, Text, fit
from .latents import read

FRAMES_PER_TOKEN = 4
PIECES_UNTIL, LONG_FROM = 0.1, 0.9  # of the training time
BATCH = {4: 32, 16: 12, 80: 3}  # by number of frames
SHAPE_SHARE = 0.75  # of a batch; there are far more kinds of shape than of scene to learn
LONG_SHARE = 0.25  # of the batches after LONG_FROM


def make() -> CogVideoXTransformer3DModel:
    model = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=128,
        num_layers=5,
        sample_width=22,
        sample_height=22,
        sample_frames=80,
        patch_size=2,
        patch_size_t=FRAMES_PER_TOKEN,
        temporal_compression_ratio=1,
        max_text_seq_length=32,
        use_rotary_positional_embeddings=True,
        patch_bias=False,
    )
    layers = [layer for block in model.transformer_blocks for layer in (block.norm1.linear, block.norm2.linear)]
    for layer in (model.proj_out, *layers):  # every block starts as the identity
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def positions(model: CogVideoXTransformer3DModel, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the pipeline's own rotary table for latents (batch, frames, channels, height, width)."""
    pipeline = CogVideoXPipeline.__new__(CogVideoXPipeline)
    pipeline.__dict__.update(transformer=model, vae_scale_factor_spatial=LATENT_FACTOR)
    height, width = (side * LATENT_FACTOR for side in latents.shape[-2:])
    return pipeline._prepare_rotary_positional_embeddings(height, width, latents.shape[1], latents.device)


def train(minutes: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed + 4)
    clips = [read(f"clips-{name}") for name in ("16x9", "16x9", "16x9", "16x9", "1x1", "9x16")]  # most batches are wide
    long = read("long-16x9")

    def draw(fraction: float) -> tuple[torch.Tensor, list]:
        if fraction > LONG_FROM and rng.random() < LONG_SHARE:
            (latents, drawings), frames = long, 80
        else:
            latents, drawings = clips[rng.integers(len(clips))]
            frames = FRAMES_PER_TOKEN if fraction < PIECES_UNTIL else 16
        is_scene = np.array([drawing.type == "scene" for drawing in drawings])
        is_shape = ~is_scene
        weights = is_shape * (SHAPE_SHARE / is_shape.sum()) + is_scene * ((1 - SHAPE_SHARE) / is_scene.sum())
        index = rng.choice(len(drawings), size=BATCH[frames], p=weights)
        start = FRAMES_PER_TOKEN * int(rng.integers((latents.shape[1] - frames) // FRAMES_PER_TOKEN + 1))
        return latents[index, start : start + frames], [drawings[i] for i in index]

    model = make().to(device())

    def predict(noisy: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        table = positions(model, noisy)
        return model(noisy, encoder_hidden_states=text, timestep=timestep, image_rotary_emb=table).sample

    fit("video", model, predict, draw, Text(masked=False), CLIP_LEVELS, minutes, seed)
