"""Turns a request into the arguments of a stock pipeline, by the names of its own parameters. Device thread only."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pipelines.diffusion_interface import DiffusionRequest

RATE_ARGUMENTS = ("frame_rate", "fps")  # LTX, SkyReels: models that generate other motion at another rate
FRAMES_ARGUMENTS = ("num_frames", "video_length", "frames")  # nearly all pipelines, Latte, SanaVideo


class UnknownArgument(Exception):
    """The pipeline has no such argument. The message may be shown to the client."""


class Arguments:
    def __init__(self, pipeline_class: type) -> None:
        parameters = inspect.signature(pipeline_class.__call__).parameters.values()
        self._class_name = pipeline_class.__name__
        self._parameters = frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
        self._frames_argument = next((name for name in FRAMES_ARGUMENTS if name in self._parameters), "num_frames")

    def for_request(self, request: DiffusionRequest) -> dict[str, Any]:
        """The arguments of the call. What the request leaves open is left to the pipeline. Raises `UnknownArgument`."""
        wanted = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "width": request.width,
            "height": request.height,
            self._frames_argument: request.num_frames,
            "num_inference_steps": request.steps,
            request.guidance_argument: request.guidance_scale,
            "clip_skip": request.clip_skip,
            **request.call,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if "num_inference_steps" not in self._parameters:
            del given["num_inference_steps"]  # the pipeline has a fixed schedule (LTX 2 DFR, the pyramid of Helios)
        unknown = sorted(given.keys() - self._parameters)
        if unknown:
            raise UnknownArgument(f"{self._class_name} takes no {', '.join(map(repr, unknown))}")
        for name in self._parameters.intersection(RATE_ARGUMENTS) - given.keys():
            if request.fps is not None:
                given[name] = request.fps
        # A generator on the CPU gives the same noise for a seed on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        return {**given, "generator": generator, "output_type": "np"}
