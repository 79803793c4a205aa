"""Hands the inputs of a request to a pipeline under the names of its own arguments. Device thread only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from pipelines.diffusion.inputs.reader import Media
from pipelines.diffusion_interface import InputName

LIST = re.compile(r"\blist\[", re.IGNORECASE)


def input_values(media: Media, arguments: Mapping[InputName, str], annotations: Mapping[str, str]) -> dict[str, Any]:
    """The values of the arguments that take the inputs. annotations: types of the parameters, as text.

    Inputs that one argument takes together are a list, in the order of `arguments`.
    """
    found: dict[str, list[Any]] = {}
    as_list: set[str] = set()
    for name, argument in arguments.items():
        values = _values(media, name)
        if not values:
            continue
        found.setdefault(argument, []).extend(values)
        if name == "video" or not _takes_one(annotations.get(argument, "")):
            as_list.add(argument)
    return {
        argument: values if len(values) > 1 or argument in as_list else values[0] for argument, values in found.items()
    }


def _values(media: Media, name: InputName) -> list[Any]:
    match name:
        case "images":
            return list(media.images)
        case "video":
            return list(media.video)
        case "control":
            return [frames[0] if len(frames) == 1 else list(frames) for frames in media.controls]
        case _:
            value: Image.Image | None = getattr(media, name)
            return [] if value is None else [value]


def _takes_one(annotation: str) -> bool:
    """Whether a parameter takes a single picture: its type names one outside of a list, or names no type we know."""
    outside, depth, i = "", 0, 0
    while i < len(annotation):
        opening = LIST.match(annotation, i)
        if opening or (depth and annotation[i] == "["):
            depth, i = depth + 1, opening.end() if opening else i + 1
        elif depth and annotation[i] == "]":
            depth, i = depth - 1, i + 1
        else:
            outside, i = outside + ("" if depth else annotation[i]), i + 1
    return "Image" in outside or "Any" in outside or not LIST.search(annotation)
