"""Turns a request into the arguments of a stock pipeline, by the names of its own parameters. Device thread only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.diffusion_interface import ENLARGES, DiffusionRequest

RATE_ARGUMENTS = ("frame_rate", "fps")  # LTX, SkyReels: models that generate other motion at another rate
AREA_ARGUMENT = "max_area"  # Kontext makes outputs of so many pixels, and reads only the shape from width and height
FRAMES_ARGUMENTS = ("num_frames", "video_length", "frames")  # nearly all pipelines, Latte, SanaVideo


class UnknownArgument(Exception):
    """The pipeline has no such argument. The message may be shown to the client."""


class Arguments:
    def __init__(self, pipeline_class: type) -> None:
        parameters = inspect.signature(pipeline_class.__call__).parameters.values()
        self._class_name = pipeline_class.__name__
        self._enlarges = ENLARGES.get(self._class_name, 1)
        self.annotations = {p.name: str(p.annotation) for p in parameters if p.kind is not p.VAR_KEYWORD}
        self._parameters = frozenset(self.annotations)
        self._frames_argument = next((name for name in FRAMES_ARGUMENTS if name in self._parameters), "num_frames")

    def for_request(self, request: DiffusionRequest, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of the call. What the request leaves open is left to the pipeline. Raises `UnknownArgument`.

        inputs: pictures and clips, by the names of the arguments that take them.
        """
        wanted = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "width": request.width // self._enlarges,
            "height": request.height // self._enlarges,
            self._frames_argument: request.num_frames,
            "num_inference_steps": request.steps,
            request.guidance_argument: request.guidance_scale,
            "clip_skip": request.clip_skip,
            "strength": request.strength,
            **request.call,
            **(inputs or {}),
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        for name in self._left_to_the_pipeline(given, inputs or {}):
            given.pop(name, None)
        unknown = sorted(given.keys() - self._parameters)
        if unknown:
            raise UnknownArgument(f"{self._class_name} takes no {', '.join(map(repr, unknown))}")
        if AREA_ARGUMENT in self._parameters:
            given.setdefault(AREA_ARGUMENT, request.width * request.height)
        for name in self._parameters.intersection(RATE_ARGUMENTS) - given.keys():
            if request.fps is not None:
                given[name] = request.fps
        # A generator on the CPU gives the same noise for a seed on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        # Where only the part around the mask is made, stock code lays it over the picture, and does so for PIL alone.
        output_type = "pil" if "padding_mask_crop" in given else "np"
        fixed = {"generator": generator, "output_type": output_type}
        return {**given, **{name: value for name, value in fixed.items() if name in self._parameters}}

    def _left_to_the_pipeline(self, given: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
        """Arguments that every request has, where the class takes none: it knows the value from elsewhere."""
        names = ["num_inference_steps"]  # a fixed schedule (LTX 2 DFR, the pyramid of Helios)
        if inputs:
            names += ["width", "height", self._frames_argument]  # the picture or clip has them
            names += ["prompt"]  # the picture takes the place of a prompt (Stable Video Diffusion)
        return [name for name in names if name in given and name not in self._parameters]
