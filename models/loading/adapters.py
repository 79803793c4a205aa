"""Opens the module of an adapter for requests of a model that is loaded. Device thread only.

The files are checked again right before they are opened. Only safetensors are opened, nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.adapters.adapter_files import AdapterFiles, adapter_files
from models.errors import BadModel, ModelsError
from models.files.safety import check_path
from models.files.weight_header import tensors_of
from models.loading.components import errors_named, open_component
from models.loading.part_adapters import open_part
from models.loading.read_check import Reads, check_is_filled, check_reads
from models.loading.tensors_of_file import read_tensors
from pipelines.diffusion.adapters.lent_modules import BadAdapter
from pipelines.diffusion_interface import Adapter
from pipelines.dtype_lock import loading

MODULES = ("controlnet", "t2i_adapter")  # kinds that are one module of a class of diffusers


@loading()
def open_adapter(
    adapter: Adapter,
    *,
    device: str,
    dtype: torch.dtype,
    pipeline: Any | None = None,
    configs: Path | None = None,
) -> torch.nn.Module:
    """Returns the module on the device.

    pipeline: of the model that it is lent to; an IP-Adapter and a VAE are fitted to it. configs: the pipeline folder of
    that model, which tells a VAE in a single file its config. Raises `BadAdapter`; an out-of-memory error passes
    through.
    """
    path = Path(adapter.path)
    try:
        check_path(path)
        files = adapter_files(path, may_be_upscaler=adapter.kind == "upscaler")
        if files is None or files.kind != adapter.kind:
            raise BadModel("its files are no longer those of such an adapter")
        if files.kind in MODULES:
            module = _open(adapter.name, path, files, dtype)
        else:
            module = open_part(adapter, path, pipeline, configs, device, dtype)
    except OSError as error:
        raise BadAdapter(f"The adapter {adapter.name} cannot be read: its files were removed.") from error
    except ModelsError as error:
        raise BadAdapter(f"The adapter {adapter.name} cannot be loaded: {error.message}.") from error
    return module.eval().requires_grad_(False).to(device)


def _open(name: str, path: Path, files: AdapterFiles, dtype: torch.dtype) -> torch.nn.Module:
    import diffusers

    cls = getattr(diffusers, files.cls)
    if path.is_dir():
        module, _ = open_component(name, cls, path, dtype)
        assert isinstance(module, torch.nn.Module)
        return module
    with errors_named(name, cls):
        return _open_file(name, path, cls, files.config, dtype)


def _open_file(name: str, path: Path, cls: Any, config: Mapping[str, object], dtype: torch.dtype) -> torch.nn.Module:
    """Fills a module, made by the config that the file's tensors tell, with these tensors."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    tensors: dict[str, torch.Tensor] = read_tensors(path, tensors_of(path), dtype)
    if cls.__name__ == "ControlNetModel":  # leaves the layout of diffusers as it is
        tensors = convert_controlnet_checkpoint(tensors, config)
    with torch.device("meta"):
        module: torch.nn.Module = cls(**config)
    # A copy, because the tensors are mapped to a file that may be replaced.
    state = {key: tensor.to(dtype, copy=True) for key, tensor in tensors.items() if tensor is not None}
    missing, unexpected = module.load_state_dict(state, strict=False, assign=True)
    check_reads(name, module, Reads(missing, unexpected))
    check_is_filled(name, module)
    return module
