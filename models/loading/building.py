"""Builds a stock diffusers pipeline from a folder or a single file, with its load options. Device thread only.

It opens only safetensors and GGUF, downloads nothing and runs no code of the checkpoint: every class that the
checkpoint names is looked up in the library that defines it before anything is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import BadModel
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safety import check_folder
from models.loading.component_classes import component_class
from models.loading.components import OFFLINE, errors_named, open_component, open_components
from models.loading.measured import Measured
from models.loading.memory_format import choose_memory_format
from models.loading.noise_scheduler import apply_scheduler_settings
from models.loading.options import apply_options, enable_offload
from models.loading.quantization.library_configs import denoiser_quantization
from models.loading.read_check import check_is_filled
from models.loading.shared_weights import SharedWeights
from models.loading.single_file import has_component, open_parts_of_file, open_vae
from models.loading.vocabulary_check import check_vocabularies
from models.spec import ModelSpec


def pipeline_builder(
    spec: ModelSpec,
    device: str,
    dtype: torch.dtype,
    offload: bool,
    shared: SharedWeights,
    measured: Measured | None = None,
) -> Callable[[], tuple[Any, list[str]]]:
    """Checks every class that the checkpoint names, and returns the function that builds the pipeline.

    That function also returns sentences about tensors that were left out by intention, and about the layout of others.
    The files are checked already. Both raise `BadModel`. measured: what loads have chosen by measurement.
    """
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"  # diffusers reads it when it is imported, on the next line
    import diffusers

    assert spec.path is not None
    path = spec.path
    configs = spec.base_path or path
    if spec.base_path is not None:
        check_folder(configs, weights=False)
    model_index = read_config(configs / "model_index.json")
    # That of the index, unless the denoiser shows that the checkpoint is for inpainting.
    pipeline_class: Any = getattr(diffusers, spec.pipeline or str(model_index["_class_name"]), None)
    if diffusers.DiffusionPipeline not in getattr(pipeline_class, "__mro__", ()):
        raise BadModel("its pipeline class is not one of the installed diffusers")
    # After the pipeline class: importing that one adds components that transformers lacks (T5GemmaEncoder of PRX).
    classes = {name: component_class(name, *listed) for name, listed in components(model_index).items()}

    def build() -> tuple[Any, list[str]]:
        parts: dict[str, Any] = {}
        # Embeddings add words to the encoder and offload moves its weights: such an encoder cannot be shared.
        exclusive = offload or bool(spec.embedding_paths)
        sharing = {} if exclusive else {name: identity for name, (identity, _) in spec.shareable.items()}
        for name, identity in sharing.items():
            if (part := shared.borrow(identity, dtype, configs / name, device)) is not None:
                parts[name] = part
        notes = _open_parts(spec, pipeline_class, model_index, classes, configs, dtype, parts)
        pipeline = _put_together(pipeline_class, configs, dtype, parts)
        apply_scheduler_settings(pipeline, spec)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                check_is_filled(name, part)
        notes += check_vocabularies(pipeline)
        notes += apply_options(pipeline, spec, dtype, device, offload)
        if offload:
            return enable_offload(pipeline, device), notes
        if device != "cpu":  # the weights are on the CPU already, and walking over them takes a while
            pipeline.to(device)
        if device.startswith("cuda"):
            found = choose_memory_format(getattr(pipeline, "vae", None), device, measured)
            notes += [str(found)] if found is not None and found.channels_last else []
        for name, identity in sharing.items():
            shared.offer(identity, dtype, getattr(pipeline, name))
        return pipeline, notes

    return build


def _open_parts(
    spec: ModelSpec,
    pipeline_class: Any,
    model_index: Mapping[str, object],
    classes: Mapping[str, Any],
    configs: Path,
    dtype: torch.dtype,
    parts: dict[str, Any],
) -> list[str]:
    """Adds every component that is not in `parts` yet. Returns sentences about what was left out of their files."""
    notes: list[str] = []
    # The library requires an explicit None for a component that was saved as null (an SD 3 without T5).
    nulls = [name for name in model_index if _is_null(model_index[name])]
    parts |= {name: None for name in nulls if has_component(pipeline_class, name)}

    def lacking() -> dict[str, Any]:
        return {name: cls for name, cls in classes.items() if name not in parts}

    if spec.vae_path is not None:
        if spec.vae_path.is_file():
            parts["vae"], found = open_vae(classes["vae"], spec.vae_path, configs, dtype)
        else:
            parts["vae"], found = open_component("vae", classes["vae"], spec.vae_path, dtype)
        notes += found
    if spec.path is not None and spec.path.is_file():
        of_file, found = open_parts_of_file(spec.path, pipeline_class, lacking(), configs, dtype)
        parts |= of_file
        notes += found
    of_folder, found = open_components(configs, lacking(), dtype, denoiser_quantization(spec, lacking()))
    parts |= of_folder
    return notes + found


def _put_together(pipeline_class: Any, configs: Path, dtype: torch.dtype, parts: dict[str, Any]) -> Any:
    with errors_named("the pipeline", pipeline_class):
        return pipeline_class.from_pretrained(configs, dtype=dtype, trust_remote_code=False, **parts, **OFFLINE)


def _is_null(listed: object) -> bool:
    return isinstance(listed, list) and len(listed) == 2 and listed[0] is None
