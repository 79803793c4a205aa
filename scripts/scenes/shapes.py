"""A plain shape on a plain background, still at a place or moving across the canvas."""

import numpy as np
from PIL import Image, ImageDraw

from .attributes import COLOURS, Drawing
from .canvas import SUPERSAMPLE, finish, mix

ANCHORS = {"left": (0.24, 0.5), "right": (0.76, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74), "centre": (0.5, 0.5)}


class ShapeScene:
    """Draws the shape at a moment of the clip. A moving shape crosses the canvas once per clip of any length."""

    def __init__(self, drawing: Drawing, width: int, height: int, duration: float = 0.0):
        rng = np.random.default_rng(drawing.seed)
        self.drawing, self.duration = drawing, duration
        self.size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        jitter = rng.integers(-6, 7, (2, 3))
        self.fill, self.ground = (
            tuple(int(c) for c in np.clip(np.add(COLOURS[name], shift), 0, 255))
            for name, shift in zip((drawing.colour, drawing.background), jitter, strict=True)
        )
        self.radius = min(self.size) * rng.uniform(0.17, 0.22)
        self.anchor = np.add(ANCHORS[drawing.place or "centre"], rng.uniform(-0.03, 0.03, 2))
        self.image = Image.new("RGB", self.size, self.ground)

    def frame(self, seconds: float) -> np.ndarray:
        image = self.image.copy()
        share = seconds / self.duration if self.duration else 0.5
        x, y = self.anchor * self.size
        radius, motion = self.radius, self.drawing.motion
        start, end = 0.2, 0.8
        if motion in ("left", "right"):
            x = self.size[0] * (start + (end - start) * (share if motion == "right" else 1 - share))
        elif motion in ("up", "down"):
            y = self.size[1] * (start + (end - start) * (share if motion == "down" else 1 - share))
        elif motion == "grow":
            radius *= 0.5 + 1.4 * share
        draw = ImageDraw.Draw(image)
        outline = mix(self.fill, (0, 0, 0) if sum(self.fill) > 120 else (90, 90, 90), 0.25)
        _draw_shape(draw, self.drawing.shape, x, y, radius, outline)
        _draw_shape(draw, self.drawing.shape, x, y, radius * 0.93, self.fill)
        return finish(image)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple) -> None:
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    if shape == "square":
        side = radius * 0.88
        draw.rectangle((x - side, y - side, x + side, y + side), fill=fill)
        return
    if shape == "triangle":
        turns, radii, y = np.arange(3) / 3, np.full(3, radius * 1.12), y + radius * 0.2
    elif shape == "star":
        turns, radii = np.arange(10) / 10, np.where(np.arange(10) % 2, 0.45, 1.1) * radius
    else:  # heart, https://mathworld.wolfram.com/HeartCurve.html
        angle = np.linspace(0, 2 * np.pi, 48)
        xs = 16 * np.sin(angle) ** 3
        ys = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
        draw.polygon(list(zip(x + xs * radius / 16, y - (ys + 2) * radius / 16, strict=True)), fill=fill)
        return
    xs, ys = x + radii * np.sin(2 * np.pi * turns), y - radii * np.cos(2 * np.pi * turns)
    draw.polygon(list(zip(xs, ys, strict=True)), fill=fill)
