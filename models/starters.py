"""The list of checkpoints for a first try, by what a device can hold. Data in starters.toml; no torch."""

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
    weights_gib: float  # about, in bfloat16
    vram_gib: float  # of the device, with room for one job
    licence: str  # "own": its maker's
    gated: bool = False


def starters(device_gib: float | None = None) -> Sequence[Starter]:
    """Those that fit a device, largest first within a type; all of them when no size is given."""
    found = [Starter(**entry) for entry in tomllib.loads(LIST.read_text())["starters"]]
    order = ("chat", "image", "video")
    return sorted(
        (s for s in found if device_gib is None or s.vram_gib <= device_gib),
        key=lambda s: (order.index(s.type), -s.vram_gib),
    )
