"""Opens the components that a single file has, with the configs of its base. Device thread only.

Each is opened by itself from its own tensors, as `from_single_file` of the pipeline would open it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.denoiser_input import INPUT_LAYERS, UNET
from models.checkpoint.single_file import CLIPS, T5S, belongs_to, has_all_parts, omitted_components, parts_in_file
from models.files.weight_header import tensors_of
from models.loading.components import OFFLINE, errors_named
from models.loading.read_check import single_file_checked
from models.loading.tensors_of_file import read_gguf_tensors, read_tensors

LDM_UNET = "model.diffusion_model."  # the library converts a U-Net in the original layout only under this prefix
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def open_parts_of_file(
    file: Path, pipeline_class: Any, classes: Mapping[str, Any], configs: Path, dtype: torch.dtype
) -> tuple[dict[str, Any], list[str]]:
    """Returns the components that the file has, and None for those that are left out, by name.

    Also returns sentences about tensors that were left out by intention. Raises `BadModel` that names the component.
    """
    left_out = [*omitted_components(file, configs), *(("safety_checker",) if has_all_parts(file) else ())]
    parts: dict[str, Any] = {name: None for name in left_out if has_component(pipeline_class, name)}
    notes: list[str] = []
    in_file = parts_in_file(file, {name: cls.__name__ for name, cls in classes.items()})
    for name, prefix in in_file.items():
        with errors_named(name, classes[name]), single_file_checked(name) as left_out_tensors:
            parts[name] = _open_part(file, prefix, name, classes[name], configs, dtype)
        notes += left_out_tensors
    return parts, notes


def _open_part(file: Path, prefix: str, name: str, cls: Any, configs: Path, dtype: torch.dtype) -> Any:
    if file.suffix == ".gguf":
        return _open_gguf(file, prefix, name, cls, configs, dtype)
    tensors = read_tensors(file, [tensor for tensor in tensors_of(file) if belongs_to(tensor, prefix)], dtype)
    if cls.__name__ in (*CLIPS, *T5S):
        return _open_text_encoder(tensors, name, cls, configs, dtype)
    return _from_tensors(_without_prefix(tensors, prefix), name, cls, configs, dtype=dtype)


def _open_gguf(file: Path, prefix: str, name: str, cls: Any, configs: Path, dtype: torch.dtype) -> Any:
    from diffusers import GGUFQuantizationConfig

    tensors = _without_prefix(read_gguf_tensors(file, dtype), prefix)
    quantization = GGUFQuantizationConfig(compute_dtype=dtype)
    return _from_tensors(tensors, name, cls, configs, dtype=dtype, quantization_config=quantization)


def _open_text_encoder(tensors: dict[str, Any], name: str, cls: Any, configs: Path, dtype: torch.dtype) -> Any:
    from diffusers.loaders import single_file_utils

    opens = (
        single_file_utils.create_diffusers_clip_model_from_ldm
        if cls.__name__ in CLIPS
        else single_file_utils.create_diffusers_t5_model_from_checkpoint
    )
    module = opens(cls, tensors, subfolder=name, config=str(configs), torch_dtype=dtype, **OFFLINE)
    # A file has the embeddings of T5 once, and the library fills only one of the two modules that use them.
    module.tie_weights()
    return module


def open_vae(cls: Any, file: Path, configs: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Opens a VAE whose config is that of `configs`: a file has none, and diffusers would look for one on the hub.

    Returns it with sentences about tensors that were left out by intention.
    """
    prefix = parts_in_file(file, {"vae": cls.__name__}).get("vae", "")
    names = [name for name in tensors_of(file) if name.startswith(prefix)]
    tensors = _without_prefix(read_tensors(file, names, dtype), prefix)
    for old, new in OLD_ATTENTION.items():
        tensors = {name.replace(old, new) if ".attentions." in name else name: t for name, t in tensors.items()}
    with errors_named("vae", cls), single_file_checked("vae") as notes:
        return _from_tensors(tensors, "vae", cls, configs, dtype=dtype), notes


def _from_tensors(tensors: dict[str, Any], name: str, cls: Any, configs: Path, **options: Any) -> Any:
    if cls.__name__ == UNET:  # one for inpainting has more input channels than that of its base
        layers = (
            tensors[prefix + layer] for prefix in (LDM_UNET, "") for layer in INPUT_LAYERS if prefix + layer in tensors
        )
        options["in_channels"] = next(layers).shape[1]
    return cls.from_single_file(tensors, config=str(configs), subfolder=name, **options, **OFFLINE)


def _without_prefix(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the tensors of a component under the names that the library converts."""
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    original_unet = any(name.startswith("input_blocks.") for name in bare)
    return {LDM_UNET + name: tensor for name, tensor in bare.items()} if original_unet else bare


def has_component(pipeline_class: Any, component: str) -> bool:
    return component in inspect.signature(pipeline_class.__init__).parameters
