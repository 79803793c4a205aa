"""Opens an upscaler: a network of the ESRGAN kind, whose architecture spandrel finds out from its tensors.

Device thread only. Only safetensors files are opened.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

# spandrel imports all its architectures at once. These two import torchvision, which has to be of torch's own build and
# is not needed by any other. Both do something else than to make a picture larger: the first fills holes, the second
# restores faces.
WITH_TORCHVISION = ("LaMa", "RestoreFormer")


class BadUpscaler(Exception):
    """The file is no upscaler that can be used. The message tells why, for a person."""


class Upscaler(nn.Module):
    """A network that makes a picture of three channels larger by a whole factor, or restores it at its size."""

    def __init__(self, descriptor: Any) -> None:
        """descriptor: an `ImageModelDescriptor` of spandrel."""
        super().__init__()
        self.network: nn.Module = descriptor.model
        self.scale: int = descriptor.scale
        self.architecture: str = str(descriptor.architecture.name)
        self.tiles_itself: bool = descriptor.tiling.name == "INTERNAL"
        self._descriptor = descriptor
        # Without the decorator that enters torch's inference mode: a forward that is suspended would leave it on.
        self._call = inspect.unwrap(type(descriptor).__call__)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures: (B, 3, H, W) in [0, 1]. Returns (B, 3, H · scale, W · scale) in [0, 1]."""
        enlarged: torch.Tensor = self._call(self._descriptor, pictures)
        return enlarged


def open_upscaler(path: Path, dtype: torch.dtype, device: str) -> Upscaler:
    """Raises `BadUpscaler`. A network that does not work in `dtype` is opened in float32."""
    if path.suffix != ".safetensors":
        raise BadUpscaler("only .safetensors files are opened")
    with _importable():
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
    try:
        descriptor = ModelLoader("cpu").load_from_state_dict(_bare(load_file(path)))
    except UnsupportedModelError as error:
        raise BadUpscaler("spandrel knows no architecture with its tensors") from error
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError, AssertionError) as error:
        # What the architectures raise about tensors that are missing, or of a shape that they do not expect.
        raise BadUpscaler("its tensors do not fit the architecture that spandrel found") from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise BadUpscaler(f"{descriptor.architecture.name} does not make pictures larger: it fills holes")
    if descriptor.input_channels != 3 or descriptor.output_channels != 3:
        raise BadUpscaler("it takes and makes pictures of another number of channels than three")
    works = {torch.float16: descriptor.supports_half, torch.bfloat16: descriptor.supports_bfloat16}
    upscaler = Upscaler(descriptor).to(device, dtype if works.get(dtype, True) else torch.float32)
    return upscaler.eval().requires_grad_(False)


def _bare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without the prefix under which trainers save them: "params_ema.conv_first.weight"."""
    for prefix in ("params_ema.", "params.", "module.", "netG.", "model_state_dict.", "state_dict."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


@contextmanager
def _importable() -> Iterator[None]:
    """Within this context spandrel can be imported where torchvision is not installed."""
    if "spandrel" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    names = [f"spandrel.architectures.{name}" for name in WITH_TORCHVISION]
    for name, full_name in zip(WITH_TORCHVISION, names, strict=True):
        sys.modules[full_name] = _without_models(name, full_name)
    try:
        yield
    finally:
        for full_name in names:
            sys.modules.pop(full_name, None)


def _without_models(name: str, full_name: str) -> ModuleType:
    """A module in place of an architecture of spandrel, which takes no file for its own."""

    class Architecture:
        id = name

        def detect(self, tensors: object) -> bool:
            return False

    module = ModuleType(full_name)
    vars(module)[f"{name}Arch"] = Architecture
    vars(module)[name] = Architecture
    return module
