"""Judges generated pictures: colours, places and motions by counting pixels, scenes with a classifier of drawings.

The classifier is a small convolutional network, trained here on drawings that the generators never saw (its seeds are
different). Its accuracy on further drawings is part of the result, because no score is more reliable than that.
"""

import numpy as np
import torch
from scenes.attributes import COLOURS, KINDS, TIMES, Drawing
from scenes.draw import picture
from scenes.shapes import ANCHORS
from torch import nn

NAMES = list(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], np.float32)
SIDE = 64  # pixels; pictures are shrunk to this square for the classifier
LEAST_AREA = 0.01  # of the picture; a smaller patch does not count as a shape
LEAST_MOVE = 0.12  # of the canvas, between the first and the last quarter of a clip
LEAST_GROWTH = 1.6  # of the area, likewise


def _classes(pixels: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest palette colour per pixel. pixels: (..., 3) in 0..255."""
    return np.square(pixels.astype(np.float32)[..., None, :] - PALETTE).sum(-1).argmin(-1)


def background_of(pixels: np.ndarray) -> str:
    """Returns the most frequent colour of the rim, most of which no shape touches."""
    classes = _classes(pixels)
    rim = np.concatenate([classes[:4].ravel(), classes[-4:].ravel(), classes[:, :4].ravel(), classes[:, -4:].ravel()])
    return NAMES[np.bincount(rim, minlength=len(NAMES)).argmax()]


def shape_of(pixels: np.ndarray, background: str) -> tuple[str, np.ndarray]:
    """Returns the most frequent other colour and its mask, or "" and an empty mask if there is none."""
    classes = _classes(pixels)
    counts = np.bincount(classes.ravel(), minlength=len(NAMES))
    counts[NAMES.index(background)] = 0
    if counts.max() < LEAST_AREA * classes.size:
        return "", np.zeros(classes.shape, bool)
    return NAMES[counts.argmax()], classes == counts.argmax()


def centroid(mask: np.ndarray) -> np.ndarray:
    """Returns (x, y) of a mask's centre, each 0..1 of the canvas."""
    ys, xs = np.nonzero(mask)
    return np.array([(xs.mean() + 0.5) / mask.shape[1], (ys.mean() + 0.5) / mask.shape[0]])


def place_of(mask: np.ndarray) -> str:
    """Returns the place whose anchor is nearest to the mask's centre."""
    if not mask.any():
        return ""
    centre = centroid(mask)
    return min(ANCHORS, key=lambda name: np.abs(centre - ANCHORS[name]).sum())


def motion_of(frames: np.ndarray, colour: str) -> str:
    """Returns how the patch of this colour moves or grows between the first and last quarter of a clip, or ""."""
    masks = _classes(frames) == NAMES.index(colour)
    quarter = max(1, len(frames) // 4)
    first, last = masks[:quarter], masks[-quarter:]
    if not all(mask.any() for mask in (*first, *last)):
        return ""
    move = np.mean([centroid(m) for m in last], 0) - np.mean([centroid(m) for m in first], 0)
    if np.abs(move).max() < LEAST_MOVE:
        return "grow" if last.sum() > LEAST_GROWTH * first.sum() else ""
    if abs(move[0]) > abs(move[1]):
        return "left" if move[0] < 0 else "right"
    return "up" if move[1] < 0 else "down"


class SceneClassifier(nn.Module):
    """(count, 3, SIDE, SIDE) in -1..1 → logits over kinds, logits over times of day."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 64), (64, 96)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.kind = nn.Linear(96 * 16, len(KINDS))
        self.time = nn.Linear(96 * 16, len(TIMES))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(pixels)
        return self.kind(features), self.time(features)


def _shrink(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) bytes → (3, SIDE, SIDE) in -1..1."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return nn.functional.interpolate(image, (SIDE, SIDE), mode="area")[0]


def _drawings(rng: np.random.Generator, count: int, sizes: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    images, kinds, times = [], [], []
    for _ in range(count):
        kind, time = int(rng.integers(len(KINDS))), int(rng.integers(len(TIMES)))
        seed = int(rng.integers(2**31, 2**32))  # training draws its seeds below 2**31
        drawing = Drawing("scene", seed, kind=KINDS[kind], time=TIMES[time])
        images.append(_shrink(picture(drawing, *sizes[rng.integers(len(sizes))])))
        kinds.append(kind)
        times.append(time)
    return torch.stack(images), torch.tensor(kinds), torch.tensor(times)


def train_classifier(sizes: list[tuple[int, int]], seed: int = 0, steps: int = 250) -> tuple[SceneClassifier, float]:
    """Returns a trained classifier and its accuracy (both answers right) on other drawings."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 77)
    model = SceneClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for _ in range(steps):
        pixels, kinds, times = _drawings(rng, 32, sizes)
        if rng.random() < 0.5:  # generated pictures are softer than drawings
            pixels = nn.functional.avg_pool2d(pixels, 3, 1, 1)
        pixels = pixels + 0.05 * torch.randn_like(pixels)
        kind, time = model(pixels)
        loss = nn.functional.cross_entropy(kind, kinds) + nn.functional.cross_entropy(time, times)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    pixels, kinds, times = _drawings(rng, 400, sizes)
    with torch.inference_mode():
        kind, time = model(pixels)
    right = (kind.argmax(-1) == kinds) & (time.argmax(-1) == times)
    return model, right.float().mean().item()


@torch.inference_mode()
def scene_of(model: SceneClassifier, pixels: np.ndarray) -> tuple[str, str]:
    """Returns the kind and time of day of one picture, (H, W, 3) bytes."""
    kind, time = model(_shrink(pixels)[None])
    return KINDS[int(kind.argmax())], TIMES[int(time.argmax())]
