"""Turns a checkpoint folder or file into a `ModelSpec`: its type, sizes, limits and bytes. No torch. Any thread.

Everything comes from the checkpoint's own files and from the source of its pipeline class; each fallback for a value
that neither has is a named constant. models.toml may override any of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

from models.adapters.adapter_files import adapter_class, adapter_files, check_adapter_class
from models.adapters.read_adapter import read_adapter
from models.checkpoint.chat_checkpoint import check_chat_configs, read_chat_folder, read_chat_gguf
from models.checkpoint.component_configs import Config, Configs, number, positive_int
from models.checkpoint.denoiser_input import check_input_channels
from models.checkpoint.embedding_checkpoint import (
    check_embedding_configs,
    is_embedding,
    read_embedding_folder,
    scorer_reason,
)
from models.checkpoint.guidance import guidance_argument
from models.checkpoint.image_size import native_size, size_multiple, sizes_by_aspect
from models.checkpoint.noise_schedulers import compatible_schedulers, scheduler_config
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.pipeline_tasks import inpainting_class, tasks_of
from models.checkpoint.read_single_file import read_single_file
from models.checkpoint.resident_bytes import ServedAs, component_bytes, resident_bytes
from models.checkpoint.single_file import chat_context, find_base
from models.checkpoint.video_frames import frame_rule, frames_per_second
from models.checkpoint.weight_scales import check_is_plain
from models.errors import BadModel
from models.files.ip_adapter_folder import ip_adapter_file
from models.files.json_files import read_config
from models.files.leftovers import files_in, is_leftover
from models.files.model_index import components
from models.files.safety import check_folder, check_path
from models.files.weight_files import weight_files
from models.files.weight_header import tensors_of
from models.fingerprint import fingerprint
from models.spec import Defaults, Limits, ModelSpec, ModelType
from models.vision_language import is_chat_model
from models.weight_identity import is_decoder, weight_identity


def is_checkpoint(path: Path) -> bool:
    """Returns whether a folder or file looks like a model by its names alone; nothing is opened."""
    if is_leftover(path.name):
        return False
    # A link whose file is not there (yet) counts by its name: such a model is listed as incomplete.
    if not path.is_dir():
        return path.suffix in (".safetensors", ".gguf")
    weights = (name for pattern in ("*.safetensors", "*.safetensors.index*.json") for name in files_in(path, pattern))
    if (path / "model_index.json").is_file() or ip_adapter_file(path) is not None:
        return True
    return (path / "config.json").is_file() and any(weights)


def type_of(path: Path) -> ModelType | None:
    """Returns what a folder makes by its index alone, for one that cannot be served. None when that does not tell."""
    try:
        if (path / "model_index.json").is_file():
            pipeline = pipeline_source(str(read_config(path / "model_index.json").get("_class_name")))
            return None if pipeline is None else pipeline.makes
        if path.is_dir() and is_embedding(path):
            return "embedding"
        if path.is_dir() and (adapter_class(path) is not None or ip_adapter_file(path) is not None):
            return "adapter"
        return "chat" if is_chat_model(path) else None
    except (BadModel, OSError):
        return None


def read_checkpoint(
    path: Path,
    *,
    name: str,
    source: str,
    float_bytes: int,
    base: Path | None = None,
    cache_dir: Path | None = None,
    wanted: ModelType | None = None,
) -> ModelSpec:
    """Reads a folder, or a single file with the configs of `base` or of its known family.

    wanted: "embedding" has a language model read as an embedding model, where its files could mean either; "adapter"
        has a single file of an unknown architecture read as an upscaler.

    Raises `BadModel` with the reason when the path is not a checkpoint that can be served.
    """
    check_path(path)
    if (adapter := adapter_files(path, may_be_upscaler=wanted == "adapter")) is not None:
        spec = read_adapter(path, adapter, name=name, source=source, float_bytes=float_bytes)
    elif path.is_dir() and (path / "model_index.json").is_file():
        spec = _pipeline_folder(path, name=name, source=source, float_bytes=float_bytes)
    elif path.is_dir() and (is_embedding(path) or (wanted == "embedding" and is_decoder(path))):
        spec = read_embedding_folder(path, name=name, source=source, float_bytes=float_bytes)
    elif path.is_dir():
        _refuse_component(path)
        if (reason := scorer_reason(path)) is not None:
            raise BadModel(reason)
        spec = read_chat_folder(path, name=name, source=source, float_bytes=float_bytes)
    elif path.suffix == ".gguf" and (context := chat_context(path)) is not None:
        spec = read_chat_gguf(path, context or None, name=name, source=source, float_bytes=float_bytes)
    else:
        base = find_base(path, base, cache_dir)
        spec = _pipeline_file(path, base, name=name, source=source, float_bytes=float_bytes)
    return replace(spec, fingerprint=fingerprint(path), origins={**_origins(spec), **spec.origins})


def check_configs(folder: Path) -> None:
    """Raises `BadModel` for a folder that could not be served whatever its weights hold; they may be missing."""
    check_folder(folder, weights=False)
    if (folder / "model_index.json").is_file():
        _pipeline_spec(folder, "", "", scheduler={})
    elif (cls := adapter_class(folder)) is not None:
        check_adapter_class(cls)
    elif is_embedding(folder):
        check_embedding_configs(folder)
    elif (reason := scorer_reason(folder)) is not None:
        raise BadModel(reason)
    else:
        check_chat_configs(folder)


def _refuse_component(folder: Path) -> None:
    config = read_config(folder / "config.json")
    if "_class_name" in config:
        raise BadModel(f"is one component ({str(config['_class_name'])[:80]}) of a pipeline, and no model of its own")


def _origins(spec: ModelSpec) -> dict[str, str]:
    """Marks every value that differs from our own default as read from the checkpoint or its pipeline class."""
    found = {f"sizes.{ratio}": "checkpoint" for ratio in spec.sizes}
    for section, plain in (("defaults", Defaults()), ("limits", Limits())):
        values = getattr(spec, section)
        for field in fields(plain):
            if getattr(values, field.name) != getattr(plain, field.name):
                found[f"{section}.{field.name}"] = "checkpoint"
    return found


# Image and video


def _pipeline_folder(folder: Path, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    spec = _pipeline_spec(folder, name, source, scheduler={})
    listed = components(read_config(folder / "model_index.json"))
    configs = _component_configs(folder, listed)
    check_input_channels(str(spec.pipeline), {part: cls for part, (_, cls) in listed.items()}, configs)
    for part in listed:
        if "quantization_config" not in configs.get(part, {}):  # else the library knows how its weights are packed
            for file in weight_files(folder / part):
                check_is_plain(part, tensors_of(file))
    n_bytes = component_bytes(folder, None, ServedAs(float_bytes))
    shareable = {
        part: (weight_identity(folder / part), n_bytes[part])
        for part in listed
        if n_bytes[part] and is_decoder(folder / part)
    }
    return replace(spec, weight_bytes=sum(n_bytes.values()), shareable=shareable)


def _pipeline_file(file: Path, base: Path, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    check_folder(base, weights=False)
    said = read_single_file(file, base)
    spec = _pipeline_spec(base, name, source, scheduler=said.scheduler, unet_channels=said.input_channels)
    n_bytes = resident_bytes(file, base, ServedAs(float_bytes))
    return replace(spec, path=file, base_path=base, weight_bytes=n_bytes, notes=(*said.notes, *spec.notes))


def _pipeline_spec(folder: Path, name: str, source: str, scheduler: Config, unet_channels: int = 0) -> ModelSpec:
    """`scheduler`: settings of the noise scheduler that replace those of the folder.

    unet_channels: input channels of a U-Net that replaces that of the folder, 0 for the folder's own.
    """
    model_index = read_config(folder / "model_index.json")
    class_name = str(model_index["_class_name"])
    pipeline = pipeline_source(class_name)
    if pipeline is None:
        raise BadModel(f"needs the pipeline class {class_name[:80]}, which the installed diffusers does not have")
    kind = pipeline.makes
    if kind is None:
        if pipeline.output is None:
            raise BadModel(f"{class_name} makes neither image nor video")
        raise BadModel(f"{class_name} {pipeline.unserved or 'takes no prompt'}")
    listed = components(model_index)
    configs = _component_configs(folder, listed)
    if unet_channels and "unet" in configs:
        configs["unet"] = {**configs["unet"], "in_channels": unet_channels}
    configs["scheduler"] = {**scheduler_config(folder), **scheduler}
    notes: tuple[str, ...] = ()
    if inpainting := inpainting_class(class_name, {part: cls for part, (_, cls) in listed.items()}, configs):
        class_name = inpainting
        pipeline = pipeline_source(class_name) or pipeline
        notes = (f"Served as {class_name}: its U-Net takes a picture and a mask.",)
    width, height = native_size(pipeline, configs, kind)
    multiple = math.gcd(size_multiple(pipeline, configs), width, height)  # allows the native size in any case
    frames_multiple, frames_remainder, num_frames = frame_rule(pipeline, configs, kind)
    guides = guidance_argument(pipeline, configs)
    steps, guidance = (number(pipeline.defaults.get(key)) for key in ("num_inference_steps", guides))
    return ModelSpec(
        name=name,
        type=kind,
        path=folder,
        source=source,
        pipeline=class_name,
        schedulers=compatible_schedulers(model_index, configs["scheduler"]),
        scheduler_config=scheduler,
        takes_loras=pipeline.takes_loras,
        arguments=pipeline.arguments,
        tasks=tasks_of(class_name, listed, configs, model_index),
        guidance_argument=guides,
        max_clip_skip=_clip_layers(configs) - 1 if "clip_skip" in pipeline.arguments else 0,
        defaults=Defaults(
            steps=round(steps) if steps is not None else None,
            guidance_scale=guidance,
            width=width,
            height=height,
            num_frames=num_frames,
            fps=frames_per_second(pipeline) if kind == "video" else None,
        ),
        limits=Limits(size_multiple=multiple, frames_multiple=frames_multiple, frames_remainder=frames_remainder),
        sizes=sizes_by_aspect((width, height), multiple),
        notes=notes,
    )


def _component_configs(folder: Path, names: Iterable[str]) -> dict[str, Config]:
    paths = {name: folder / name / "config.json" for name in names}
    return {name: read_config(path) for name, path in paths.items() if path.is_file()}


def _clip_layers(configs: Configs) -> int:
    """Returns the layers of the text encoder that has the fewest, 1 when no config names them."""
    encoders = (configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs)
    return min((n for encoder in encoders if (n := positive_int(encoder, "num_hidden_layers"))), default=1)
