"""AUTOMATIC1111's txt2img in our own words: its clients' fields, its samplers, what it reads out of a prompt."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from server.api.schemas import NO_NUL, Prompt, Strict
from server.errors import BadRequest
from server.jobs.request import MAX_SEED, GenerateRequest

# What diffusers calls the samplers of A1111; None: it knows no such one, and the model's own is used.
SAMPLERS: Mapping[str, str | None] = {
    "Euler a": "EulerAncestralDiscreteScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
    "DPM2": "KDPM2DiscreteScheduler",
    "DPM2 a": "KDPM2AncestralDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "DPM++ SDE": "DPMSolverSDEScheduler",
    "DEIS": "DEISMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "PLMS": "PNDMScheduler",
    **dict.fromkeys(
        ("DPM++ 2S a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "Restart", "LCM", "DDIM CFG++")
    ),
}  # fmt: skip
NAMED = {scheduler: name for name, scheduler in SAMPLERS.items() if scheduler}
LOWER = {name.lower(): name for name in SAMPLERS}
SPACINGS = (
    "karras",
    "exponential",
    "polyexponential",
    "sgm uniform",
    "uniform",
    "simple",
    "normal",
    "beta",
)  # of noise levels
EXTRA = re.compile(r"<(\w+):([^<>]*)>")  # <lora:NAME:WEIGHT>, and what other extensions read
MOST = 8  # pictures of one request, and LoRAs of one


class Text2Image(Strict):
    """Its clients send a hundred fields, most at their defaults: what is not here is ignored, and told in `info.ignored`."""

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
    batch_size: int | None = Field(None, ge=1, le=MOST, description=f"a whole number from 1 to {MOST}")
    n_iter: int | None = Field(None, ge=1, le=MOST, description=f"a whole number from 1 to {MOST}")
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
class Wanted:
    request: GenerateRequest
    ignored: tuple[str, ...]  # of the fields read here: what the model has nothing for


def wanted(body: Text2Image, options: Mapping[str, Any], model: str | None, schedulers: Collection[str]) -> Wanted:
    """`options`: what was chosen before, and for this request. `schedulers`: those of `model`. Raises `BadRequest`."""
    previews = options.get("live_previews_enable", True)
    if not isinstance(previews, bool):
        raise BadRequest("override_settings.live_previews_enable must be true or false.")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > MOST:
        raise BadRequest(f"batch_size times n_iter must be at most {MOST}.")
    prompt, loras, unread = read_prompt(body.prompt)
    scheduler, spacing = sampler(body.sampler_name or body.sampler_index or "")
    spacing = spacing or (body.scheduler or "").lower() not in ("", "automatic")
    offered = scheduler in schedulers
    unheard = {
        "sampler_name": bool(body.sampler_name or body.sampler_index) and not offered,
        "scheduler": spacing,
        "prompt": unread,
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
        scheduler=scheduler if offered else None,
        clip_skip=layers_left_out(options),
        loras=loras,
        preview=previews,  # for `progress`, as its clients are used to
    )
    return Wanted(request, tuple(name for name, said in unheard.items() if said))


def sampler(name: str) -> tuple[str | None, bool]:
    """diffusers' name for a sampler, or None, and whether a spacing of noise levels is said with it, as older clients do."""
    if not name or name in NAMED:
        return name or None, False
    spaced = next((spacing for spacing in SPACINGS if name.lower().endswith(f" {spacing}")), None)
    plain = name.lower().removesuffix(f" {spaced}") if spaced else name.lower()
    if plain not in LOWER:
        raise BadRequest("sampler_name must be a name from GET /sdapi/v1/samplers.")
    return SAMPLERS[LOWER[plain]], spaced is not None


def read_prompt(prompt: str) -> tuple[str, tuple[tuple[str, float], ...], bool]:
    """The prompt without what A1111 takes out of it, the LoRAs it names, and whether it names other extensions."""
    found = EXTRA.findall(prompt)
    loras = tuple(_lora(said) for kind, said in found if kind in ("lora", "lyco"))
    if len(loras) > MOST:
        raise BadRequest(f"prompt: at most {MOST} LoRAs.")
    plain = EXTRA.sub("", prompt) if found else prompt
    if not plain.strip():
        raise BadRequest("prompt must say something besides its LoRAs.")
    return plain, loras, any(kind not in ("lora", "lyco") for kind, _ in found)


def _lora(said: str) -> tuple[str, float]:
    """NAME, NAME:WEIGHT, NAME:te=WEIGHT:unet=WEIGHT: text encoder and denoiser have one weight here."""
    name, *values = (part.strip() for part in said.split(":"))
    named = dict(value.split("=", 1) for value in values if "=" in value)
    plain = [value for value in values if "=" not in value]
    try:
        weights = {float(value) for value in (*plain[:2], *(named[kind] for kind in ("te", "unet") if kind in named))}
    except ValueError:
        raise BadRequest("prompt: a LoRA is <lora:NAME:WEIGHT>, its weight a number.") from None
    if len(weights) > 1 or plain[2:] or named.keys() - {"te", "unet"}:
        raise BadRequest("prompt: a LoRA has one weight here, for text encoder and denoiser alike: <lora:NAME:WEIGHT>.")
    weight = weights.pop() if weights else 1.0
    if not -10 <= weight <= 10:
        raise BadRequest("prompt: the weight of a LoRA must be from -10 to 10.")
    return name, weight


def layers_left_out(options: Mapping[str, Any]) -> int | None:
    """A1111 counts from the last layer as 1; we count the layers that are left out."""
    said = options.get("CLIP_stop_at_last_layers")
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int) or not 1 <= said <= 101:
        raise BadRequest("CLIP_stop_at_last_layers must be a whole number from 1 to 101.")
    return said - 1
