"""One pipeline class: how a tiny random checkpoint of it is made, and what a small request to it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch


@dataclass(frozen=True, slots=True)
class Family:
    name: str  # class name in diffusers
    kind: Literal["image", "video"]
    parts: Callable[[], dict[str, Any]]  # arguments of its __init__; every module freshly made
    size: int = 32  # pixels, both ways
    other_size: int = 48  # a second size that its rules allow
    num_frames: int | None = None
    steps: tuple[int, ...] = (4, 3, 5, 4)  # of the jobs sent at once
    jobs: int = 4  # at once; fewer where each takes long
    takes_negative: bool = True
    takes_guidance: bool = True  # False: it has a row of them instead, one for each step
    as_published: Callable[[Path], None] | None = None  # what its authors' folder has otherwise than a saved one
    in_tiles: bool = False  # its VAE decodes in tiles only, which who calls the library has to switch on
    needs: str = ""  # a package besides diffusers' and transformers' own
    library_opens: bool = True  # diffusers itself can open what it saved
    call: Mapping[str, object] = field(default_factory=dict)  # further arguments of __call__, as models.toml gives them

    def build(self) -> Any:
        """The pipeline; the same weights each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = self.parts()
            for part in parts.values():
                if isinstance(part, torch.nn.Module):
                    fill(part.eval())
            pipeline = getattr(diffusers, self.name)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def save(self, folder: Path) -> None:
        self.build().save_pretrained(folder)
        if self.as_published is not None:
            self.as_published(folder)


UNSET = ("pad_token", "experts.gate_up_proj", "experts.down_proj")  # made of whatever lay in memory


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Noise where a fresh network is zero, or not set at all: whole branches would do nothing, and hide a mistake."""
    for name, parameter in module.named_parameters():
        if not parameter.any() or name.endswith(UNSET):
            parameter.normal_(0, 0.02)
