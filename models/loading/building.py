"""Builds a stock diffusers pipeline from a folder or a single file, with its load options. Device thread only.

It opens only safetensors and GGUF, downloads nothing and runs no code of the checkpoint: every class that the
checkpoint names is looked up in the library that defines it before anything is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from models.errors import BadModel
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safety import check_folder
from models.loading.component_classes import component_class
from models.loading.components import OFFLINE, open_component, open_components
from models.loading.noise_scheduler import apply_scheduler_settings
from models.loading.options import apply_options, denoiser_quantization, enable_offload
from models.loading.read_check import check_is_filled, check_reads, watch_single_files
from models.loading.shared_weights import SharedWeights
from models.loading.single_file import has_component, open_parts_of_file, open_vae
from models.loading.vocabulary_check import check_vocabularies
from models.spec import ModelSpec


def pipeline_builder(
    spec: ModelSpec, device: str, dtype: torch.dtype, offload: bool, shared: SharedWeights
) -> Callable[[], tuple[Any, list[str]]]:
    """Checks every class that the checkpoint names, and returns the function that builds the pipeline.

    That function also returns sentences about tensors that were left out by intention. The files are checked already.
    Both raise `BadModel`.
    """
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"  # diffusers reads it when it is imported, on the next line
    import diffusers

    assert spec.path is not None
    path = spec.path
    configs = spec.base_path or path
    if spec.base_path is not None:
        check_folder(configs, weights=False)
    model_index = read_config(configs / "model_index.json")
    pipeline_class: Any = getattr(diffusers, str(model_index["_class_name"]), None)
    if diffusers.DiffusionPipeline not in getattr(pipeline_class, "__mro__", ()):
        raise BadModel("its pipeline class is not one of the installed diffusers")
    # After the pipeline class: importing that one adds components that transformers lacks (T5GemmaEncoder of PRX).
    classes = {name: component_class(name, *listed) for name, listed in components(model_index).items()}

    def build() -> tuple[Any, list[str]]:
        parts: dict[str, Any] = {}
        notes: list[str] = []
        # Embeddings add words to the encoder and offload moves its weights: such an encoder cannot be shared.
        exclusive = offload or bool(spec.embedding_paths)
        sharing = {} if exclusive else {name: identity for name, (identity, _) in spec.shareable.items()}
        for name, identity in sharing.items():
            if (part := shared.borrow(identity, dtype, configs / name, device)) is not None:
                parts[name] = part
        with watch_single_files() as single_files:
            if spec.vae_path is not None:
                parts["vae"], notes = _replacement_vae(classes["vae"], spec.vae_path, configs, dtype)
            # The library requires an explicit None for a component that was saved as null (an SD 3 without T5).
            nulls = [name for name in model_index if _is_null(model_index[name])]
            parts |= {name: None for name in nulls if has_component(pipeline_class, name)}
            if path.is_file():
                lacking = {name: cls for name, cls in classes.items() if name not in parts}
                parts |= open_parts_of_file(path, pipeline_class, lacking, configs, dtype)
            pipeline, left_out = _open_folder(spec, pipeline_class, classes, configs, dtype, parts)
            notes += left_out
        apply_scheduler_settings(pipeline, spec)
        for name, module in _modules(pipeline):
            if (reads := single_files.of(module)) is not None:
                notes += check_reads(name, module, reads)
            check_is_filled(name, module)
        notes += check_vocabularies(pipeline)
        apply_options(pipeline, spec, dtype)
        if offload:
            return enable_offload(pipeline, device), notes
        if device != "cpu":  # the weights are on the CPU already, and walking over them takes a while
            pipeline.to(device)
        for name, identity in sharing.items():
            shared.offer(identity, dtype, getattr(pipeline, name))
        return pipeline, notes

    return build


def _open_folder(
    spec: ModelSpec,
    pipeline_class: Any,
    classes: dict[str, Any],
    configs: Path,
    dtype: torch.dtype,
    parts: dict[str, Any],
) -> tuple[Any, list[str]]:
    """Opens the components of a pipeline folder that are not in `parts` yet, and puts all together."""
    wanted = {name: cls for name, cls in classes.items() if name not in parts}
    opened, notes = open_components(configs, wanted, dtype, denoiser_quantization(spec, wanted))
    pipeline = pipeline_class.from_pretrained(
        configs, dtype=dtype, trust_remote_code=False, **parts, **opened, **OFFLINE
    )
    return pipeline, notes


def _replacement_vae(cls: Any, path: Path, configs: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Opens the VAE that `load.vae` names, a file or a folder."""
    if path.is_file():
        return open_vae(cls, path, configs, dtype), []
    return open_component("vae", cls, path, dtype)


def _modules(pipeline: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            yield name, part


def _is_null(listed: object) -> bool:
    return isinstance(listed, list) and len(listed) == 2 and listed[0] is None
