"""Defines a request for an image or a video as the client sent it, whichever door it came through. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from pipelines.diffusion_interface import Fit
from pipelines.step_schedule import Speed
from server.jobs.encoding import ImageFormat, VideoFormat
from server.jobs.request.output_size import AspectRatio

MAX_SEED = 2**63 - 1
RANDOM_SEED_LIMIT = 2**48  # random seeds are smaller, so that clients whose numbers are doubles see them exactly
DEFAULT_STEPS = 50  # for models without their own default; the value of stock diffusers pipelines

Media: TypeAlias = str  # an id of an uploaded file, an id of an output of one's own jobs, or a data URL


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedControl:
    image: Media
    type: str | None = None  # "canny", "depth" …: which ControlNet, or which mode of one that has several
    model: str | None = None  # name of a ControlNet; None: the one for this type that fits the model
    preprocessor: str | None = None
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImagePrompt:
    images: tuple[Media, ...]
    model: str | None = None  # name of an IP-Adapter; None: the one that fits the model
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedUpscale:
    model: str | None = None  # name of an upscaler; None: the first one
    scale: float | None = None  # None: the upscaler's own


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A request as the client sent it; None: not given. The fields of the other type are never given."""

    prompt: str
    type: Literal["image", "video"]
    model: str | None = None
    aspect_ratio: AspectRatio | None = None
    duration: int | None = None  # seconds
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    num_frames: int | None = None
    n: int = 1
    output_format: ImageFormat | VideoFormat | None = None
    deterministic: bool = False
    webhook_url: str | None = None
    scheduler: str | None = None  # class name
    clip_skip: int | None = None  # layers
    loras: tuple[tuple[str, float], ...] = ()  # name, weight
    preview: bool = False
    speed: Speed = "exact"
    image: Media | None = None
    mask: Media | None = None  # white is repainted
    # Only the part of the picture around the mask is made, at full resolution, with so many pixels more on each side.
    mask_padding: int | None = None
    strength: float | None = None
    images: tuple[Media, ...] = ()  # references, in order
    last_image: Media | None = None
    video: Media | None = None
    control: tuple[WantedControl, ...] = ()
    ip_adapter: tuple[WantedImagePrompt, ...] = ()
    upscale: WantedUpscale | None = None
    fit: Fit = "crop"
    vae: str | None = None  # name of an adapter
    textual_inversions: tuple[str, ...] = ()  # names of adapters
    remixed_from: str | None = None  # the job whose clip this one changes or repeats; clients are told, nothing else

    @property
    def media(self) -> dict[str, Media]:
        """The pictures and clips by the place in the request that an error names: "image", "control[0].image"."""
        found = {name: getattr(self, name) for name in ("image", "mask", "last_image", "video")}
        found |= {f"images[{i}]": image for i, image in enumerate(self.images)}
        found |= {f"control[{i}].image": control.image for i, control in enumerate(self.control)}
        for i, prompt in enumerate(self.ip_adapter):
            found |= {f"ip_adapter[{i}].images[{j}]": image for j, image in enumerate(prompt.images)}
        return {place: media for place, media in found.items() if media is not None}

    def with_media(self, media: Mapping[str, Media]) -> GenerateRequest:
        """The same request with other texts for its pictures and clips, by the same places as those of `media`."""
        single: dict[str, Any] = {name: text for name, text in media.items() if "[" not in name}
        return replace(
            self,
            **single,
            images=tuple(media[f"images[{i}]"] for i in range(len(self.images))),
            control=tuple(replace(each, image=media[f"control[{i}].image"]) for i, each in enumerate(self.control)),
            ip_adapter=tuple(
                replace(each, images=tuple(media[f"ip_adapter[{i}].images[{j}]"] for j in range(len(each.images))))
                for i, each in enumerate(self.ip_adapter)
            ),
        )
