"""One pipeline class of diffusers: how to build a tiny random checkpoint, and the shape of a small request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch

from pipelines.diffusion_interface import InputName


@dataclass(frozen=True, slots=True)
class Family:
    name: str  # class name in diffusers
    kind: Literal["image", "video"]
    components: Callable[[], dict[str, Any]]  # builds the arguments of its __init__
    size: int = 32  # width and height in pixels
    other_size: int = 48  # another width that the class accepts
    num_frames: int | None = None
    steps: tuple[int, ...] = (4, 3, 5, 4)  # of the concurrent jobs, in turn
    jobs: int = 4  # concurrent jobs; fewer where a job takes long
    takes_negative: bool = True
    takes_guidance: bool = True  # False: it takes a list with one value for each step
    as_published: Callable[[Path], None] | None = None  # makes a saved folder equal to the one that its authors publish
    in_tiles: bool = False  # the VAE decodes only in tiles, which a direct caller has to enable
    needs: str = ""  # a package that diffusers and transformers do not require
    library_opens: bool = True  # whether diffusers can load a folder that it saved
    prompt: str = "%s"  # what a request makes of its words
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of __call__, as in models.toml
    takes: tuple[InputName, ...] = ()  # what a request gives besides the prompt
    base: str = ""  # class of the checkpoint whose components it shares; "": it has a checkpoint of its own
    lent: str = ""  # the component that an adapter lends to `base`

    def build(self) -> Any:
        """Builds the pipeline, with the same weights each time."""
        return assembled(self.name, self.parts())

    def parts(self) -> dict[str, Any]:
        """Builds the arguments of the pipeline's __init__, with the same weights each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = self.components()
            for part in parts.values():
                if isinstance(part, torch.nn.Module):
                    fill(part.eval())
        return parts

    def save(self, folder: Path) -> None:
        self.build().save_pretrained(folder)
        if self.as_published is not None:
            self.as_published(folder)


def assembled(name: str, parts: Mapping[str, Any]) -> Any:
    """Returns a pipeline of this class of those parts that it takes."""
    cls = getattr(diffusers, name)
    takes = inspect.signature(cls.__init__).parameters
    pipeline = cls(**{name: part for name, part in parts.items() if name in takes})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


UNINITIALIZED = ("pad_token", "experts.gate_up_proj", "experts.down_proj")  # the constructors leave them uninitialized


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Fills zero and uninitialized weights with noise: branches of a new network would otherwise do nothing."""
    for name, parameter in module.named_parameters():
        if not parameter.any() or name.endswith(UNINITIALIZED):
            parameter.normal_(0, 0.02)
