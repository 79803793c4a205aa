"""Decides which denoising steps of a job are computed, and which are predicted from those before. Plain integers.

Engine, server and lane use it, so it needs no torch. `diffusion/step_cache.py` predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Speed: TypeAlias = Literal["exact", "balanced", "fast"]

SPEEDS: Final[tuple[Speed, ...]] = ("exact", "balanced", "fast")
MIN_STEPS = 12  # below it all steps are computed: each changes too much to be predicted from the one before
WARM_UP = 5  # first steps, which settle what is in the picture; predicting one of them costs most of the likeness
INTERVALS: Mapping[Speed, int] = {"balanced": 3, "fast": 5}  # afterwards one step is computed in this many


def is_computed(speed: Speed, step: int, total: int) -> bool:
    """Whether step `step` of `total`, from 0, runs the model. The last step does: nothing corrects it afterwards."""
    if total < MIN_STEPS or step < WARM_UP or step >= total - 1:
        return True
    return (step - WARM_UP + 1) % INTERVALS.get(speed, 1) == 0


def computed_steps(speed: Speed, total: int) -> int:
    return sum(is_computed(speed, step, total) for step in range(total))
