"""The kinds of maps that ControlNets follow: as their names tell them, and by the numbers of those with several kinds.

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Type → how the names of models spell it.
SPELLINGS = {
    "canny": ("canny",),
    "depth": ("depth", "midas", "zoe"),
    "pose": ("openpose", "dwpose", "keypose", "pose"),
    "lineart": ("lineart",),
    "scribble": ("scribble", "sketch", "fake-scribble"),
    "softedge": ("softedge", "soft-edge", "hed", "pidinet"),
    "mlsd": ("mlsd",),
    "normal": ("normal", "normalbae"),
    "seg": ("seg", "segmentation"),
    "tile": ("tile",),
    "inpaint": ("inpaint", "inpainting", "repaint"),
    "blur": ("blur",),
    "gray": ("gray", "grayscale", "recolor"),
    "low_quality": ("lq", "lowquality", "low-quality"),
    "color": ("color",),
    "shuffle": ("shuffle",),
    "brightness": ("brightness",),
    "qr": ("qr", "qrcode"),
}
UNION_NAMES = re.compile(r"union|promax|all-in-one")
# The mode of each type, of classes whose models have several kinds: as their authors' model cards number them.
MODES: Mapping[str, Mapping[str, int]] = {
    "ControlNetUnionModel": {  # xinsir/controlnet-union-sdxl-1.0
        "pose": 0, "depth": 1, "softedge": 2, "scribble": 2, "canny": 3, "lineart": 3, "mlsd": 3, "normal": 4,
        "seg": 5, "tile": 6, "inpaint": 7,
    },
    "FluxControlNetModel": {  # InstantX/FLUX.1-dev-Controlnet-Union, Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro
        "canny": 0, "tile": 1, "depth": 2, "blur": 3, "pose": 4, "gray": 5, "low_quality": 6,
    },
}  # fmt: skip


def canonical_type(text: str) -> str | None:
    """Returns the type that a client or the author of a model means; None when there is no such type."""
    wanted = re.sub(r"[\s_.]+", "-", text.strip().lower())
    return next(
        (name for name, spelt in SPELLINGS.items() if wanted == name.replace("_", "-") or wanted in spelt), None
    )


def types_in_name(name: str) -> tuple[str, ...]:
    """Returns the types that the name of a model or file tells, in the order of `SPELLINGS`."""
    text = re.sub(r"[\s_.]+", "-", name.lower())
    return tuple(
        kind
        for kind, spelt in SPELLINGS.items()
        if any(re.search(rf"(?<![a-z]){word}(?![a-z])", text) for word in spelt)
    )


def modes_of(cls: str, config: Mapping[str, object]) -> Mapping[str, int]:
    """Returns the mode of each type of a ControlNet of several kinds; none for one that needs no mode."""
    count = config.get("num_control_type") if cls == "ControlNetUnionModel" else config.get("num_mode")
    if not isinstance(count, int):
        return {}
    return {name: mode for name, mode in MODES.get(cls, {}).items() if mode < count}
