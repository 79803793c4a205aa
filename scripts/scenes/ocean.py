"""Rows of rolling waves that reflect the sun or the moon."""

import numpy as np
from PIL import ImageDraw

from .attributes import Drawing
from .canvas import SUPERSAMPLE, Sky, curve, fill_below, finish, lit, mix

ROWS = 7
WATER_FAR, WATER_NEAR = (70, 170, 214), (10, 84, 158)


class Ocean:
    def __init__(self, drawing: Drawing, width: int, height: int):
        rng = np.random.default_rng(drawing.seed)
        self.width, self.height = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.sky = Sky(drawing.time, self.width, self.height, rng.uniform(0.42, 0.5), rng)
        self.unit, self.light = self.sky.unit, self.sky.light
        self.phase = rng.uniform(0, 2 * np.pi)
        self.shine = {"night": 0.45, "sunset": 0.75, "sunrise": 0.6, "noon": 0.3}[drawing.time]

    def frame(self, seconds: float) -> np.ndarray:
        image = self.sky.image.copy()
        draw = ImageDraw.Draw(image)
        self.sky.draw_clouds(draw, seconds)
        depth = self.height - self.sky.horizon
        far, near = lit(WATER_FAR, self.light, 0.35), lit(WATER_NEAR, self.light)
        draw.rectangle((0, self.sky.horizon, self.width, self.height), fill=far)
        for row in range(ROWS):
            share = ((row + 0.25) / ROWS) ** 1.4
            y = self.sky.horizon + depth * share
            waves_across = (9 - 6.5 * share) * self.width / self.height * 0.7
            height = self.unit * (0.6 + 3.4 * share)
            turn = self.phase + 1.7 * row - 2 * np.pi * 0.5 * seconds * (1 if row % 2 else 0.75)
            points = curve(self.width, y, [(height, waves_across, turn), (height * 0.35, waves_across * 2, 2 * turn)])
            fill_below(draw, points, self.height, mix(far, near, share))
            self._shine(draw, y, height, share, seconds, row)
            foam = mix(mix(far, near, share), mix(self.light.haze, (255, 255, 255), 0.55), 0.65)
            draw.line(points, fill=foam, width=max(2, round(self.unit * (0.5 + 1.1 * share))))
        return finish(image)

    def _shine(self, draw, y: float, height: float, share: float, seconds: float, row: int) -> None:
        half = self.unit * (5 + 9 * share) * (1 + 0.25 * np.sin(2 * np.pi * 0.5 * seconds + 2 * row))
        top, thick = y + height * 1.6, self.unit * (0.6 + 1.2 * share)
        colour = mix(lit(WATER_NEAR, self.light), self.light.disc, self.shine)
        draw.ellipse((self.sky.sun_x - half, top, self.sky.sun_x + half, top + thick * 2), fill=colour)
