"""A city of towers behind a road with cars. Windows light up in the dark."""

import numpy as np
from PIL import Image, ImageDraw

from .attributes import Drawing
from .canvas import SUPERSAMPLE, Sky, finish, lit, mix

WALLS = ((86, 110, 150), (70, 92, 128), (110, 120, 150), (92, 84, 132), (60, 104, 128))
LAMPS = ((255, 222, 120), (255, 222, 120), (120, 230, 255), (255, 130, 200))
CARS = ((222, 40, 40), (250, 200, 40), (245, 245, 245), (40, 120, 220))


class City:
    def __init__(self, drawing: Drawing, width: int, height: int):
        rng = np.random.default_rng(drawing.seed)
        self.width, self.height = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.sky = Sky(drawing.time, self.width, self.height, 0.86, rng)
        self.unit, self.light = self.sky.unit, self.sky.light
        self.glow = {"night": 0.8, "sunset": 0.55, "sunrise": 0.2, "noon": 0.0}[drawing.time]
        self.front = Image.new("RGBA", (self.width, self.height), (0, 0, 0, 0))
        for distance, tall, wide in ((0.55, 0.62, 11), (0.25, 0.46, 14), (0.0, 0.3, 17)):
            self._row(rng, distance, tall, wide * self.unit)
        self._road()
        speed, gap = 0.16 * self.width, 46 * self.unit
        self.lanes = [
            (0.905, speed, gap, rng.uniform(0, gap), int(rng.integers(4))),
            (0.955, -speed * 1.25, gap * 1.2, rng.uniform(0, gap), int(rng.integers(4))),
        ]

    def _row(self, rng: np.random.Generator, distance: float, tall: float, wide: float) -> None:
        draw = ImageDraw.Draw(self.front)
        x, ground = -rng.uniform(0, wide), self.height * 0.87
        while x < self.width:
            w = wide * rng.uniform(0.75, 1.25)
            top = ground - self.height * tall * rng.uniform(0.62, 1.15)
            wall = lit(WALLS[rng.integers(len(WALLS))], self.light, distance)
            draw.rectangle((x, top, x + w - self.unit, ground), fill=wall)
            roof = rng.integers(4)
            if roof == 0:  # a spire
                draw.polygon([(x, top), (x + w - self.unit, top), (x + w / 2, top - 9 * self.unit)], fill=wall)
            elif roof == 1:  # a step and a mast
                draw.rectangle((x + w * 0.25, top - 4 * self.unit, x + w * 0.7, top), fill=wall)
                draw.rectangle((x + w * 0.45, top - 11 * self.unit, x + w * 0.52, top), fill=wall)
            elif roof == 2:  # slanted
                draw.polygon([(x, top), (x + w - self.unit, top), (x, top - 5 * self.unit)], fill=wall)
            self._windows(draw, rng, x, top, w, ground, wall, distance)
            x += w

    def _windows(self, draw, rng, x, top, w, ground, wall, distance) -> None:
        lamp = mix(LAMPS[rng.integers(len(LAMPS))], wall, distance * 0.8)
        glass = mix(wall, mix(self.light.sky_horizon, (255, 255, 255), 0.3), 0.35)
        bright = mix(glass, lamp, self.glow)
        dark = mix(wall, (0, 0, 0), 0.2)
        pitch = 4.4 * self.unit
        columns = max(2, int(w / pitch))
        for row in range(int((ground - top) / pitch)):
            for column in range(columns):
                left, y = x + (column + 0.22) * (w - self.unit) / columns, top + (row + 0.35) * pitch
                fill = bright if rng.random() < 0.7 else dark
                draw.rectangle((left, y, left + 2.3 * self.unit, y + 2.3 * self.unit), fill=fill)

    def _road(self) -> None:
        draw = ImageDraw.Draw(self.front)
        draw.rectangle((0, self.height * 0.87, self.width, self.height), fill=lit((92, 92, 104), self.light))
        draw.rectangle((0, self.height * 0.865, self.width, self.height * 0.88), fill=lit((150, 150, 160), self.light))
        for x in np.arange(0, self.width, 12 * self.unit):
            y = self.height * 0.935
            draw.rectangle((x, y, x + 6 * self.unit, y + self.unit), fill=lit((230, 230, 210), self.light))

    def frame(self, seconds: float) -> np.ndarray:
        image = self.sky.image.copy()
        self.sky.draw_clouds(ImageDraw.Draw(image), seconds)
        image.paste(self.front, (0, 0), self.front)
        draw = ImageDraw.Draw(image)
        for lane in self.lanes:
            self._cars(draw, seconds, *lane)
        return finish(image)

    def _cars(self, draw, seconds, y, speed, gap, offset, paint) -> None:
        count = int(np.ceil(self.width / gap)) + 1  # cars leave on one side and reappear on the other
        for i in range(count):
            x = (offset + i * gap + speed * seconds) % (count * gap) - gap / 2
            base, unit = self.height * y, self.unit
            body = mix(lit(CARS[(paint + i) % 4], self.light), CARS[(paint + i) % 4], 0.35)
            draw.rectangle((x, base - 2.2 * unit, x + 11 * unit, base + 1.6 * unit), fill=body)
            draw.rectangle((x + 2.4 * unit, base - 4.6 * unit, x + 8.4 * unit, base - 2 * unit), fill=body)
            head, tail = (x + 10 * unit, x) if speed > 0 else (x, x + 10 * unit)
            if self.glow:
                draw.rectangle((head, base - 1.6 * unit, head + 1.6 * unit, base), fill=(255, 244, 180))
                draw.rectangle((tail, base - 1.6 * unit, tail + 1.6 * unit, base), fill=(255, 60, 50))
