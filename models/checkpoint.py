"""A checkpoint folder → what can be told of it: type, sizes, frames rule, context length, bytes. Configs only; no torch.

Everything here is a reading of the checkpoint's own files and of its pipeline class's source; where both are silent the
fallback is named at its place. models.toml may say otherwise for any of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

from models.chat_template import check_template, check_templates
from models.errors import BadModel
from models.files import weight_bytes, weight_files
from models.fingerprint import fingerprint
from models.gguf_header import read_gguf_header
from models.pipeline_source import FRAME_COUNTS, PipelineSource, pipeline_source
from models.preflight import check_folder, check_path, components, read_config
from models.schedulers import compatible_schedulers
from models.single_file import chat_context, find_base, lent, weight_bytes_of_file
from models.spec import Defaults, Limits, ModelSpec
from models.weight_identity import identity, is_decoder

ASPECT_RATIOS = {"16:9": (16, 9), "1:1": (1, 1), "9:16": (9, 16)}
NATIVE_TOLERANCE = 0.12  # a native size this near an aspect ratio is that aspect ratio's size: 832x480 is "16:9"
FALLBACK_SIZE = {"image": (512, 512), "video": (832, 480)}  # width, height where nothing in the checkpoint says
FALLBACK_FPS = 8  # the examples of AnimateDiff and Latte, which write GIFs
FALLBACK_VAE_FACTOR = 8  # Stable Diffusion's, and by far the most common

Config = Mapping[str, object]


def read_checkpoint(
    path: Path, *, name: str, source: str, float_bytes: int, base: Path | None = None, cache_dir: Path | None = None
) -> ModelSpec:
    """A folder's, or a single file's, which takes its configs from `base` or from what is known of its family.

    Raises `BadModel` when it is not a checkpoint we serve, with the reason.
    """
    check_path(path)
    if path.is_dir() and (path / "model_index.json").is_file():
        spec = _diffusion(path, name=name, source=source, weights=lambda parts: weight_bytes(parts, float_bytes))
        shareable = {
            part: (identity(path / part), weight_bytes([path / part], float_bytes))
            for part in components(read_config(path / "model_index.json"))
            if is_decoder(path / part) and weight_files(path / part)
        }
        spec = replace(spec, shareable=shareable)
    elif path.is_dir():
        spec = _chat(path, name=name, source=source, float_bytes=float_bytes)
    elif path.suffix == ".gguf" and (context := chat_context(path)) is not None:
        check_template(str(read_gguf_header(path).metadata.get("tokenizer.chat_template", "")))
        spec = _chat_spec(name, path, source, weight_bytes_of_file(path, float_bytes), context or None)
    else:
        base = find_base(path, base, cache_dir)
        check_folder(base, weights=False)
        spec = _diffusion(
            base,
            name=name,
            source=source,
            weights=lambda parts: (
                weight_bytes_of_file(path, float_bytes) + weight_bytes(lent(path, parts), float_bytes)
            ),
        )
        spec = replace(spec, path=path, base_path=base)
    return replace(spec, fingerprint=fingerprint(path), origins=_origins(spec))


def is_checkpoint(path: Path) -> bool:
    """Whether a folder or file looks like a model at all: by its name, nothing opened."""
    if path.is_file():
        return path.suffix in (".safetensors", ".gguf")
    return (path / "model_index.json").is_file() or (
        (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    )


def _origins(spec: ModelSpec) -> dict[str, str]:
    """What is not our own default was read from the checkpoint or, where it is silent, from its pipeline class."""
    found = {f"sizes.{ratio}": "checkpoint" for ratio in spec.sizes}
    for section, plain in (("defaults", Defaults()), ("limits", Limits())):
        said = getattr(spec, section)
        for field in fields(plain):
            if getattr(said, field.name) != getattr(plain, field.name):
                found[f"{section}.{field.name}"] = "checkpoint"
    return found


# Chat


def _chat(folder: Path, *, name: str, source: str, float_bytes: int) -> ModelSpec:
    if not is_decoder(folder):
        raise BadModel("is neither a diffusers pipeline (model_index.json) nor a language model (…ForCausalLM)")
    check_templates(folder)
    context = _int(read_config(folder / "config.json"), "max_position_embeddings") or None
    n_bytes = weight_bytes([folder], float_bytes)
    return replace(_chat_spec(name, folder, source, n_bytes, context), shareable={"model": (identity(folder), n_bytes)})


def _chat_spec(name: str, path: Path, source: str, n_bytes: int, context: int | None) -> ModelSpec:
    return ModelSpec(
        name=name,
        type="chat",
        path=path,
        source=source,
        weight_bytes=n_bytes,
        max_running=32,  # rows of one decode step; pipelines.chat.lane's own default
        limits=Limits(context_tokens=context),
    )


# Image and video


def _diffusion(folder: Path, *, name: str, source: str, weights: Callable[[list[Path]], int]) -> ModelSpec:
    model_index = read_config(folder / "model_index.json")
    class_name = str(model_index["_class_name"])
    pipeline = pipeline_source(class_name)
    if pipeline is None:
        raise BadModel(f"needs the pipeline class {class_name[:80]}, which the installed diffusers does not have")
    kind = pipeline.text_to
    if kind is None:
        wants = (
            f"needs {', '.join(pipeline.needs)} besides a prompt" if pipeline.needs else "makes neither image nor video"
        )
        raise BadModel(f"{class_name} {wants}")
    parts = [folder / part for part in components(model_index) if (folder / part).is_dir()]
    configs = {part.name: read_config(part / "config.json") for part in parts if (part / "config.json").is_file()}
    width, height = _native_size(pipeline, configs, kind)
    multiple = math.gcd(_size_multiple(pipeline, configs), width, height)  # its own default size is always allowed
    frames_multiple, frames_remainder, num_frames = _frames(pipeline, configs, kind)
    steps, guidance = (_number(pipeline.defaults.get(key)) for key in ("num_inference_steps", "guidance_scale"))
    return ModelSpec(
        name=name,
        type=kind,
        path=folder,
        source=source,
        pipeline=class_name,
        schedulers=compatible_schedulers(model_index, _scheduler_config(folder)),
        takes_loras=pipeline.takes_loras,
        arguments=pipeline.arguments,
        max_clip_skip=_clip_layers(configs) - 1 if "clip_skip" in pipeline.arguments else 0,
        weight_bytes=weights(parts),
        defaults=Defaults(
            steps=round(steps) if steps is not None else None,
            guidance_scale=guidance,
            width=width,
            height=height,
            num_frames=num_frames,
            fps=_fps(pipeline) if kind == "video" else None,
        ),
        limits=Limits(size_multiple=multiple, frames_multiple=frames_multiple, frames_remainder=frames_remainder),
        sizes=sizes_by_aspect((width, height), multiple),
    )


def _scheduler_config(folder: Path) -> Config:
    path = folder / "scheduler" / "scheduler_config.json"
    return read_config(path) if path.is_file() else {}


def _clip_layers(configs: Mapping[str, Config]) -> int:
    """Of the text encoder with the fewest; 1 where none says."""
    encoders = (configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs)
    return min((layers for encoder in encoders if (layers := _int(encoder, "num_hidden_layers"))), default=1)


def sizes_by_aspect(native: tuple[int, int], multiple: int) -> dict[str, tuple[int, int]]:
    """For each aspect ratio the (width, height) of about the native pixel count; the native size itself where it is that ratio."""
    sizes: dict[str, tuple[int, int]] = {}
    for aspect, (across, down) in ASPECT_RATIOS.items():
        ratio = across / down
        for width, height in (native, native[::-1]):
            if abs(width / height / ratio - 1) <= NATIVE_TOLERANCE and width % multiple == height % multiple == 0:
                sizes[aspect] = (width, height)
                break
        else:
            across_px = math.sqrt(native[0] * native[1] * ratio)
            sizes[aspect] = (_round_to(across_px, multiple), _round_to(across_px / ratio, multiple))
    return sizes


def _round_to(value: float, multiple: int) -> int:
    return max(1, round(value / multiple)) * multiple


def _size_multiple(pipeline: PipelineSource, configs: Mapping[str, Config]) -> int:
    """Pixels of the VAE's cell times the cells of a denoiser's patch, or more where the class checks for a larger number."""
    factor = _vae_factor(configs)
    return math.lcm(factor * _patch(configs), factor * pipeline.cells_multiple, pipeline.size_multiple)


def _vae(configs: Mapping[str, Config]) -> Config:
    return next((configs[name] for name in ("vae", "movq", "vqvae", "vqgan") if name in configs), {})


def _vae_factor(configs: Mapping[str, Config]) -> int:
    vae = _vae(configs)
    if not vae:
        return 1 if "unet" in configs or "transformer" in configs else FALLBACK_VAE_FACTOR  # pixels, no latents
    for key in ("scale_factor_spatial", "spatial_compression_ratio", "downsampling_ratio"):
        if factor := _int(vae, key):
            return factor
    if scaling := _list(vae, "spatio_temporal_scaling"):  # LTX: patches, then a halving for each True
        return (_int(vae, "patch_size") or 1) << sum(map(bool, scaling))
    if stages := _list(vae, "block_out_channels") or _list(vae, "encoder_block_out_channels"):
        return 1 << (len(stages) - 1)
    if halvings := _list(vae, "temperal_downsample"):  # Wan, Qwen-Image
        return 1 << len(halvings)
    return FALLBACK_VAE_FACTOR


def _temporal_factor(configs: Mapping[str, Config]) -> int:
    """Frames of the clip for one latent frame."""
    vae = _vae(configs)
    for key in ("scale_factor_temporal", "temporal_compression_ratio"):
        if factor := _int(vae, key):
            return factor
    if scaling := _list(vae, "spatio_temporal_scaling"):  # LTX
        return (_int(vae, "patch_size_t") or 1) << sum(map(bool, scaling))
    if expansions := _list(vae, "temporal_expansions"):  # Mochi
        return math.prod(n for n in expansions if type(n) is int)
    return 1 << sum(map(bool, _list(vae, "temperal_downsample")))  # Wan before it wrote scale_factor_temporal


def _denoiser(configs: Mapping[str, Config]) -> Config:
    return next((configs[name] for name in ("transformer", "unet", "prior", "decoder") if name in configs), {})


def _patch(configs: Mapping[str, Config]) -> int:
    """Latent cells per side of one token. Flux and its kin say patch_size 1 but pack 2x2 cells into the channels."""
    denoiser = _denoiser(configs)
    size = denoiser.get("patch_size", denoiser.get("all_patch_size", 1))
    patch = max((n for n in size if type(n) is int), default=1) if isinstance(size, list) else size
    patch = patch if type(patch) is int and patch > 0 else 1
    latent_channels = _int(_vae(configs), "latent_channels") or _int(_vae(configs), "z_dim")
    packed = _int(denoiser, "in_channels") / latent_channels if latent_channels and "transformer" in configs else 1
    return max(patch, 2) if packed == 4 else patch


def _native_size(
    pipeline: PipelineSource, configs: Mapping[str, Config], kind: Literal["image", "video"]
) -> tuple[int, int]:
    """(width, height) of a call that names none: as the class's `__call__` works it out."""
    for said in (pipeline.defaults, pipeline.constants):
        for prefix in ("", "default_"):
            width, height = said.get(f"{prefix}width"), said.get(f"{prefix}height")
            if type(width) is int and type(height) is int:
                return width, height
    denoiser, factor = _denoiser(configs), _vae_factor(configs)
    if pipeline.says_size and (side := pipeline.constants.get("default_sample_size", 0)):
        return side * factor, side * factor
    if _int(denoiser, "sample_width") and _int(denoiser, "sample_height"):  # CogVideoX, Allegro: latent cells
        return _int(denoiser, "sample_width") * factor, _int(denoiser, "sample_height") * factor
    match denoiser.get("sample_size"):
        case int(side) if side > 0:
            return side * factor, side * factor
        case [int(height), int(width)]:
            return width * factor, height * factor
    side = pipeline.constants.get("default_sample_size", 0)
    return (side * factor, side * factor) if side else FALLBACK_SIZE[kind]


def _frames(
    pipeline: PipelineSource, configs: Mapping[str, Config], kind: Literal["image", "video"]
) -> tuple[int, int, int | None]:
    """(multiple, remainder, default): a clip has multiple * k + remainder frames. Pictures: (1, 0, None)."""
    if kind == "image":
        return 1, 0, None
    multiple = _temporal_factor(configs)
    said = next((n for key in (*FRAME_COUNTS, "frames") if (n := _int(pipeline.defaults, key)) > 1), 0)
    in_latents = _int(_denoiser(configs), "sample_frames")
    if not said and in_latents:  # CogVideoX gives frames, Allegro latent frames
        said = in_latents if in_latents % multiple == 1 else in_latents * multiple
    # A causal VAE keeps the first frame whole, so 4k + 1; one whose class defaults to a multiple is not causal.
    remainder = 0 if multiple == 1 or (said and said % multiple == 0) else 1
    default = said or 8 * multiple + remainder
    return multiple, remainder, default - (default - remainder) % multiple


def _fps(pipeline: PipelineSource) -> int:
    for key in ("frame_rate", "fps"):
        rate = _number(pipeline.defaults.get(key))
        if rate is not None and rate >= 1:
            return round(rate)
    return pipeline.example_fps or FALLBACK_FPS


def _int(config: Config, key: str) -> int:
    """A positive integer of a config, 0 when it says none."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0


def _list(config: Config, key: str) -> list[object]:
    value = config.get(key)
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
