"""Mountains, forests and deserts: a still landscape under drifting clouds. The nearest trees sway."""

import numpy as np
from PIL import Image, ImageDraw

from .attributes import Drawing
from .canvas import SUPERSAMPLE, Sky, curve, fill_below, finish, lit, mix


class Land:
    """A sky with clouds behind a foreground that is painted once."""

    horizon = 0.7

    def __init__(self, drawing: Drawing, width: int, height: int):
        self.rng = np.random.default_rng(drawing.seed)
        self.width, self.height = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.sky = Sky(drawing.time, self.width, self.height, self.horizon, self.rng)
        self.unit, self.light = self.sky.unit, self.sky.light
        self.front = Image.new("RGBA", (self.width, self.height), (0, 0, 0, 0))
        self.paint(ImageDraw.Draw(self.front))

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        raise NotImplementedError

    def animate(self, draw: ImageDraw.ImageDraw, seconds: float) -> None:
        """Draws what moves in front of the landscape. Nothing by default."""

    def frame(self, seconds: float) -> np.ndarray:
        image = self.sky.image.copy()
        draw = ImageDraw.Draw(image)
        self.sky.draw_clouds(draw, seconds)
        image.paste(self.front, (0, 0), self.front)
        self.animate(draw, seconds)
        return finish(image)


class Mountains(Land):
    """Two ranges with snow on the peaks, and a meadow in front."""

    horizon = 0.78

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        for distance, tall, wide in ((0.5, 0.52, 0.34), (0.12, 0.40, 0.42)):
            self._range(draw, distance, tall, wide * max(self.width, self.height))
        meadow = lit((76, 152, 84), self.light)
        for base, share in ((0.82, 0.12), (0.9, 0.0)):
            waves = [(2.5 * self.unit, 1.2, self.rng.uniform(0, 6))]
            fill_below(
                draw, curve(self.width, self.height * base, waves), self.height, mix(meadow, self.light.haze, share)
            )

    def _range(self, draw: ImageDraw.ImageDraw, distance: float, tall: float, wide: float) -> None:
        rock, ground = lit((104, 104, 128), self.light, distance), self.height * 0.86
        shade, snow = mix(rock, (0, 0, 24), 0.28), lit((250, 250, 255), self.light, distance * 0.6)
        x = -wide * self.rng.uniform(0.2, 0.6)
        while x < self.width + wide * 0.3:
            top = ground - self.height * tall * self.rng.uniform(0.75, 1.2)
            left, right, peak = x - wide * 0.25, x + wide * 1.05, x + wide * 0.4
            draw.polygon([(left, ground), (peak, top), (right, ground)], fill=rock)
            draw.polygon([(peak, top), (right, ground), (peak + wide * 0.1, ground)], fill=shade)
            cap = 0.3

            def down(foot: float, share: float, peak=peak, top=top) -> tuple[float, float]:
                return peak + (foot - peak) * share, top + (ground - top) * share

            zigzag = [down(left, cap), down(peak - wide * 0.15, cap * 0.72), down(peak, cap * 1.1)]
            zigzag += [down(peak + wide * 0.2, cap * 0.75), down(right, cap)]
            draw.polygon([(peak, top), *zigzag], fill=snow)
            x += wide * self.rng.uniform(0.65, 0.95)


class Forest(Land):
    """Three rows of fir trees, the nearest ones swaying."""

    horizon = 0.72

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        hills = [(4 * self.unit, 0.8, self.rng.uniform(0, 6))]
        fill_below(draw, curve(self.width, self.height * 0.6, hills), self.height, lit((70, 130, 90), self.light, 0.55))
        self._row(draw, 0.42, 0.74, 0.30, 10)
        fill_below(draw, curve(self.width, self.height * 0.72, []), self.height, lit((58, 122, 66), self.light, 0.25))
        self._row(draw, 0.2, 0.86, 0.38, 15)
        fill_below(draw, curve(self.width, self.height * 0.84, []), self.height, lit((64, 132, 60), self.light, 0.05))
        self.near = self._places(24)

    def _places(self, wide: float) -> list[tuple[float, float]]:
        start, step = -self.rng.uniform(0, wide), wide
        xs = np.arange(start, self.width / self.unit + wide, step)
        return [(x * self.unit, self.rng.uniform(0.8, 1.15)) for x in xs]

    def _row(self, draw: ImageDraw.ImageDraw, distance: float, base: float, tall: float, wide: float) -> None:
        for x, size in self._places(wide):
            self._tree(draw, x, self.height * base, self.height * tall * size, wide * self.unit * 0.62, distance, 0)

    def _tree(self, draw, x, base, tall, half, distance, lean) -> None:
        green, trunk = lit((30, 104, 56), self.light, distance), lit((96, 66, 44), self.light, distance)
        draw.rectangle((x - half * 0.14, base - tall * 0.2, x + half * 0.14, base), fill=trunk)
        for low, high, width in ((0.1, 0.5, 1.0), (0.34, 0.74, 0.78), (0.58, 1.0, 0.55)):
            foot, tip = x + lean * low, x + lean * high
            corners = [(foot - half * width, base - tall * low), (tip, base - tall * high)]
            draw.polygon(
                [*corners, (foot + half * width, base - tall * low)], fill=mix(green, (255, 255, 255), low * 0.12)
            )

    def animate(self, draw: ImageDraw.ImageDraw, seconds: float) -> None:
        for i, (x, size) in enumerate(self.near):
            lean = 2.2 * self.unit * np.sin(2 * np.pi * 0.4 * seconds + 0.9 * i)
            self._tree(draw, x, self.height * 0.97, self.height * 0.5 * size, 13 * self.unit, 0.0, lean)


class Desert(Land):
    """Dunes with a bright and a shaded side, and a cactus or two."""

    horizon = 0.62

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        for base, distance, height, frequency in ((0.62, 0.4, 6, 1.1), (0.73, 0.18, 8, 0.8), (0.86, 0.0, 6, 0.6)):
            phase = self.rng.uniform(0, 2 * np.pi)
            sand = lit((238, 190, 112), self.light, distance)
            waves = [(height * self.unit, frequency, phase), (height * 0.25 * self.unit, frequency * 2.3, 2 * phase)]
            points = curve(self.width, self.height * base, waves)
            fill_below(draw, points, self.height, sand)
            slopes = np.gradient([y for _, y in points])
            lee = [
                (x, y + (height * 1.5 * self.unit if slope > 0 else 0))
                for (x, y), slope in zip(points, slopes, strict=True)
            ]
            draw.polygon([*points, *reversed(lee)], fill=mix(sand, lit((120, 70, 60), self.light), 0.4))
        for _ in range(self.rng.integers(1, 3)):
            self._cactus(draw, self.width * self.rng.uniform(0.1, 0.9), self.height * self.rng.uniform(0.84, 0.92))

    def _cactus(self, draw: ImageDraw.ImageDraw, x: float, base: float) -> None:
        green, unit = lit((52, 132, 72), self.light), self.unit
        for left, top, right, bottom in (
            (-1.6, -22, 1.6, 0),
            (-6.5, -11, 0, -8.4),
            (-6.5, -16, -4, -8.4),
            (0, -15, 6.5, -12.4),
            (4, -19, 6.5, -12.4),
        ):
            draw.rounded_rectangle(
                (x + left * unit, base + top * unit, x + right * unit, base + bottom * unit), unit, fill=green
            )
