"""Hands the inputs of a request to a pipeline under the names of its own arguments. Device thread only."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

from PIL import Image

from pipelines.diffusion.inputs.reader import Media
from pipelines.diffusion_interface import DiffusionRequest, InputName

BRACKETS = re.compile(r"(\w+)\[([^\[\]]*)\]")  # innermost ones, as in list[Image]
CONDITIONS = "conditions"  # LTX: each picture or clip with the frame at which it stands


def input_values(media: Media, request: DiffusionRequest, cls: type, annotations: dict[str, str]) -> dict[str, Any]:
    """The values of the arguments of `cls` that take the request's inputs.

    Inputs that one argument takes together are a list, in the order of `request.input_arguments`. annotations: types of
    the parameters of `__call__`, as text.
    """
    found: dict[str, list[Any]] = {}
    lists = {CONDITIONS}
    for name, argument in request.input_arguments.items():
        values = _values(media, name)
        if not values:
            continue
        if name in ("images", "video") or argument.endswith("images") or not _takes_one(annotations.get(argument, "")):
            lists.add(argument)
        if argument == CONDITIONS:
            values = [_condition(cls, name, media, request.num_frames)]
        elif name in ("mask", "control") and argument in lists and len(values) == 1:
            values *= len(media.video) or request.num_frames or 1  # one for each frame
        found.setdefault(argument, []).extend(values)
    return {name: values if len(values) > 1 or name in lists else values[0] for name, values in found.items()}


def _values(media: Media, name: InputName) -> list[Any]:
    match name:
        case "images":
            return list(media.images)
        case "video":
            return list(media.video)
        case "control" if len(media.controls) == 1:
            return list(media.controls[0])
        case "control":
            return [frames[0] if len(frames) == 1 else list(frames) for frames in media.controls]
        case _:
            value: Image.Image | None = getattr(media, name)
            return [] if value is None else [value]


def _takes_one(annotation: str) -> bool:
    """Whether a parameter takes a single picture: its type names one outside of a list, or no list at all."""
    outside, before = annotation, ""
    while outside != before:  # from the innermost brackets
        before, outside = outside, BRACKETS.sub(lambda m: "" if m[1].lower() == "list" else m[2], outside)
    return "Image" in outside or "Any" in outside or "list[" not in annotation.lower()


def _condition(cls: type, name: InputName, media: Media, num_frames: int | None) -> Any:
    """The input as LTX takes it: the condition class of the pipeline's own module, at the first or the last frame."""
    members = vars(sys.modules[cls.__module__])
    condition: Any = next(member for key, member in members.items() if key.endswith("VideoCondition"))
    fields = {field.name for field in dataclasses.fields(condition)}
    value = list(media.video) if name == "video" else getattr(media, name)
    content = "frames" if "frames" in fields else "video" if name == "video" else "image"
    position = {}
    if name == "last_image":  # LTX 2 counts latent frames, from the end too
        position = {"index": -1} if "index" in fields else {"frame_index": (num_frames or 1) - 1}
    return condition(**{content: value, **position})
