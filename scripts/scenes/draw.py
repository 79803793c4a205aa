"""Renders a drawing as a picture or as a clip."""

import numpy as np

from .attributes import Drawing
from .city import City
from .land import Desert, Forest, Mountains
from .ocean import Ocean
from .shapes import ShapeScene

FPS = 8
SCENES = {"city": City, "ocean": Ocean, "mountains": Mountains, "forest": Forest, "desert": Desert}


def picture(drawing: Drawing, width: int, height: int) -> np.ndarray:
    """Renders one picture: (height, width, 3) bytes."""
    return clip(drawing, width, height, 1)[0]


def clip(drawing: Drawing, width: int, height: int, frames: int) -> np.ndarray:
    """Renders consecutive frames at FPS frames per second: (frames, height, width, 3) bytes."""
    if drawing.type == "shape":
        scene = ShapeScene(drawing, width, height, duration=(frames - 1) / FPS)
    else:
        scene = SCENES[drawing.kind](drawing, width, height)
    return np.stack([scene.frame(i / FPS) for i in range(frames)])
