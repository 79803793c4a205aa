"""Reads the inputs of admitted requests on a few threads, so that the device never waits for a file.

`MediaReader` belongs to the device thread; `read_inputs` runs on the reader's threads. What was read is held by the
request alone, from its admission to its end.
"""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from pipelines.diffusion.inputs.files import read_frames, read_picture
from pipelines.diffusion.inputs.geometry import bounded, fitted, fitted_mask, in_colors
from pipelines.diffusion.inputs.rules import InputRules, rules_of
from pipelines.diffusion_interface import Control, DiffusionRequest, Inputs, MediaFile

N_THREADS = 2

Frames = tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True)
class Media:
    """The inputs of one request, decoded and brought to size."""

    image: Image.Image | None = None
    mask: Image.Image | None = None
    images: Frames = ()
    last_image: Image.Image | None = None
    video: Frames = ()
    controls: tuple[Frames, ...] = ()  # one frame for each that is a picture
    image_prompts: tuple[Frames, ...] = ()
    warnings: tuple[str, ...] = ()  # for the client


class MediaReader:
    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None  # made for the first request with inputs

    def begin(self, request: DiffusionRequest, own_class: str) -> Future[Media]:
        """Begin to read the inputs of a request. own_class: of the checkpoint. The future may hold `BadMedia`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="inputs")
        return self._threads.submit(read_inputs, request, own_class)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def has_inputs(request: DiffusionRequest) -> bool:
    return request.inputs != Inputs()


def wait_for_one(futures: list[Future[Media]], timeout_s: float) -> None:
    concurrent.futures.wait(futures, timeout_s, concurrent.futures.FIRST_COMPLETED)


def read_inputs(request: DiffusionRequest, own_class: str) -> Media:
    """Raises `BadMedia`, and `UnknownPipeline`."""
    rules = rules_of(request.pipeline or own_class)
    inputs, warnings = request.inputs, list[str]()
    return Media(
        image=_picture(inputs.image, "image", request, rules, keeps_size=rules.image_keeps_size),
        mask=_mask(request),
        images=tuple(_reference(file, "images", rules) for file in inputs.images),
        last_image=_picture(inputs.last_image, "last_image", request, rules),
        video=_clip(inputs.video, "video", request, warnings) if inputs.video is not None else (),
        controls=tuple(_control(control, request, rules, warnings) for control in inputs.controls),
        image_prompts=tuple(
            tuple(_reference(file, "ip_adapter", rules) for file in prompt.images) for prompt in inputs.image_prompts
        ),
        warnings=tuple(warnings),
    )


def _picture(
    file: MediaFile | None, name: str, request: DiffusionRequest, rules: InputRules, *, keeps_size: bool = False
) -> Image.Image | None:
    if file is None:
        return None
    picture = in_colors(read_picture(file, name), alpha=rules.reads_alpha)
    return bounded(picture) if keeps_size else fitted(picture, *rules.input_size(request), request.fit)


def _reference(file: MediaFile, name: str, rules: InputRules) -> Image.Image:
    return bounded(in_colors(read_picture(file, name), alpha=rules.reads_alpha))


def _mask(request: DiffusionRequest) -> Image.Image | None:
    mask, of = request.inputs.mask, request.inputs.image or request.inputs.video
    if mask is None:
        return None
    size = (of.width, of.height) if of is not None else (mask.width, mask.height)
    return fitted_mask(read_picture(mask, "mask"), size, request.width, request.height, request.fit)


def _clip(file: MediaFile, name: str, request: DiffusionRequest, warnings: list[str]) -> Frames:
    """The frames at the model's rate. A clip that is too short stays on its last frame."""
    decoded = read_frames(file, name, fps=request.fps, n_frames=request.num_frames)
    frames = [fitted(frame, request.width, request.height, request.fit) for frame in decoded]
    if request.num_frames is not None and len(frames) < request.num_frames:
        n_missing = request.num_frames - len(frames)
        warnings.append(f"The clip of {name} has {len(frames)} frames: its last one was repeated {n_missing} times.")
        frames += [frames[-1]] * n_missing
    return tuple(frames)


def _control(control: Control, request: DiffusionRequest, rules: InputRules, warnings: list[str]) -> Frames:
    if control.image.num_frames > 1:
        return _clip(control.image, "control", request, warnings)
    picture = _picture(control.image, "control", request, rules)
    assert picture is not None
    return (picture,)
