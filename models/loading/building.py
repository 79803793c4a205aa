"""Builds a stock diffusers pipeline from a folder or a single file, with its load options. Device thread only.

It opens only safetensors and GGUF, downloads nothing and runs no code of the checkpoint: every class that the
checkpoint names is looked up in the library that defines it before anything is opened.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.single_file import has_all_parts
from models.errors import BadModel
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safety import check_folder
from models.files.weight_files import variant
from models.load_options import DENOISERS
from models.loading.component_classes import component_class
from models.loading.options import apply_options, enable_offload, pipeline_quantization, try_option
from models.loading.shared_weights import SharedWeights
from models.loading.single_file import OFFLINE, has_component, open_denoiser, open_full_file, open_vae
from models.spec import ModelSpec


def pipeline_builder(
    spec: ModelSpec, device: str, dtype: torch.dtype, offload: bool, shared: SharedWeights
) -> Callable[[], Any]:
    """Checks every class that the checkpoint names, and returns the function that builds the pipeline.

    The files are checked already. Raises `BadModel`.
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

    def build() -> Any:
        parts: dict[str, Any] = {}
        if spec.vae_path is not None:
            parts["vae"] = _replacement_vae(classes["vae"], spec.vae_path, configs, dtype)
        # Embeddings add words to the encoder and offload moves its weights: such an encoder cannot be shared.
        exclusive = offload or bool(spec.embedding_paths)
        sharing = {} if exclusive else {name: identity for name, (identity, _) in spec.shareable.items()}
        for name, identity in sharing.items():
            if (part := shared.borrow(identity, dtype, configs / name, device)) is not None:
                parts[name] = part
        if path.is_file() and has_all_parts(path):
            pipeline = open_full_file(path, pipeline_class, classes, configs, dtype, parts)
        else:
            # The library requires an explicit None for a component that was saved as null (an SD 3 without T5).
            nulls = [name for name, listed in model_index.items() if listed == [None, None]]
            parts |= {name: None for name in nulls if has_component(pipeline_class, name)}
            pipeline = _open_folder(spec, pipeline_class, classes, configs, dtype, parts)
        apply_options(pipeline, spec, dtype)
        if offload:
            return enable_offload(pipeline, device)
        if device != "cpu":  # the weights are on the CPU already, and walking over them takes a while
            pipeline.to(device)
        for name, identity in sharing.items():
            shared.offer(identity, dtype, getattr(pipeline, name))
        return pipeline

    return build


def _open_folder(
    spec: ModelSpec,
    pipeline_class: Any,
    classes: dict[str, Any],
    configs: Path,
    dtype: torch.dtype,
    parts: dict[str, Any],
) -> Any:
    """Opens a pipeline folder; when the checkpoint is a single file, the denoiser comes from the file."""
    assert spec.path is not None
    if spec.path.is_file():
        name = next(name for name in DENOISERS if name in classes)
        parts[name] = open_denoiser(spec.path, classes[name], configs, name, dtype)
    listed = [configs / name for name in classes if (configs / name).is_dir() and name not in parts]
    quantization = pipeline_quantization(spec, classes)
    open_pipeline = functools.partial(
        pipeline_class.from_pretrained,
        configs,
        dtype=dtype,
        variant=variant(listed),
        use_safetensors=True,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        **quantization,
        **parts,
        **OFFLINE,
    )
    return try_option("quantization", open_pipeline) if quantization else open_pipeline()


def _replacement_vae(cls: Any, path: Path, configs: Path, dtype: torch.dtype) -> Any:
    """Opens the VAE that `load.vae` names, a file or a folder."""
    if path.is_file():
        return open_vae(cls, path, configs, dtype)
    return cls.from_pretrained(path, dtype=dtype, use_safetensors=True, **OFFLINE)
