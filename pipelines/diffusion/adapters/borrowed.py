"""Gives a request what adapters lend it besides ControlNets: a VAE, words, IP-Adapters, an upscaler.

Device thread only. All of it goes onto the request's own copy of the pipeline, or is kept apart from other requests by
`batching.module_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.diffusion.adapters.inversions import InversionWords
from pipelines.diffusion.adapters.ip_adapter import IMAGE_ARGUMENT, IpAdapterSets
from pipelines.diffusion.adapters.lent_modules import BadAdapter, LentModules
from pipelines.diffusion.inputs.reader import Media
from pipelines.diffusion_interface import DiffusionRequest


class Borrowed:
    """What the requests of one lane borrow."""

    def __init__(self, lent: LentModules) -> None:
        self._lent = lent
        self._ip_adapters = IpAdapterSets()
        self._words = InversionWords()

    def put_on(self, own: Any, request: DiffusionRequest) -> None:
        """Give the request its VAE, words and IP-Adapters. own: its copy of the pipeline. Raises `BadAdapter`."""
        if request.vae is not None:
            if getattr(own, "vae", None) is None:
                raise BadAdapter(f"The VAE {request.vae.name} cannot be used: this model has none of its own.")
            own.vae = self._lent.borrow(request.vae)
        if request.textual_inversions:
            self._words.use(own, [self._lent.borrow(adapter) for adapter in request.textual_inversions])
        if prompts := request.inputs.image_prompts:
            worn = [(self._lent.borrow(prompt.adapter), prompt.strength) for prompt in prompts]
            self._ip_adapters.wear(own, worn)

    def arguments(self, request: DiffusionRequest, media: Media, parameters: Collection[str]) -> dict[str, Any]:
        """The pictures that the request's IP-Adapters read, under the name of the pipeline's argument."""
        if not request.inputs.image_prompts:
            return {}
        if IMAGE_ARGUMENT not in parameters:
            name = request.inputs.image_prompts[0].adapter.name
            raise BadAdapter(f"The adapter {name} cannot be used: this model takes no IP-Adapter.")
        first = request.inputs.image_prompts[0].adapter
        if not self._lent.borrow(first).is_alone:
            return {IMAGE_ARGUMENT: [list(pictures) for pictures in media.image_prompts]}
        if len(media.image_prompts) > 1 or len(media.image_prompts[0]) > 1:
            raise BadAdapter(f"The adapter {first.name} reads one picture, and no other can be worn beside it.")
        return {IMAGE_ARGUMENT: media.image_prompts[0][0]}

    def enlarged(
        self, frames: NDArray[np.float32], request: DiffusionRequest, progress_bar: Callable[..., Any]
    ) -> NDArray[np.float32]:
        """The frames, (F, H, W, 3) in [0, 1], enlarged where the request wants it."""
        if request.upscaling is None:
            return frames
        from pipelines.upscaling.pipeline import enlarge

        size = request.upscaling.width, request.upscaling.height
        return enlarge(frames, self._lent.borrow(request.upscaling.adapter), progress_bar, size)

    def forget(self, components: Collection[str]) -> None:
        """Let go of what these components were used for, before they are dropped."""
        self._words.forget([module for name, module in self._lent.held.items() if name in components])
