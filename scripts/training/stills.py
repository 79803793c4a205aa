"""Stills stage: draws and encodes the pictures that the image stage learns from."""

import numpy as np

from . import latents

STILLS = {"1:1": 7000, "16:9": 5000, "9:16": 4000}


def train(_minutes: float, seed: int = 0) -> None:
    """Draws and encodes all pictures, without a time limit."""
    latents.make("stills", STILLS, 1, np.random.default_rng(seed + 1), shape_share=0.5)
