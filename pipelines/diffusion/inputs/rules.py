"""What a pipeline class wants its pictures to be, read from the parameters of its `__call__`. Pure functions."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass

from pipelines.diffusion.arguments import FRAMES_ARGUMENTS
from pipelines.diffusion.task_pipelines import pipeline_class
from pipelines.diffusion_interface import DiffusionRequest

# Pipelines that make a picture larger, by this factor in each direction: it is given to them in its smaller size.
ENLARGED = {"StableDiffusionUpscalePipeline": 4, "StableDiffusionLatentUpscalePipeline": 2}
READ_ALPHA = ("QwenImageLayeredPipeline",)  # it takes pictures apart into layers, and converts them to RGBA itself
# It takes no strength, as editors do, but lays the picture's latents on those of the output: both have one size.
IN_OUTPUT_SIZE = ("StableDiffusionXLInstructPix2PixPipeline",)


@dataclass(frozen=True, slots=True)
class InputRules:
    image_keeps_size: bool  # `image` is looked at, as a reference is; the output is made beside it
    reads_alpha: bool
    enlarges: int

    def input_size(self, request: DiffusionRequest) -> tuple[int, int]:
        """(width, height) in pixels, to which `image` and the maps that it follows are brought."""
        return max(1, request.width // self.enlarges), max(1, request.height // self.enlarges)


@functools.lru_cache(maxsize=256)
def rules_of(name: str) -> InputRules:
    """name: of a pipeline class. Raises `UnknownPipeline`."""
    parameters = inspect.signature(pipeline_class(name).__call__).parameters
    # Where the output has a size of its own, and no strength or mask refers to the picture's pixels.
    is_reference = "width" in parameters and not {"strength", "mask_image", "mask", *FRAMES_ARGUMENTS} & set(parameters)
    return InputRules(
        image_keeps_size=is_reference and name not in IN_OUTPUT_SIZE,
        reads_alpha=name in READ_ALPHA,
        enlarges=ENLARGED.get(name, 1),
    )
