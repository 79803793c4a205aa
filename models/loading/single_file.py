"""Opens a single file: a whole pipeline, a denoiser or a VAE, with the configs of its base. Device thread only."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.single_file import base_components, omitted_components

OFFLINE = {"local_files_only": True}


def open_full_file(
    file: Path, pipeline_class: Any, classes: dict[str, Any], configs: Path, dtype: torch.dtype, parts: dict[str, Any]
) -> Any:
    parts |= {name: None for name in omitted_components(file, configs) if has_component(pipeline_class, name)}
    for folder in base_components(file, [configs / name for name in classes if (configs / name).is_dir()]):
        options = {"subfolder": folder.name, "dtype": dtype, "use_safetensors": True}
        parts[folder.name] = classes[folder.name].from_pretrained(configs, **options)
    pipeline = pipeline_class.from_single_file(str(file), config=str(configs), dtype=dtype, **parts, **OFFLINE)
    # The file has the embeddings of T5 once, and the library fills only one of the two modules that use them.
    for component in pipeline.components.values():
        if hasattr(component, "tie_weights"):
            component.tie_weights()
    return pipeline


def open_denoiser(file: Path, cls: Any, configs: Path, name: str, dtype: torch.dtype) -> Any:
    from diffusers import GGUFQuantizationConfig

    gguf = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)} if file.suffix == ".gguf" else {}
    return cls.from_single_file(str(file), config=str(configs), subfolder=name, dtype=dtype, **gguf, **OFFLINE)


def open_vae(cls: Any, file: Path, configs: Path, dtype: torch.dtype) -> Any:
    """Opens a VAE whose config is that of `configs`: a file has none, and diffusers would look for one on the hub."""
    return cls.from_single_file(str(file), config=str(configs), subfolder="vae", dtype=dtype, **OFFLINE)


def has_component(pipeline_class: Any, component: str) -> bool:
    return component in inspect.signature(pipeline_class.__init__).parameters
