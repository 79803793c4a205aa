"""What a pipeline class wants its pictures to be, read from the parameters of its `__call__`. Pure functions."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass

from pipelines.diffusion.arguments import FRAMES_ARGUMENTS
from pipelines.diffusion.task_pipelines import pipeline_class
from pipelines.diffusion_interface import ENLARGES, UPSCALER, DiffusionRequest

MASKS = frozenset({"mask_image", "mask"})

# They take no strength, as editors do, but join the picture's latents with those of the output: both have one size.
IN_OUTPUT_SIZE = ("StableDiffusionXLInstructPix2PixPipeline", "HunyuanImageRefinerPipeline", "Kandinsky5I2IPipeline",
                  "DreamLitePipeline", "DreamLiteMobilePipeline")  # fmt: skip
FRAME_BY_FRAME = ("LucyEditPipeline",)  # it joins the latents of the clip with those of the output


@dataclass(frozen=True, slots=True)
class InputRules:
    image_keeps_size: bool  # `image` is looked at, as a reference is; the output is made beside it
    clip_may_be_short: bool  # the clip is the beginning of the output, which goes on after it
    enlarges: int | None  # the factor by which the output is wider and higher than the inputs; None: any factor

    def input_size(self, request: DiffusionRequest) -> tuple[int, int]:
        """(width, height) in pixels, to which `image` and the maps that it follows are brought."""
        if self.enlarges is None:
            return request.size_before_upscaling
        return max(1, request.width // self.enlarges), max(1, request.height // self.enlarges)


@functools.lru_cache(maxsize=256)
def rules_of(name: str) -> InputRules:
    """name: of a pipeline class. Raises `UnknownPipeline`."""
    parameters = inspect.signature(pipeline_class(name).__call__).parameters
    has_frames, has_mask = bool(parameters.keys() & set(FRAMES_ARGUMENTS)), bool(parameters.keys() & MASKS)
    # Where the output has a size of its own, and no strength or mask refers to the picture's pixels.
    is_reference = "width" in parameters and not (has_frames or has_mask or "strength" in parameters)
    return InputRules(
        image_keeps_size=is_reference and name not in (*IN_OUTPUT_SIZE, UPSCALER),
        clip_may_be_short=has_frames and not has_mask and name not in FRAME_BY_FRAME,
        enlarges=None if name == UPSCALER else ENLARGES.get(name, 1),
    )
