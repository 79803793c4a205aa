"""Clips stage: the clips that the video stage learns from, as latents."""

import numpy as np

from . import latents

CLIPS = {"16:9": 4000, "1:1": 500, "9:16": 500}  # of 16 frames
LONG_CLIPS = {"16:9": 60}  # of 80 frames
SHAPE_SHARE = 0.85  # there are far more shapes to tell apart than scenes


def train(_minutes: float, seed: int = 0) -> None:
    """Draw and encode everything; takes as long as it takes."""
    rng = np.random.default_rng(seed + 6)
    latents.make("clips", CLIPS, 16, rng, SHAPE_SHARE)
    latents.make("long", LONG_CLIPS, 80, rng, SHAPE_SHARE)
