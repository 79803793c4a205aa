"""The bodies of AUTOMATIC1111's requests that make pictures, and which of their fields ask for something.

Clients send about a hundred fields, most with default values. Unknown ones are ignored and named in the reply. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field

from server.api.strict_fields import NO_NUL, Prompt, Strict
from server.jobs.request.generate_request import MAX_SEED

MAX_IMAGES = 8  # in one request
BASE64 = "a picture in base64, or a data URL"
EMPTY: tuple[Any, ...] = (None, "", False, [], {})  # a field with one of these values requests nothing

# Further values that request nothing: the defaults of AUTOMATIC1111 and of its clients.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "subseed": (-1,),
    "seed_resize_from_h": (-1,),
    "seed_resize_from_w": (-1,),
    "s_noise": (1,),
    "initial_noise_multiplier": (1,),
    "image_cfg_scale": (1.5,),
}
# They say how AUTOMATIC1111 keeps files and settings. Here, all results are stored and settings belong to the request.
ABOUT_FILES = frozenset(
    (
        "do_not_save_samples", "do_not_save_grid", "save_images", "override_settings_restore_afterwards",
        "force_task_id",
    )
)  # fmt: skip
OF_SECOND_PASS = ("hr_", "firstphase_")  # with `enable_hr` alone

Base64: TypeAlias = Annotated[str, Field(min_length=1, description=BASE64)]


class Tolerant(Strict):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class Generation(Tolerant):
    """What txt2img and img2img have in common, besides the prompt."""

    negative_prompt: str | None = Field(
        None, max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters"
    )
    seed: int | None = Field(None, ge=-1, le=MAX_SEED, description=f"a whole number from -1 (any) to {MAX_SEED}")
    steps: int | None = Field(None, ge=1, le=1000, description="a whole number from 1 to 1000")
    cfg_scale: float | None = Field(None, ge=0, le=100, description="a number from 0 to 100")
    width: int | None = Field(None, ge=8, le=16384, description="a whole number of pixels that the model accepts")
    height: int | None = Field(None, ge=8, le=16384, description="a whole number of pixels that the model accepts")
    batch_size: int | None = Field(None, ge=1, le=MAX_IMAGES, description=f"a whole number from 1 to {MAX_IMAGES}")
    n_iter: int | None = Field(None, ge=1, le=MAX_IMAGES, description=f"a whole number from 1 to {MAX_IMAGES}")
    sampler_name: str | None = Field(None, max_length=100, description="a name from GET /sdapi/v1/samplers")
    sampler_index: str | None = Field(None, max_length=100, description="a name from GET /sdapi/v1/samplers")
    scheduler: str | None = Field(None, max_length=100, description="text; the model's own spacing is used")
    clip_skip: int | None = Field(
        None, ge=1, le=101, description="a whole number from 1 (the last layer of CLIP is read) to 101"
    )
    override_settings: dict[str, Any] | None = Field(
        None,
        description="an object; sd_model_checkpoint names a model, CLIP_stop_at_last_layers is a whole number from 1, "
        "live_previews_enable may be false",
    )
    alwayson_scripts: dict[str, Any] | None = Field(
        None,
        description='an object; of its scripts, {"controlnet": {"args": [UNIT]}} is run, where a unit has image, '
        "module, model, weight, guidance_start, guidance_end and enabled",
    )
    send_images: bool | None = Field(None, description="true, or false: the reply has no images")


class Text2Image(Generation):
    prompt: Prompt
    denoising_strength: float | None = Field(
        None, ge=0, le=1, description="a number from 0 to 1; used by the second pass"
    )
    enable_hr: bool | None = Field(None, description="true or false: a second pass at a larger size")
    hr_upscaler: str | None = Field(None, max_length=100, description="a name from GET /sdapi/v1/upscalers")
    hr_scale: float | None = Field(None, ge=1, le=8, description="a number from 1 to 8")
    hr_second_pass_steps: int | None = Field(None, ge=0, le=1000, description="a whole number from 0 to 1000")
    hr_resize_x: int | None = Field(None, ge=0, le=16384, description="a whole number of pixels; 0: as hr_scale says")
    hr_resize_y: int | None = Field(None, ge=0, le=16384, description="a whole number of pixels; 0: as hr_scale says")


class Image2Image(Generation):
    prompt: str = Field("", max_length=4000, pattern=NO_NUL, description="text of at most 4000 characters")
    init_images: list[Base64] = Field(min_length=1, max_length=1, description=f"a list of one picture: {BASE64}")
    mask: Base64 | None = Field(None, description=f"{BASE64}; white is repainted")
    denoising_strength: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    resize_mode: int | None = Field(
        None, ge=0, le=3, description="0 (stretch), 1 (crop), 2 (pad) or 3 (as 0: latents are not resized)"
    )
    mask_blur: int | None = Field(None, ge=0, le=256, description="a whole number of pixels from 0 to 256")
    mask_blur_x: int | None = Field(None, ge=0, le=256, description="a whole number of pixels from 0 to 256")
    mask_blur_y: int | None = Field(None, ge=0, le=256, description="a whole number of pixels from 0 to 256")
    inpainting_fill: int | None = Field(
        None, ge=0, le=3, description="0 (fill), 1 (original), 2 (latent noise) or 3 (latent nothing)"
    )
    inpaint_full_res: bool | int | None = Field(
        None, description="true or false: only the part around the mask is made, at full resolution"
    )
    inpaint_full_res_padding: int | None = Field(None, ge=0, le=4096, description="a whole number of pixels to 4096")
    inpainting_mask_invert: int | bool | None = Field(
        None, ge=0, le=1, description="0, or 1: black is repainted instead of white"
    )
    include_init_images: bool | None = Field(None, description="true or false: the reply repeats the pictures")


def unused(raw: Mapping[str, Any], known: Iterable[str], *, second_pass: bool = False) -> frozenset[str]:
    """Names the fields of a body that ask for something that is not done here."""
    fields = set(known)
    return frozenset(
        name
        for name, value in raw.items()
        if name not in fields
        and name not in ABOUT_FILES
        and (second_pass or not name.startswith(OF_SECOND_PASS))
        and value not in EMPTY
        and value not in NEUTRAL.get(name, ())
    )
