"""A catalogue of models that take pictures, pictures to send, and what of a request reaches the service."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import httpx
from PIL import Image

from models.spec import Defaults, Limits, ModelSpec
from pipelines.diffusion_interface import InputName, PipelineTask
from server.accounts.auth import Authenticator
from server.jobs.request.generate_request import GenerateRequest
from tests.fakes import FakeCatalogue, small_catalogue, spec
from tests.support.http.front import Front

USUAL = ("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "num_frames")


def task(pipeline: str, *required: InputName, arguments: tuple[str, ...] = (), **inputs: str) -> PipelineTask:
    return PipelineTask(pipeline, inputs, frozenset(required), frozenset({*inputs.values(), *USUAL, *arguments}))  # type: ignore[arg-type]  # the names of inputs


def painter(name: str, *tasks: PipelineTask, **values: Any) -> ModelSpec:
    defaults = Defaults(steps=4, width=64, height=64)
    return spec(name, "image", defaults=defaults, limits=Limits(size_multiple=8), tasks=tasks, **values)


TEXT = task("TextPipeline")
EDITS = task("Img2ImgPipeline", "image", image="image", arguments=("strength",))
INPAINTS = task("InpaintPipeline", "image", "mask", image="image", mask="mask_image", arguments=("strength",))
FOLLOWS = task("EditPipeline", "image", image="image", images="image")
ANIMATES = task("ImageToVideoPipeline", "image", image="image")
CHANGES = task("VideoToVideoPipeline", "video", video="video", arguments=("strength",))

TEXT_ONLY = small_catalogue()  # its models take no pictures


def filmer(name: str, *tasks: PipelineTask) -> ModelSpec:
    defaults = Defaults(steps=4, width=64, height=32, num_frames=9, fps=4)
    limits = Limits(size_multiple=16, frames_multiple=4, frames_remainder=1)
    return spec(name, "video", defaults=defaults, limits=limits, tasks=tasks)


TAKING = FakeCatalogue(
    *small_catalogue().specs(),  # the default models take no pictures
    painter("changer", TEXT, EDITS),
    painter("retoucher", TEXT, EDITS, INPAINTS),
    painter("follower", FOLLOWS),
    filmer("animator", TEXT, ANIMATES),
    filmer("reviser", TEXT, ANIMATES, CHANGES),
)


def picture(width: int = 48, height: int = 32, mode: str = "RGB", hole: bool = False) -> bytes:
    """Returns a PNG. hole: its left half is transparent."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGBA" if hole else mode)
    if hole:
        image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def accepted(f: Front) -> list[GenerateRequest]:
    """Returns the list of requests that the service accepts from now on."""
    requests: list[GenerateRequest] = []
    accept = f.service.submission.accept

    async def record(key: Any, request: GenerateRequest, idempotency_key: str | None = None) -> Any:
        found = await accept(key, request, idempotency_key)
        requests.append(request)
        return found

    f.service.submission.accept = record  # type: ignore[method-assign]  # wraps the method
    return requests


async def kept(f: Front, media: str | None, plan: str = "enterprise") -> Image.Image:
    """Opens the server's file of a picture that a request names."""
    assert media is not None
    key = await Authenticator(f.database, local_key=None).identify(f"Bearer {f.keys[plan]}")
    files = f.service.input_files
    row = (await files.find(key, {"image": media}))["image"]
    with Image.open(files.media_file(row).path) as image:
        return image.copy()


async def send(
    f: Front, path: str, fields: Mapping[str, str], files: Any = None, plan: str = "enterprise"
) -> httpx.Response:
    """Sends a form, whether or not it has files."""
    parts = [*((name, (None, text)) for name, text in fields.items()), *(files or ())]
    return await f.client.post(path, files=parts, headers=f.auth(plan))
