"""Lists open checkpoints for a first try, by the device memory that they need.

The data is in starters.toml. Any thread.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.spec import ModelType

LIST = Path(__file__).with_name("starters.toml")


@dataclass(frozen=True, slots=True)
class Starter:
    source: str  # hub id
    type: ModelType
    year: int
    weights_gib: float  # estimated for bfloat16
    vram_gib: float  # memory that a device should have for the weights and one job
    licence: str  # "own": its maker's own
    gated: bool = False


def starters(device_gib: float | None = None) -> Sequence[Starter]:
    """Returns those that fit a device, the largest of each type first. Without a size: all."""
    found = [Starter(**entry) for entry in tomllib.loads(LIST.read_text())["starters"]]
    order = ("chat", "image", "video", "embedding")
    return sorted(
        (s for s in found if device_gib is None or s.vram_gib <= device_gib),
        key=lambda s: (order.index(s.type), -s.vram_gib),
    )
