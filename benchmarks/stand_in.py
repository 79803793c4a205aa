"""A random image model in the place of the built-in one, which has to be fetched. It needs diffusers alone."""

from __future__ import annotations

import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

from tests.support.lanes.stock_families import pixart_sigma

STAND_IN_CALL = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 32}


def stand_in() -> PixArtSigmaPipeline:
    """Builds a random image model as a stand-in for the built-in one: 64 latent tokens, 10 M weights."""
    pipeline = pixart_sigma()
    torch.manual_seed(0)
    pipeline.transformer = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        num_attention_heads=6,
        attention_head_dim=48,
        cross_attention_dim=288,
        caption_channels=32,
        use_additional_conditions=False,
    ).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
