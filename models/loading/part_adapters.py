"""Opens the adapters that are no module of diffusers' own: IP-Adapters, words, upscalers, and VAEs of another model.

Device thread only. Their files are checked already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.checkpoint.replacement_vae import check_replacement_vae
from models.errors import BadModel
from models.files.ip_adapter_folder import image_encoder_folder, ip_adapter_file
from models.files.json_files import read_config
from models.files.weight_header import tensors_of
from models.loading.components import OFFLINE, errors_named, open_component
from models.loading.single_file import open_vae
from models.loading.tensors_of_file import read_tensors
from models.loading.upscaler import checked_upscaler
from pipelines.diffusion.adapters.inversions import inversion_of
from pipelines.diffusion.adapters.ip_adapter import fit
from pipelines.diffusion_interface import Adapter

IP_IMAGE_PROCESSORS = {
    "CLIPVisionModelWithProjection": "CLIPImageProcessor",
    "SiglipVisionModel": "SiglipImageProcessor",
}


def open_part(
    adapter: Adapter, path: Path, pipeline: Any, configs: Path | None, device: str, dtype: torch.dtype
) -> torch.nn.Module:
    """pipeline, configs: of the model that the adapter is lent to. Raises `BadModel` and `BadAdapter`."""
    match adapter.kind:
        case "upscaler":
            return checked_upscaler(path, dtype, device, None)
        case "vae":
            return _open_vae(path, pipeline, configs, dtype)
        case "textual_inversion":
            return inversion_of(adapter.name, path.stem, _copied(path, dtype))
        case "ip_adapter":
            return _open_ip_adapter(adapter, path, pipeline, dtype)
        case _:
            raise AssertionError(adapter.kind)


def _open_vae(path: Path, pipeline: Any, configs: Path | None, dtype: torch.dtype) -> torch.nn.Module:
    if getattr(pipeline, "vae", None) is None or configs is None:
        raise BadModel("this model has no VAE that it could replace")
    cls = type(pipeline.vae)
    check_replacement_vae(path, cls.__name__, read_config(configs / "vae" / "config.json"), what="it")
    opened = open_vae(cls, path, configs, dtype) if path.is_file() else open_component("vae", cls, path, dtype)
    module: torch.nn.Module = opened[0]
    return module


def _open_ip_adapter(adapter: Adapter, path: Path, pipeline: Any, dtype: torch.dtype) -> torch.nn.Module:
    file, folder = ip_adapter_file(path), image_encoder_folder(path)
    assert file is not None, "checked by `adapter_files`"
    encoder, extractor = _open_encoder(folder, dtype) if folder is not None else (None, None)
    return fit(adapter.name, pipeline, _copied(file, dtype), encoder, extractor)


def _open_encoder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The encoder of pictures, and what makes its input of a picture; None where the library has a usual one."""
    import transformers

    named = read_config(folder / "config.json").get("architectures")
    name = next((name for name in IP_IMAGE_PROCESSORS if isinstance(named, list) and name in named), None)
    if name is None:
        raise BadModel(f"its image_encoder is none of {', '.join(IP_IMAGE_PROCESSORS)}")
    encoder, _ = open_component("image_encoder", getattr(transformers, name), folder, dtype)
    if name == "CLIPVisionModelWithProjection":
        return encoder, None  # as the library makes one, of the encoder's size
    processor = getattr(transformers, IP_IMAGE_PROCESSORS[name])
    with errors_named("image_encoder", processor):
        return encoder, processor.from_pretrained(folder, **OFFLINE)


def _copied(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a file, copied: they are mapped to it, and it may be replaced."""
    return {name: tensor.to(dtype, copy=True) for name, tensor in read_tensors(path, tensors_of(path), dtype).items()}
