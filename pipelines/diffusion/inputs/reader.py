"""Reads the inputs of admitted requests on a few threads, so that the device never waits for a file.

`MediaReader` belongs to the device thread; `read_inputs` runs on the reader's threads. What was read is held by the
request alone, from its admission to its end.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakValueDictionary

from PIL import Image

from pipelines.diffusion.inputs.files import read_frames, read_picture
from pipelines.diffusion.inputs.geometry import bounded, fitted, fitted_mask, in_colors
from pipelines.diffusion.inputs.preprocessors import RUN, is_map_of_edges
from pipelines.diffusion.inputs.rules import InputRules, rules_of
from pipelines.diffusion_interface import AUTO_CANNY, Control, DiffusionRequest, Inputs, MediaFile

N_THREADS = 2
WAIT_S = 0.005  # the longest that a step with nothing else to do waits for the inputs of a request
POLL_S = 0.001  # while it waits, it asks this often whether other work has come
LEFT_OUT_S = 0.25  # less at the end of a clip is not told: models round the number of frames
EDGES_FOUND = (
    'The image of a control of type canny is a photo: its edges were found. With "preprocessor": "none" it is used as '
    "it is."
)

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
        self._pending: dict[str, Future[Media]] = {}  # by id of the request that waits for it
        # What requests of the lane have, so that the outputs of one job read their inputs once.
        self._known: WeakValueDictionary[Hashable, Future[Media]] = WeakValueDictionary()

    def begin(
        self, request: DiffusionRequest, own_class: str, before: Callable[[], None] | None = None
    ) -> Callable[[], Media]:
        """Begin to read the inputs of a request.

        own_class: of the checkpoint. before: called first, by the thread that reads.
        Returns what gives them when they are read, or raises what went wrong: `BadMedia`, `UnknownPipeline`. It keeps
        them in memory.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="inputs")
        size = request.width, request.height, request.num_frames
        key = request.inputs, request.pipeline, size, request.fps, request.fit
        future = self._known.get(key)
        if future is None or future.cancelled():
            future = self._known[key] = self._threads.submit(_read_after, before, request, own_class)
        self._pending[request.id] = future
        return future.result

    def cancel(self, request_id: str) -> None:
        future = self._pending.pop(request_id, None)
        if future is not None and future not in self._pending.values():
            future.cancel()

    @property
    def has_read(self) -> bool:
        """Whether `take_read` would return something."""
        return any(future.done() for future in self._pending.values())

    def take_read(self) -> list[str]:
        """Return the ids of requests whose inputs have been read since the last call."""
        read = [request_id for request_id, future in self._pending.items() if future.done()]
        for request_id in read:
            del self._pending[request_id]
        return read

    def wait(self, should_yield: Callable[[], bool]) -> None:
        """Let a moment pass until one of the requests can go on, so that a thread without other work does not spin."""
        until = time.monotonic() + WAIT_S
        while self._pending and not should_yield() and time.monotonic() < until:
            if concurrent.futures.wait(self._pending.values(), POLL_S, FIRST_COMPLETED).done:
                return

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def has_inputs(request: DiffusionRequest) -> bool:
    return request.inputs != Inputs()


def _read_after(before: Callable[[], None] | None, request: DiffusionRequest, own_class: str) -> Media:
    if before is not None:
        before()
    return read_inputs(request, own_class)


def read_inputs(request: DiffusionRequest, own_class: str) -> Media:
    """Raises `BadMedia`, and `UnknownPipeline`."""
    return _Reading(request, rules_of(request.pipeline or own_class)).media()


class _Reading:
    """Reads the inputs of one request."""

    def __init__(self, request: DiffusionRequest, rules: InputRules) -> None:
        self._request = request
        self._rules = rules
        self._size = rules.input_size(request)
        self._warnings: list[str] = []

    def media(self) -> Media:
        inputs = self._request.inputs
        controls = [self._control(control) for control in inputs.controls]
        prompts = [tuple(_reference(file, "ip_adapter") for file in prompt.images) for prompt in inputs.image_prompts]
        return Media(
            image=self._image(inputs.image) if inputs.image else None,
            mask=self._mask(inputs.mask) if inputs.mask else None,
            images=tuple(_reference(file, "images") for file in inputs.images),
            last_image=self._picture(inputs.last_image, "last_image") if inputs.last_image else None,
            video=self._clip(inputs.video, "video", may_be_short=self._rules.clip_may_be_short) if inputs.video else (),
            controls=tuple(controls),
            image_prompts=tuple(prompts),
            warnings=tuple(self._warnings),
        )

    def _image(self, file: MediaFile) -> Image.Image:
        return _reference(file, "image") if self._rules.image_keeps_size else self._picture(file, "image")

    def _picture(self, file: MediaFile, name: str) -> Image.Image:
        return fitted(in_colors(read_picture(file, name)), *self._size, self._request.fit)

    def _mask(self, file: MediaFile) -> Image.Image:
        of = self._request.inputs.image or self._request.inputs.video or file
        return fitted_mask(read_picture(file, "mask"), (of.width, of.height), *self._size, self._request.fit)

    def _clip(self, file: MediaFile, name: str, *, may_be_short: bool = False) -> Frames:
        """The frames at the model's rate. Where the output has as many, a clip that is too short stays on its last."""
        wanted = self._request.num_frames
        decoded = read_frames(file, name, fps=self._request.fps, n_frames=wanted)
        frames = [fitted(frame, *self._size, self._request.fit) for frame in decoded]
        self._tell_what_is_left_out(file, name, len(frames))
        if wanted is not None and len(frames) < wanted and not may_be_short:
            n_more = wanted - len(frames)
            rate = f" at {self._request.fps:g} a second" if self._request.fps is not None else ""
            added = "1 was added" if n_more == 1 else f"{n_more} were added"
            self._warnings.append(f"{name} has {len(frames)} frames{rate}: {added}, like the last one.")
            frames += [frames[-1]] * n_more
        return tuple(frames)

    def _tell_what_is_left_out(self, file: MediaFile, name: str, n_used: int) -> None:
        if file.fps is None:
            return
        lasts_s, used_s = file.num_frames / file.fps, n_used / (self._request.fps or file.fps)
        if n_used == self._request.num_frames and lasts_s - used_s > LEFT_OUT_S:
            self._warnings.append(f"{name} lasts {lasts_s:.3g} s: only its first {used_s:.3g} s were used.")

    def _control(self, control: Control) -> Frames:
        file = control.image
        frames = self._clip(file, "control") if file.num_frames > 1 else (self._picture(file, "control"),)
        preprocessor = control.preprocessor
        if preprocessor == AUTO_CANNY:
            preprocessor = "none" if is_map_of_edges(frames[0]) else "canny"
            if preprocessor == "canny":
                self._warnings.append(EDGES_FOUND)
        return tuple(RUN[preprocessor or "none"](frame) for frame in frames)


def _reference(file: MediaFile, name: str) -> Image.Image:
    return bounded(in_colors(read_picture(file, name)))
