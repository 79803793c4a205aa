"""Translates what txt2img and img2img have in common: fields, sampler names, and LoRAs inside the prompt.

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.spec import ModelSpec
from server.api.sdapi.schema import MAX_IMAGES, Image2Image, Text2Image
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.sampler_names import SAMPLER_NAMES, SAMPLERS

BY_LOWER_NAME = {name.lower(): name for name in SAMPLERS}
# The spacings of noise levels that older clients append to the sampler's name.
SPACINGS = ("karras", "exponential", "polyexponential", "sgm uniform", "uniform", "simple", "normal", "beta")
EXTRA_NETWORK = re.compile(r"<(\w+):([^<>]*)>")  # <lora:NAME:WEIGHT>, and the tags of other extensions
MAX_LORAS = 8


@dataclass(frozen=True, slots=True)
class Translation:
    request: GenerateRequest
    ignored: frozenset[str]  # fields that ask for something this model or server cannot do


def translate(body: Text2Image | Image2Image, options: Mapping[str, Any], spec: ModelSpec) -> Translation:
    """Translates all but the pictures. Raises `BadRequest`.

    `options`: the key's stored options, with the overrides of this request.
    """
    previews = options.get("live_previews_enable", True)
    if not isinstance(previews, bool):
        raise BadRequest("override_settings.live_previews_enable must be true or false.")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > MAX_IMAGES:
        raise BadRequest(f"batch_size times n_iter must be at most {MAX_IMAGES}.")
    prompt, loras, has_other_tags = read_prompt(body.prompt, may_be_empty=isinstance(body, Image2Image))
    scheduler, has_spacing = read_sampler(body.sampler_name or body.sampler_index or "")
    supported = scheduler in spec.schedulers
    ignored = {
        "sampler_name": bool(body.sampler_name or body.sampler_index) and not supported,
        "scheduler": has_spacing or (body.scheduler or "").lower() not in ("", "automatic"),
        "prompt": has_other_tags,
    }
    request = GenerateRequest(
        type="image",
        prompt=prompt,
        negative_prompt=body.negative_prompt or None,
        model=spec.name,
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
    return Translation(request, frozenset(name for name, is_ignored in ignored.items() if is_ignored))


def read_sampler(name: str) -> tuple[str | None, bool]:
    """Returns diffusers' scheduler for a sampler, or None, and whether the name ends with a spacing of noise levels."""
    if not name or name in SAMPLER_NAMES:
        return name or None, False
    spacing = next((spacing for spacing in SPACINGS if name.lower().endswith(f" {spacing}")), None)
    plain = name.lower().removesuffix(f" {spacing}") if spacing else name.lower()
    if plain not in BY_LOWER_NAME:
        raise BadRequest("sampler_name must be a name from GET /sdapi/v1/samplers.")
    return SAMPLERS[BY_LOWER_NAME[plain]], spacing is not None


def read_prompt(prompt: str, *, may_be_empty: bool = False) -> tuple[str, tuple[tuple[str, float], ...], bool]:
    """Returns the prompt without its tags, the LoRAs that the tags name, and whether there are tags of other kinds."""
    tags = EXTRA_NETWORK.findall(prompt)
    loras = tuple(_lora(value) for kind, value in tags if kind in ("lora", "lyco"))
    if len(loras) > MAX_LORAS:
        raise BadRequest(f"prompt: at most {MAX_LORAS} LoRAs.")
    plain = EXTRA_NETWORK.sub("", prompt) if tags else prompt
    if not plain.strip() and not may_be_empty:
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
