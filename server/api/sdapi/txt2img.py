"""Translates a txt2img request of AUTOMATIC1111's API: fields, sampler names, and LoRAs inside the prompt.

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from server.api.schemas import NO_NUL, Prompt, Strict
from server.errors import BadRequest
from server.jobs.request import MAX_SEED, GenerateRequest
from server.jobs.sampler_names import SAMPLER_NAMES, SAMPLERS

BY_LOWER_NAME = {name.lower(): name for name in SAMPLERS}
# The spacings of noise levels that older clients append to the sampler's name.
SPACINGS = ("karras", "exponential", "polyexponential", "sgm uniform", "uniform", "simple", "normal", "beta")
EXTRA_NETWORK = re.compile(r"<(\w+):([^<>]*)>")  # <lora:NAME:WEIGHT>, and the tags of other extensions
MAX_IMAGES = 8  # in one request
MAX_LORAS = 8


class Text2Image(Strict):
    """Clients send about a hundred fields, most with default values. Unknown ones are ignored and named in `info`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)

    prompt: Prompt
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


@dataclass(frozen=True, slots=True)
class Translation:
    request: GenerateRequest
    ignored: tuple[str, ...]  # known fields that this model cannot honor


def translate(
    body: Text2Image, options: Mapping[str, Any], model: str | None, schedulers: Collection[str]
) -> Translation:
    """Translates a request of AUTOMATIC1111's API. Raises `BadRequest`.

    `options`: the key's stored options, with the overrides of this request. `schedulers`: those that `model` supports.
    """
    previews = options.get("live_previews_enable", True)
    if not isinstance(previews, bool):
        raise BadRequest("override_settings.live_previews_enable must be true or false.")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > MAX_IMAGES:
        raise BadRequest(f"batch_size times n_iter must be at most {MAX_IMAGES}.")
    prompt, loras, has_other_tags = read_prompt(body.prompt)
    scheduler, has_spacing = read_sampler(body.sampler_name or body.sampler_index or "")
    supported = scheduler in schedulers
    ignored = {
        "sampler_name": bool(body.sampler_name or body.sampler_index) and not supported,
        "scheduler": has_spacing or (body.scheduler or "").lower() not in ("", "automatic"),
        "prompt": has_other_tags,
    }
    request = GenerateRequest(
        type="image",
        prompt=prompt,
        negative_prompt=body.negative_prompt or None,
        model=model,
        seed=None if body.seed in (None, -1) else body.seed,
        steps=body.steps,
        guidance_scale=body.cfg_scale,
        width=body.width,
        height=body.height,
        n=n,
        scheduler=scheduler if supported else None,
        clip_skip=skipped_layers(options),
        loras=loras,
        preview=previews,  # for GET /sdapi/v1/progress
    )
    return Translation(request, tuple(name for name, is_ignored in ignored.items() if is_ignored))


def read_sampler(name: str) -> tuple[str | None, bool]:
    """Returns diffusers' scheduler for a sampler, or None, and whether the name ends with a spacing of noise levels."""
    if not name or name in SAMPLER_NAMES:
        return name or None, False
    spacing = next((spacing for spacing in SPACINGS if name.lower().endswith(f" {spacing}")), None)
    plain = name.lower().removesuffix(f" {spacing}") if spacing else name.lower()
    if plain not in BY_LOWER_NAME:
        raise BadRequest("sampler_name must be a name from GET /sdapi/v1/samplers.")
    return SAMPLERS[BY_LOWER_NAME[plain]], spacing is not None


def read_prompt(prompt: str) -> tuple[str, tuple[tuple[str, float], ...], bool]:
    """Returns the prompt without its tags, the LoRAs that the tags name, and whether there are tags of other kinds."""
    tags = EXTRA_NETWORK.findall(prompt)
    loras = tuple(_lora(value) for kind, value in tags if kind in ("lora", "lyco"))
    if len(loras) > MAX_LORAS:
        raise BadRequest(f"prompt: at most {MAX_LORAS} LoRAs.")
    plain = EXTRA_NETWORK.sub("", prompt) if tags else prompt
    if not plain.strip():
        raise BadRequest("prompt must contain text besides its LoRAs.")
    return plain, loras, any(kind not in ("lora", "lyco") for kind, _ in tags)


def _lora(tag: str) -> tuple[str, float]:
    """Parses NAME, NAME:WEIGHT or NAME:te=WEIGHT:unet=WEIGHT. Text encoder and denoiser must have the same weight."""
    name, *values = (part.strip() for part in tag.split(":"))
    named = dict(value.split("=", 1) for value in values if "=" in value)
    plain = [value for value in values if "=" not in value]
    try:
        weights = {float(value) for value in (*plain[:2], *(named[kind] for kind in ("te", "unet") if kind in named))}
    except ValueError:
        raise BadRequest("prompt: a LoRA is written <lora:NAME:WEIGHT>, and its weight is a number.") from None
    if len(weights) > 1 or plain[2:] or named.keys() - {"te", "unet"}:
        raise BadRequest("prompt: a LoRA has one weight for text encoder and denoiser together: <lora:NAME:WEIGHT>.")
    weight = weights.pop() if weights else 1.0
    if not -10 <= weight <= 10:
        raise BadRequest("prompt: the weight of a LoRA must be from -10 to 10.")
    return name, weight


def skipped_layers(options: Mapping[str, Any]) -> int | None:
    """Returns how many of CLIP's last layers are skipped. AUTOMATIC1111 counts from 1, which skips none."""
    value = options.get("CLIP_stop_at_last_layers")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 101:
        raise BadRequest("CLIP_stop_at_last_layers must be a whole number from 1 to 101.")
    return value - 1
