"""Clips stage: draws and encodes the clips that the video stage learns from."""

import numpy as np

from . import latents

CLIPS = {"16:9": 4000, "1:1": 500, "9:16": 500}  # of 16 frames
LONG_CLIPS = {"16:9": 60}  # of 80 frames
SHAPE_SHARE = 0.85  # there are far more kinds of shape than of scene to learn


def train(_minutes: float, seed: int = 0) -> None:
    """Draws and encodes all clips, without a time limit."""
    rng = np.random.default_rng(seed + 6)
    latents.make("clips", CLIPS, 16, rng, SHAPE_SHARE)
    latents.make("long", LONG_CLIPS, 80, rng, SHAPE_SHARE)
