"""Pictures: the fields that are done and taken."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, values


def section() -> Iterator[str]:
    from server.api.openai import image_schema

    yield from ["## Images", "", "Fields that are done:", ""]
    yield from fields(image_schema.ImageGeneration)
    yield from ["", "Fields that are taken:", ""]
    yield from item(f"without an effect: {names(sorted(image_schema.IGNORED))}")
    for name, neutral in image_schema.NEUTRAL.items():
        yield from item(f"`{name}` as {values(neutral)}")
    yield ""
