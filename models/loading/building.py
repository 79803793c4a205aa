"""A spec → a stock pipeline of diffusers, from a folder or a single file, with its load-time knobs. Device thread only.

Safetensors and GGUF only, nothing downloaded, no code of the checkpoint's own: every class it names is looked up in the
library that defines it before anything is opened.
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

from models.errors import BadModel
from models.files import variant
from models.knobs import CLIP_OF_XL, DENOISERS
from models.loading.shared_weights import SharedWeights
from models.pipeline_source import module_of
from models.preflight import check_folder, components, read_config
from models.single_file import is_whole, left_out, lent
from models.spec import ModelSpec
from pipelines.device import is_fatal, is_out_of_memory

# What a component may be, by the root of its family; anything else in these libraries is a function or a helper.
FAMILIES = ("ModelMixin", "SchedulerMixin", "PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin",
            "FeatureExtractionMixin", "BaseImageProcessor", "ImageProcessingMixin", "ConfigMixin", "VideoProcessor")  # fmt: skip
SAFE = {"local_files_only": True}


def pipeline_builder(
    spec: ModelSpec, device: str, dtype: torch.dtype, offload: bool, shared: SharedWeights
) -> Callable[[], Any]:
    """What makes the pipeline, after every class it names was looked at; its files are checked already. Raises `BadModel`."""
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"  # read by diffusers when it is imported, next line
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
    # After the pipeline: importing it brings components that transformers lacks (T5GemmaEncoder of PRX).
    classes = {name: _class(name, *named) for name, named in components(model_index).items()}

    def build() -> Any:
        parts: dict[str, Any] = {}
        if spec.vae_path is not None:
            parts["vae"] = _vae(classes["vae"], spec.vae_path, configs, dtype)
        # An embedding gives the encoder words of its own, offload takes its weights elsewhere: neither is another's too.
        own = offload or bool(spec.embedding_paths)
        sharing = {} if own else {name: whose for name, (whose, _) in spec.shareable.items()}
        for name, whose in sharing.items():
            if (part := shared.borrow(whose, dtype, configs / name, device)) is not None:
                parts[name] = part
        if path.is_file() and is_whole(path):
            pipeline = _open_whole(path, pipeline_class, classes, configs, dtype, parts)
        else:
            # Saved without (an SD 3 without T5): the library wants to be told so again.
            empty = [name for name, what in model_index.items() if what == [None, None]]
            parts |= {name: None for name in empty if _takes(pipeline_class, name)}
            pipeline = _open(spec, pipeline_class, classes, configs, dtype, parts)
        _turn_knobs(pipeline, spec, dtype)
        if offload:
            return _offloaded(pipeline, device)
        if device != "cpu":  # it is born there, and a walk over it takes a while
            pipeline.to(device)
        for name, whose in sharing.items():
            shared.offer(whose, dtype, getattr(pipeline, name))
        return pipeline

    return build


def _open(
    spec: ModelSpec,
    pipeline_class: Any,
    classes: dict[str, Any],
    configs: Path,
    dtype: torch.dtype,
    parts: dict[str, Any],
) -> Any:
    assert spec.path is not None
    if spec.path.is_file():
        name = next(name for name in DENOISERS if name in classes)
        parts[name] = _denoiser_of_file(spec.path, classes[name], configs, name, dtype)
    listed = [configs / name for name in classes if (configs / name).is_dir() and name not in parts]
    how = _quantization(spec, classes)
    open_it = functools.partial(
        pipeline_class.from_pretrained,
        configs,
        dtype=dtype,
        variant=variant(listed),
        use_safetensors=True,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        **how,
        **parts,
        **SAFE,
    )
    return _turn("quantization", open_it) if how else open_it()


def _open_whole(
    file: Path, pipeline_class: Any, classes: dict[str, Any], configs: Path, dtype: torch.dtype, parts: dict[str, Any]
) -> Any:
    parts |= {name: None for name in left_out(file, configs) if _takes(pipeline_class, name)}
    for folder in lent(file, [configs / name for name in classes if (configs / name).is_dir()]):
        named = {"subfolder": folder.name, "dtype": dtype, "use_safetensors": True}
        parts[folder.name] = classes[folder.name].from_pretrained(configs, **named)
    pipeline = pipeline_class.from_single_file(str(file), config=str(configs), dtype=dtype, **parts, **SAFE)
    # T5's embeddings are in the file once, and the library fills one of their two places.
    for part in pipeline.components.values():
        if hasattr(part, "tie_weights"):
            part.tie_weights()
    return pipeline


def _takes(pipeline_class: Any, component: str) -> bool:
    return component in inspect.signature(pipeline_class.__init__).parameters


def _denoiser_of_file(file: Path, cls: Any, configs: Path, name: str, dtype: torch.dtype) -> Any:
    from diffusers import GGUFQuantizationConfig

    how = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)} if file.suffix == ".gguf" else {}
    return cls.from_single_file(str(file), config=str(configs), subfolder=name, dtype=dtype, **how, **SAFE)


def _vae(cls: Any, path: Path, configs: Path, dtype: torch.dtype) -> Any:
    if path.is_file():  # a file has no config; without one diffusers looks for it on the hub
        return cls.from_single_file(str(path), config=str(configs), subfolder="vae", dtype=dtype, **SAFE)
    return cls.from_pretrained(path, dtype=dtype, use_safetensors=True, **SAFE)


def _turn_knobs(pipeline: Any, spec: ModelSpec, dtype: torch.dtype) -> None:
    load = spec.load
    for path in spec.embedding_paths:
        _turn("embeddings", functools.partial(_take_embedding, pipeline, path))
    for denoiser in (getattr(pipeline, name) for name in DENOISERS if getattr(pipeline, name, None) is not None):
        if load.quantization == "fp8-layerwise":
            fp8 = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": dtype}
            _turn("quantization", functools.partial(denoiser.enable_layerwise_casting, **fp8))
        if load.attention is not None:
            _turn("attention", functools.partial(_set_attention, denoiser, load.attention))
        if load.compile:
            _turn("compile", denoiser.compile_repeated_blocks)


def _turn(knob: str, turn: Callable[[], Any]) -> Any:
    """What a library will not do with this checkpoint, here, is said of the knob and not of the files. Raises `BadModel`."""
    try:
        return turn()
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        if is_out_of_memory(error) or is_fatal(error):
            raise
        raise BadModel(f"load.{knob} does not work with this checkpoint on this machine", detail=str(error)) from error


def _take_embedding(pipeline: Any, path: Path) -> None:
    """A textual inversion, called by its file's name; those of SDXL have a tensor for each text encoder."""
    state = load_file(path)
    for place in ("", "_2") if set(state) == set(CLIP_OF_XL) else (None,):
        which = {
            name: getattr(pipeline, f"{name}{place}") for name in ("tokenizer", "text_encoder") if place is not None
        }
        tensors = state if place is None else {"emb_params": state["clip_g" if place else "clip_l"]}
        pipeline.load_textual_inversion(tensors, token=path.stem, **which)


def _set_attention(denoiser: Any, attention: str) -> None:
    """diffusers makes the backend that of every other model, too; it is to be this one's alone."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    usual = Registry._active_backend
    try:
        denoiser.set_attention_backend(attention)
    finally:
        Registry.set_active_backend(usual)


def _offloaded(pipeline: Any, device: str) -> Any:
    streams = device != "cpu"  # the next block comes while the one before runs
    pipeline.enable_group_offload(
        torch.device(device), offload_type="block_level", num_blocks_per_group=1, use_stream=streams
    )
    return pipeline


def _quantization(spec: ModelSpec, classes: dict[str, Any]) -> dict[str, Any]:
    """Of the denoisers: they are most of the weights, and text encoders lose more by it."""
    import diffusers
    from diffusers.quantizers import PipelineQuantizationConfig

    config = _config_of(spec.load.quantization, diffusers)
    if config is None:
        return {}
    mapping = {name: config for name in DENOISERS if name in classes}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def chat_quantization(spec: ModelSpec) -> dict[str, Any]:
    import transformers

    config = _config_of(spec.load.quantization, transformers)
    return {} if config is None else {"quantization_config": config}


def _config_of(kind: str | None, library: Any) -> Any:
    """Of diffusers or transformers, which name these classes alike."""
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


def _class(name: str, library: str, cls: str) -> Any:
    """The class of a component. Refuses one that is not a model, scheduler, tokenizer or processor of the library it names."""
    import diffusers
    import transformers

    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    found = getattr(home, cls, None) or _moved(library, cls)
    bases = {base.__name__ for base in found.__mro__} if inspect.isclass(found) else set()
    if not bases.intersection(FAMILIES) or "DiffusionPipeline" in bases:
        raise BadModel(f"component '{name}' names {library}.{cls}, which is no component class")
    return found


def _moved(library: str, cls: str) -> Any:
    """A class of a pipeline that diffusers has put among its deprecated ones, put back where the checkpoint says it is.

    Published checkpoints name the old folder (["wuerstchen", "PaellaVQModel"]), saved ones "diffusers"; the library itself
    looks in vain for both.
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
