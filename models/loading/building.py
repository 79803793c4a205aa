"""Builds a stock diffusers pipeline from a folder or a single file, with its load options. Device thread only.

It opens only safetensors and GGUF, downloads nothing and runs no code of the checkpoint: every class that the
checkpoint names is looked up in the library that defines it before anything is opened.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.checkpoint.pipeline_source import module_of
from models.checkpoint.single_file import base_components, has_all_parts, omitted_components
from models.errors import BadModel
from models.files.json_files import read_config
from models.files.model_index import components
from models.files.safety import check_folder
from models.files.weight_files import variant
from models.load_options import DENOISERS, SDXL_EMBEDDINGS
from models.loading.shared_weights import SharedWeights
from models.spec import ModelSpec
from pipelines.device import is_fatal, is_out_of_memory

# A component class has one of these bases; anything else in the libraries is a function or a helper.
COMPONENT_BASES = ("ModelMixin", "SchedulerMixin", "PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin",
                   "FeatureExtractionMixin", "BaseImageProcessor", "ImageProcessingMixin", "ConfigMixin",
                   "VideoProcessor")  # fmt: skip
OFFLINE = {"local_files_only": True}


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
    classes = {name: _component_class(name, *listed) for name, listed in components(model_index).items()}

    def build() -> Any:
        parts: dict[str, Any] = {}
        if spec.vae_path is not None:
            parts["vae"] = _vae(classes["vae"], spec.vae_path, configs, dtype)
        # Embeddings add words to the encoder and offload moves its weights: such an encoder cannot be shared.
        exclusive = offload or bool(spec.embedding_paths)
        sharing = {} if exclusive else {name: identity for name, (identity, _) in spec.shareable.items()}
        for name, identity in sharing.items():
            if (part := shared.borrow(identity, dtype, configs / name, device)) is not None:
                parts[name] = part
        if path.is_file() and has_all_parts(path):
            pipeline = _open_full_file(path, pipeline_class, classes, configs, dtype, parts)
        else:
            # The library requires an explicit None for a component that was saved as null (an SD 3 without T5).
            nulls = [name for name, listed in model_index.items() if listed == [None, None]]
            parts |= {name: None for name in nulls if _has_component(pipeline_class, name)}
            pipeline = _open_folder(spec, pipeline_class, classes, configs, dtype, parts)
        _apply_options(pipeline, spec, dtype)
        if offload:
            return _enable_offload(pipeline, device)
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
        parts[name] = _denoiser_of_file(spec.path, classes[name], configs, name, dtype)
    listed = [configs / name for name in classes if (configs / name).is_dir() and name not in parts]
    quantization = _pipeline_quantization(spec, classes)
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
    return _try_option("quantization", open_pipeline) if quantization else open_pipeline()


def _open_full_file(
    file: Path, pipeline_class: Any, classes: dict[str, Any], configs: Path, dtype: torch.dtype, parts: dict[str, Any]
) -> Any:
    parts |= {name: None for name in omitted_components(file, configs) if _has_component(pipeline_class, name)}
    for folder in base_components(file, [configs / name for name in classes if (configs / name).is_dir()]):
        options = {"subfolder": folder.name, "dtype": dtype, "use_safetensors": True}
        parts[folder.name] = classes[folder.name].from_pretrained(configs, **options)
    pipeline = pipeline_class.from_single_file(str(file), config=str(configs), dtype=dtype, **parts, **OFFLINE)
    # The file has the embeddings of T5 once, and the library fills only one of the two modules that use them.
    for component in pipeline.components.values():
        if hasattr(component, "tie_weights"):
            component.tie_weights()
    return pipeline


def _has_component(pipeline_class: Any, component: str) -> bool:
    return component in inspect.signature(pipeline_class.__init__).parameters


def _denoiser_of_file(file: Path, cls: Any, configs: Path, name: str, dtype: torch.dtype) -> Any:
    from diffusers import GGUFQuantizationConfig

    gguf = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)} if file.suffix == ".gguf" else {}
    return cls.from_single_file(str(file), config=str(configs), subfolder=name, dtype=dtype, **gguf, **OFFLINE)


def _vae(cls: Any, path: Path, configs: Path, dtype: torch.dtype) -> Any:
    if path.is_file():  # a file has no config; without one diffusers looks for it on the hub
        return cls.from_single_file(str(path), config=str(configs), subfolder="vae", dtype=dtype, **OFFLINE)
    return cls.from_pretrained(path, dtype=dtype, use_safetensors=True, **OFFLINE)


def _apply_options(pipeline: Any, spec: ModelSpec, dtype: torch.dtype) -> None:
    load = spec.load
    for path in spec.embedding_paths:
        _try_option("embeddings", functools.partial(_load_embedding, pipeline, path))
    for denoiser in (getattr(pipeline, name) for name in DENOISERS if getattr(pipeline, name, None) is not None):
        if load.quantization == "fp8-layerwise":
            fp8 = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": dtype}
            _try_option("quantization", functools.partial(denoiser.enable_layerwise_casting, **fp8))
        if load.attention is not None:
            _try_option("attention", functools.partial(_set_attention, denoiser, load.attention))
        if load.compile:
            _try_option("compile", denoiser.compile_repeated_blocks)


def _try_option(option: str, apply: Callable[[], Any]) -> Any:
    """Calls `apply`. When a library refuses the option for this checkpoint, raises `BadModel` that names the option."""
    try:
        return apply()
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        if is_out_of_memory(error) or is_fatal(error):
            raise
        raise BadModel(
            f"load.{option} does not work with this checkpoint on this machine", detail=str(error)
        ) from error


def _load_embedding(pipeline: Any, path: Path) -> None:
    """Loads a textual inversion under the name of its file. Those of SDXL have one tensor for each text encoder."""
    tensors = load_file(path)
    if set(tensors) != set(SDXL_EMBEDDINGS):
        pipeline.load_textual_inversion(tensors, token=path.stem)
        return
    for tensor_name, encoder in SDXL_EMBEDDINGS.items():
        tokenizer = getattr(pipeline, encoder.replace("text_encoder", "tokenizer"))
        pipeline.load_textual_inversion(
            {"emb_params": tensors[tensor_name]},
            token=path.stem,
            tokenizer=tokenizer,
            text_encoder=getattr(pipeline, encoder),
        )


def _set_attention(denoiser: Any, attention: str) -> None:
    """Sets the backend of this model alone: diffusers also makes it the default of every other model."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    usual = Registry._active_backend
    try:
        denoiser.set_attention_backend(attention)
    finally:
        Registry.set_active_backend(usual)


def _enable_offload(pipeline: Any, device: str) -> Any:
    use_stream = device != "cpu"  # prefetches the next block while the current one runs
    pipeline.enable_group_offload(
        torch.device(device), offload_type="block_level", num_blocks_per_group=1, use_stream=use_stream
    )
    return pipeline


def _pipeline_quantization(spec: ModelSpec, classes: dict[str, Any]) -> dict[str, Any]:
    """Quantizes the denoisers only: they have most of the weights, and text encoders lose more quality."""
    import diffusers
    from diffusers.quantizers import PipelineQuantizationConfig

    config = _quantization_config(spec.load.quantization, diffusers)
    if config is None:
        return {}
    mapping = {name: config for name in DENOISERS if name in classes}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def chat_quantization(spec: ModelSpec) -> dict[str, Any]:
    import transformers

    config = _quantization_config(spec.load.quantization, transformers)
    return {} if config is None else {"quantization_config": config}


def _quantization_config(kind: str | None, library: Any) -> Any:
    """`library` is diffusers or transformers, which name these classes alike."""
    match kind:
        case "bnb-8bit":
            return library.BitsAndBytesConfig(load_in_8bit=True)
        case "bnb-4bit":
            return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
        case "torchao-int8" | "torchao-int4":
            import torchao.quantization as ao

            return library.TorchAoConfig(
                ao.Int8WeightOnlyConfig() if kind == "torchao-int8" else ao.Int4WeightOnlyConfig()
            )
        case "quanto-int8" | "quanto-int4":
            width = kind.removeprefix("quanto-")
            return library.QuantoConfig(**{"weights_dtype" if library.__name__ == "diffusers" else "weights": width})
        case _:
            return None


def _component_class(name: str, library: str, cls: str) -> Any:
    """Returns the class. Raises `BadModel` unless it is a model, scheduler, tokenizer or processor of that library."""
    import diffusers
    import transformers

    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    found = getattr(home, cls, None) or _restore_deprecated(library, cls)
    bases = {base.__name__ for base in found.__mro__} if inspect.isclass(found) else set()
    if not bases.intersection(COMPONENT_BASES) or "DiffusionPipeline" in bases:
        raise BadModel(f"component '{name}' names {library}.{cls}, which is no component class")
    return found


def _restore_deprecated(library: str, cls: str) -> Any:
    """Returns a class of a deprecated pipeline, after making it importable under the name that the checkpoint uses.

    diffusers moved these pipelines to another folder. Published checkpoints name the old one (["wuerstchen",
    "PaellaVQModel"]), saved ones "diffusers", and the library finds neither.
    """
    import diffusers

    module = module_of(cls)
    if module is None or not module.startswith("diffusers.pipelines.deprecated."):
        return None
    folder = module.split(".")[3]
    if library == "diffusers":
        setattr(diffusers, cls, getattr(importlib.import_module(module), cls))
        return getattr(diffusers, cls)
    if library != folder:
        return None
    setattr(diffusers.pipelines, folder, importlib.import_module(f"diffusers.pipelines.deprecated.{folder}"))
    return getattr(getattr(diffusers.pipelines, folder), cls, None)
