"""AUTOMATIC1111's "hires fix": each image of a txt2img request is made larger and then changed a little by the model,
which adds detail. Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from models.spec import ModelSpec
from server.api.sdapi.resizing import RESIZERS
from server.api.sdapi.schema import Text2Image
from server.errors import BadRequest
from server.jobs.job_view import JobView
from server.jobs.request.generate_request import GenerateRequest, WantedUpscale

STRENGTH = 0.75  # AUTOMATIC1111's default values
SCALE = 2.0
# A picture is brought to its size by Lanczos. AUTOMATIC1111's other ways work on latents, or by neighbors.
PLAIN = (None, "", "None", "Lanczos")
LATENT = "Latent"  # and with something in brackets


def has_second_pass(body: Text2Image, spec: ModelSpec) -> bool:
    """Whether the request wants a second pass and the model can do one."""
    return bool(body.enable_hr) and any("image" in task.inputs and not task.lent for task in spec.tasks)


def first_pass(
    body: Text2Image, request: GenerateRequest, upscalers: Collection[str]
) -> tuple[GenerateRequest, frozenset[str]]:
    """Returns the request of the first pass, whose images an upscaler model makes larger if the request names one, and
    the names of the fields that are ignored. Raises `BadRequest` for an upscaler that nobody knows.
    """
    name = body.hr_upscaler
    if name in upscalers:
        scale = body.hr_scale or SCALE
        wanted = WantedUpscale(model=name, scale=None if body.hr_resize_x or body.hr_resize_y or scale <= 1 else scale)
        return replace(request, upscale=wanted), frozenset()
    if name not in PLAIN and name not in RESIZERS and not (name or "").startswith(LATENT):
        raise BadRequest("hr_upscaler must be a name from GET /sdapi/v1/upscalers.")
    return request, frozenset() if name in PLAIN else frozenset(["hr_upscaler"])


def second_pass(body: Text2Image, request: GenerateRequest, first: JobView, spec: ModelSpec) -> list[GenerateRequest]:
    """Returns a request for each image of the first pass, with the seed of that image.

    request: of the first pass. first: its job, which has completed.
    """
    width, height = _size(body, first.params["width"], first.params["height"], spec.limits.size_multiple)
    return [
        replace(
            request,
            image=output.id,
            strength=STRENGTH if body.denoising_strength is None else body.denoising_strength,
            steps=body.hr_second_pass_steps or request.steps,
            seed=output.seed,
            width=width,
            height=height,
            n=1,
            upscale=None,
            fit="crop",
        )
        for output in first.outputs
    ]


def _size(body: Text2Image, width: int, height: int, multiple: int) -> tuple[int, int]:
    """The size of the second pass, in pixels, at the nearest multiple that the model takes."""
    x, y, scale = body.hr_resize_x or 0, body.hr_resize_y or 0, body.hr_scale or SCALE
    wanted = {
        (False, False): (width * scale, height * scale),
        (True, False): (x, height * x / width),
        (False, True): (width * y / height, y),
        (True, True): (x, y),
    }[bool(x), bool(y)]
    return max(multiple, round(wanted[0] / multiple) * multiple), max(multiple, round(wanted[1] / multiple) * multiple)
