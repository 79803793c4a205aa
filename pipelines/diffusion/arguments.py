"""What a stock pipeline is called with: a request's fields under the names that this pipeline's `__call__` has for them. Device thread only."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pipelines.interface import DiffusionRequest

RATE_ARGUMENTS = ("frame_rate", "fps")  # LTX, SkyReels: models that generate other motion at another rate
FRAMES_ARGUMENTS = ("num_frames", "video_length", "frames")  # nearly all, Latte, SanaVideo


class BadCall(Exception):
    """The pipeline takes no such argument. The message may be shown to the client."""


class Arguments:
    def __init__(self, pipeline_class: type) -> None:
        parameters = inspect.signature(pipeline_class.__call__).parameters.values()
        self._class_name = pipeline_class.__name__
        self._parameters = frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
        self._frames_argument = next((name for name in FRAMES_ARGUMENTS if name in self._parameters), "num_frames")

    def of(self, request: DiffusionRequest) -> dict[str, Any]:
        """What the request leaves open is the pipeline's own default. Raises `BadCall`."""
        wanted = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "width": request.width,
            "height": request.height,
            self._frames_argument: request.num_frames,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "clip_skip": request.clip_skip,
            **request.call,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if "num_inference_steps" not in self._parameters:
            del given["num_inference_steps"]  # it has a schedule of its own (LTX 2 DFR, the pyramid of Helios)
        unknown = sorted(given.keys() - self._parameters)
        if unknown:
            raise BadCall(f"{self._class_name} takes no {', '.join(map(repr, unknown))}")
        for name in self._parameters.intersection(RATE_ARGUMENTS) - given.keys():
            if request.fps is not None:
                given[name] = request.fps
        # On the CPU: the same seed gives the same noise on every device.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        return {**given, "generator": generator, "output_type": "np"}
