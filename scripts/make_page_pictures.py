"""Writes docs/page/*.png from the screenshots that the page's tests take.

    PAGE_PICTURES=DIR python -m pytest tests/live/page && python scripts/make_page_pictures.py DIR

The tests need Chromium and take about two minutes, this script a few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

TARGET = Path(__file__).resolve().parents[1] / "docs" / "page"
DESKTOP = {
    "create": "create-desktop", "preview": "preview-desktop", "chat": "chat-desktop", "gallery": "gallery-desktop",
    "queue": "queue-dark", "mask": "mask-desktop", "models": "models-desktop", "keys": "keys-desktop",
    "api": "docs-desktop",
}  # fmt: skip
PHONES = {"phone": ("create", "chat", "gallery", "queue"), "phone-2": ("preview", "models", "keys", "docs")}
GAP = 24  # pixels between phones
COLOURS = 128  # enough for a screenshot, and a third of the file size


def main(folder: Path) -> None:
    pictures = {name: open_picture(folder / f"{source}.png") for name, source in DESKTOP.items()}
    for name, views in PHONES.items():
        pictures[name] = side_by_side([open_picture(folder / f"{view}-phone.png") for view in views])
    for name, picture in pictures.items():
        path = TARGET / f"{name}.png"
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {picture.width} × {picture.height}, {path.stat().st_size // 1024} KiB")


def open_picture(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def side_by_side(phones: list[Image.Image]) -> Image.Image:
    width = sum(phone.width for phone in phones) + GAP * (len(phones) - 1)
    whole = Image.new("RGB", (width, phones[0].height), "white")
    for number, phone in enumerate(phones):
        whole.paste(phone, (number * (phone.width + GAP), 0))
    return whole


if __name__ == "__main__":
    main(Path(sys.argv[1]))
