"""The pictures inside of AUTOMATIC1111's requests, from base64 to files that jobs can name. Event loop only."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

from models.spec import ModelSpec
from pipelines.diffusion_interface import Fit
from server.accounts.auth import ApiKey
from server.api.sdapi.controlnet import ReadUnit
from server.api.sdapi.masks import prepared_mask, without_content
from server.api.sdapi.schema import BASE64, Image2Image
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest, WantedControl, WantedImagePrompt
from server.service.picture_inputs import taken, ways_to_take, with_strength
from server.service.picture_work import work_on
from server.service.service import Service
from server.store.input_files import InputFileRow

FITS: tuple[Fit, ...] = ("stretch", "crop", "pad", "stretch")  # by `resize_mode`
STRENGTH = 0.75  # AUTOMATIC1111's default values
MASK_BLUR = 4  # pixels
FILL, ORIGINAL, LATENT_NOISE = 0, 1, 2
LATENT_UPSCALE = 3


async def add_picture(service: Service, key: ApiKey, text: str, place: str) -> InputFileRow:
    """Keeps a picture for a job. Raises `BadRequest` that names `place`."""
    row = await service.input_files.add(key, await asyncio.to_thread(decode, text, place), listed=False, place=place)
    if not row.mime_type.startswith("image/"):
        raise BadRequest(f"{place} must be {BASE64}, and not a clip.")
    return row


def decode(text: str, place: str) -> bytes:
    """Raises `BadRequest`. AUTOMATIC1111 fetches URLs only where its operator allows it; here nobody can."""
    start = text.find(",") + 1 if text.startswith("data:") else 0
    try:
        if start and not text.endswith(";base64,", 0, start):
            raise ValueError
        # Lines may be broken.
        content = base64.b64decode(text[start:].encode("ascii").translate(None, b" \r\n\t"), validate=True)
    except ValueError:  # also a character that is not ASCII
        raise BadRequest(f"{place} must be {BASE64}.") from None
    if not content:
        raise BadRequest(f"{place} must be {BASE64}.")
    return content


async def add_init_image(
    service: Service, key: ApiKey, body: Image2Image, request: GenerateRequest, spec: ModelSpec
) -> tuple[GenerateRequest, frozenset[str]]:
    """Returns the request with its picture and mask, and the names of the fields that are ignored.

    A model that takes no picture gets it all the same, for the error that names models which do.
    """
    image = await add_picture(service, key, body.init_images[0], "init_images[0]")
    mask, repaints = await _prepared_mask(service, key, body) if body.mask is not None else (None, False)
    ways = ways_to_take([image.id], None if mask is None else mask.id)
    wanted, task = taken(spec, request, ways) or (replace(request, **ways[0]), None)
    strength = STRENGTH if body.denoising_strength is None else body.denoising_strength
    wanted = with_strength(wanted, task, strength, spec.defaults.steps)
    ignored = {
        "resize_mode": body.resize_mode == LATENT_UPSCALE,
        "denoising_strength": wanted.strength is None and body.denoising_strength is not None,
    }
    padding = None
    if mask is not None:
        fill = body.inpainting_fill or FILL
        if fill == FILL:
            wanted = replace(wanted, image=(await _without_content(service, key, image, mask)).id)
        # At full strength, pipelines begin with noise by themselves.
        ignored["inpainting_fill"] = fill not in (FILL, ORIGINAL) and not (
            fill == LATENT_NOISE and wanted.strength == 1
        )
        if body.inpaint_full_res is None or body.inpaint_full_res:
            ignored["inpaint_full_res"] = task is None or "padding_mask_crop" not in task.arguments
            if repaints and not ignored["inpaint_full_res"]:  # otherwise there is no part to make
                padding = body.inpaint_full_res_padding or 0
    wanted = replace(wanted, fit=FITS[body.resize_mode or 0], mask_padding=padding)
    return wanted, frozenset(name for name, is_ignored in ignored.items() if is_ignored)


async def _prepared_mask(service: Service, key: ApiKey, body: Image2Image) -> tuple[InputFileRow, bool]:
    """Returns the mask as jobs take it, and whether it repaints anything."""
    sent = service.input_files.media_file(await add_picture(service, key, body.mask or "", "mask"))
    blur = MASK_BLUR if body.mask_blur is None else body.mask_blur
    radii = (
        blur if body.mask_blur_x is None else body.mask_blur_x,
        blur if body.mask_blur_y is None else body.mask_blur_y,
    )
    is_inverted = bool(body.inpainting_mask_invert)
    prepared, repaints = await work_on(prepared_mask, sent.path, is_inverted=is_inverted, blur=radii)
    return await service.input_files.add(key, prepared, listed=False, place="mask"), repaints


async def _without_content(service: Service, key: ApiKey, image: InputFileRow, mask: InputFileRow) -> InputFileRow:
    paths = (service.input_files.media_file(file).path for file in (image, mask))
    content = await work_on(without_content, *paths)
    return await service.input_files.add(key, content, listed=False, place="init_images[0]")


async def add_units(service: Service, key: ApiKey, units: list[ReadUnit], request: GenerateRequest) -> GenerateRequest:
    """Returns the request with its ControlNets and IP-Adapters. A unit without a picture takes that of img2img."""
    controls, prompts = [], []
    for unit in units:
        if unit.image is not None:
            image = (await add_picture(service, key, unit.image, f"{unit.place}.image")).id
        elif request.image is not None:
            image = request.image
        else:
            raise BadRequest(f"{unit.place}.image is required: {BASE64}.")
        if unit.kind == "ip_adapter":
            prompts.append(WantedImagePrompt(images=(image,), model=unit.model, strength=unit.strength))
        else:
            controls.append(
                WantedControl(
                    image=image,
                    type=unit.map_type,
                    model=unit.model,
                    preprocessor=unit.preprocessor,
                    strength=unit.strength,
                    start=unit.start,
                    end=unit.end,
                )
            )
    return replace(request, control=tuple(controls), ip_adapter=tuple(prompts))
