"""Drawing tools: gradients, times of day and smooth outlines, on a canvas twice as large as the final picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 2  # canvas pixels per picture pixel; halving the canvas at the end smooths the edges
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Light:
    """The look of a time of day: sky colours, the sun or moon, and how the light tints what it falls on."""

    sky_top: Colour
    sky_middle: Colour
    sky_horizon: Colour
    disc: Colour
    disc_place: tuple[float, float]  # as shares of the width and of the height above the horizon
    tint: tuple[float, float, float]
    haze: Colour  # distant things fade into this colour
    cloud: Colour


LIGHTS = {
    "night": Light(
        (6, 8, 34), (18, 22, 66), (48, 52, 110), (244, 242, 214), (0.76, 0.72), (0.30, 0.34, 0.52), (40, 46, 100),
        (52, 56, 104),
    ),
    "sunrise": Light(
        (126, 168, 224), (236, 196, 214), (255, 226, 170), (255, 250, 214), (0.26, 0.22), (0.95, 0.80, 0.80),
        (250, 214, 200), (255, 236, 228),
    ),
    "noon": Light(
        (44, 124, 228), (104, 176, 246), (190, 228, 252), (255, 246, 150), (0.50, 0.84), (1.0, 1.0, 1.0),
        (190, 222, 246), (255, 255, 255),
    ),
    "sunset": Light(
        (62, 30, 104), (206, 62, 92), (255, 150, 44), (255, 214, 90), (0.72, 0.16), (0.72, 0.46, 0.46),
        (226, 96, 70), (160, 60, 104),
    ),
}  # fmt: skip


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Returns the colour `share` of the way from a to b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def lit(colour: Colour, light: Light, distance: float = 0.0) -> Colour:
    """Returns a colour under this light, faded into the haze by `distance` (0 near … 1 invisible)."""
    return mix(tuple(round(c * t) for c, t in zip(colour, light.tint, strict=True)), light.haze, distance)


def gradient(width: int, height: int, stops: list[Colour]) -> Image.Image:
    """Draws a vertical gradient through evenly spaced colours."""
    rows = np.linspace(0, len(stops) - 1, max(height, 1))
    channels = [np.interp(rows, range(len(stops)), [stop[i] for stop in stops]) for i in range(3)]
    column = np.stack(channels, -1)[:, None].round().astype(np.uint8)
    return Image.fromarray(np.repeat(column, width, axis=1))


class Sky:
    """The sky above a horizon: gradient, stars at night, sun or moon, and drifting clouds."""

    def __init__(self, time: str, width: int, height: int, horizon: float, rng: np.random.Generator):
        self.width, self.height, self.light = width, height, LIGHTS[time]
        self.horizon = round(height * horizon)
        light = self.light
        self.image = Image.new("RGB", (width, height), light.sky_horizon)
        self.image.paste(gradient(width, self.horizon, [light.sky_top, light.sky_middle, light.sky_horizon]), (0, 0))
        self.unit = min(width, height) / 100
        if time == "night":
            self._stars(rng)
        self.sun_x = width * (light.disc_place[0] + rng.uniform(-0.06, 0.06))
        self.sun_y = self.horizon * (1 - light.disc_place[1])
        self._disc(time)
        self.clouds = [
            (rng.uniform(0, 1), rng.uniform(0.12, 0.55), rng.uniform(0.8, 1.3)) for _ in range(rng.integers(2, 4))
        ]

    def _stars(self, rng: np.random.Generator) -> None:
        draw = ImageDraw.Draw(self.image)
        for _ in range(int(self.width * self.horizon / self.unit**2 / 170)):
            x, y, size = rng.uniform(0, self.width), rng.uniform(0, self.horizon * 0.85), rng.uniform(0.5, 0.9)
            size *= self.unit
            draw.ellipse(
                (x - size, y - size, x + size, y + size), fill=mix((255, 255, 240), (90, 90, 150), rng.random())
            )

    def _disc(self, time: str) -> None:
        radius = self.unit * (7 if time in ("night", "noon") else 9)
        ys, xs = np.ogrid[: self.height, : self.width]
        distance = np.hypot(xs - self.sun_x, ys - self.sun_y) / radius
        glow = np.exp(-np.maximum(distance - 1, 0) / 1.3) * (0.35 if time == "night" else 0.6)
        share = np.where(distance < 1, 1.0, glow)[..., None].astype(np.float32)
        pixels = np.asarray(self.image, np.float32)
        self.image = Image.fromarray((pixels + (np.float32(self.light.disc) - pixels) * share).astype(np.uint8))

    def draw_clouds(self, draw: ImageDraw.ImageDraw, seconds: float) -> None:
        """Draws the clouds, which drift to the right and reappear on the left."""
        for x, y, size in self.clouds:
            reach = 18 * self.unit * size
            left = (x * self.width + seconds * 0.06 * self.width) % (self.width + 2 * reach) - reach
            top, unit = y * self.horizon, self.unit * size
            for dx, dy, rx, ry in ((-9, 0, 7, 2.6), (0, -1.8, 8, 4.2), (9, 0, 7.5, 2.8)):
                cx, cy = left + dx * unit, top + dy * unit
                draw.ellipse((cx - rx * unit, cy - ry * unit, cx + rx * unit, cy + ry * unit), fill=self.light.cloud)


def finish(image: Image.Image) -> np.ndarray:
    """Shrinks the canvas to the picture: (height, width, 3) bytes."""
    return np.asarray(image.reduce(SUPERSAMPLE))


def curve(width: int, base: float, waves: list[tuple[float, float, float]], step: int = 4) -> list[tuple[float, float]]:
    """Returns the points of a smooth outline, left to right: base + Σ height·sin(2π·frequency·x/width + phase)."""
    xs = np.append(np.arange(0, width, step), width)
    ys = np.full(len(xs), float(base))
    for height, frequency, phase in waves:
        ys += height * np.sin(2 * np.pi * frequency * xs / width + phase)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def fill_below(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], height: int, colour: Colour) -> None:
    """Fills everything between an outline and the bottom of the canvas."""
    draw.polygon([*points, (points[-1][0], height), (points[0][0], height)], fill=colour)
