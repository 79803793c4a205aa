"""Translates the names of a LoRA file's tensors into the names that this pipeline's layers have. Pure functions.

A name is a layer and a part of it: `unet.mid_block.to_q` + `lora_A.weight`. Programs write the same layer as
`lora_unet_mid_block_to_q`, `diffusion_model.mid_block.to_q`, `base_model.model.mid_block.to_q` or without a prefix, and
the same part as `lora_down.weight`, `lora.down.weight` or, with the name of an adapter, `lora_A.default.weight`. Names
of the layers in other code (`double_blocks.0.img_attn.qkv`) are left to diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

DOWN, UP, BIAS, MAGNITUDE, ALPHA = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "alpha"
DORA_SCALE = "dora_scale"  # the magnitude in files of kohya's trainer and LyCORIS
PARTS = {  # endings → parts in peft's names
    ".lora_A.weight": DOWN, ".lora_down.weight": DOWN, ".lora.down.weight": DOWN,
    ".lora_B.weight": UP, ".lora_up.weight": UP, ".lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN, ".lora_linear_layer.up.weight": UP,
    ".lora_B.bias": BIAS, ".lora_up.bias": BIAS,
    ".lora_magnitude_vector": MAGNITUDE, ".lora_magnitude_vector.weight": MAGNITUDE, ".dora_scale": DORA_SCALE,
    ".alpha": ALPHA,
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
}  # fmt: skip
# Files of diffusers before 0.18 name the projections of attention after the processor that held them.
OLD_PROJECTION = re.compile(r"(.+)\.to_(q|k|v|out)_lora\.(down|up)\.weight")
HALVES = {".lora_A.weight": ".lora_B.weight", ".lora_down.weight": ".lora_up.weight", ".down.weight": ".up.weight"}
HALVES |= {other: half for half, other in HALVES.items()}

NAMED = re.compile(
    r"(.+\.lora_(?:A|B|down|up|embedding_A|embedding_B|magnitude_vector))\.(?!(?:weight|bias)$)([^.]+)(\.weight|\.bias)?"
)
PEFT_PREFIX = "base_model.model."
NUMBER = re.compile(r"\d+")
TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoders?(_\d)?\.")
# Components → how files of kohya's trainer, OneTrainer, LyCORIS and ComfyUI begin the names of their layers.
UNDERSCORED = {
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
UNDERSCORED_DENOISER = ("lora_unet_", "lora_transformer_", "lora_prior_", "lycoris_", "lycoris_unet_")
DOTTED = {
    "text_encoder": ("text_encoders.clip_l.transformer.",),
    "text_encoder_2": ("text_encoders.clip_g.transformer.",),
    "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
}
DOTTED_DENOISER = ("diffusion_model.", "model.diffusion_model.", "")


class Split(NamedTuple):
    layer: str
    part: str


def split(name: str) -> Split | None:
    """None: not a part of a LoRA."""
    name = name.replace(".processor.", ".")
    if old := OLD_PROJECTION.fullmatch(name):
        return Split(_old_projection(old[1], old[2]), DOWN if old[3] == "down" else UP)
    for ending, part in PARTS.items():
        if name.endswith(ending):
            return Split(name.removesuffix(ending), part)
    return None


def _old_projection(attention: str, projection: str) -> str:
    if attention.startswith("text_encoder"):
        return f"{attention}.{projection}_proj"
    return f"{attention}.to_out.0" if projection == "out" else f"{attention}.to_{projection}"


def without_adapter_name(name: str) -> tuple[str, str | None]:
    """The name as `save_pretrained` of peft writes it, and the name of the adapter that was in it."""
    if (match := NAMED.fullmatch(name)) is None:
        return name, None
    return f"{match[1]}{match[3] or ''}", match[2]


def missing_half(names: Iterable[str]) -> tuple[str, str] | None:
    """A tensor whose other half is not among `names`, and the name of that half."""
    found = set(names)
    for name in found:
        ending = next((ending for ending in HALVES if name.endswith(ending)), None)
        if ending is not None and (other := name.removesuffix(ending) + HALVES[ending]) not in found:
            return name, other
    return None


class LayerNames:
    """The layers of one pipeline, found by any of the names that programs give them."""

    def __init__(self, layers: Mapping[str, Iterable[str]]) -> None:
        """layers: component → names of its layers; the denoiser comes first."""
        self._names: dict[str, str] = {}  # spelling → COMPONENT.LAYER
        denoiser = next(iter(layers), "")
        for component, names in layers.items():
            is_denoiser = component == denoiser
            dotted = (f"{component}.", *(DOTTED_DENOISER if is_denoiser else DOTTED.get(component, ())))
            underscored = UNDERSCORED_DENOISER if is_denoiser else UNDERSCORED.get(component, ())
            for name in names:
                spellings = [name]
                if component.startswith("text_encoder"):  # newer CLIP classes have lost this level
                    plain = name.removeprefix("text_model.")
                    spellings = [plain, f"text_model.{plain}"]
                for spelling in spellings:
                    for prefix in dotted:
                        self._names.setdefault(prefix + spelling, f"{component}.{name}")
                    for prefix in underscored:
                        self._names.setdefault(prefix + spelling.replace(".", "_"), f"{component}.{name}")
        self._patterns = {NUMBER.sub("#", spelling) for spelling in self._names}
        self.known = frozenset(self._names.values())

    def find(self, layer: str) -> str | None:
        """COMPONENT.LAYER, None when this pipeline has no such layer."""
        layer = layer.replace(".processor.", ".")
        return self._names.get(layer) or self._names.get(layer.removeprefix(PEFT_PREFIX))

    def speaks_for(self, layers: Iterable[str]) -> bool:
        """Whether each name is in one of the spellings known here, whatever its numbers of blocks."""
        return all(
            TEXT_ENCODER.match(layer) or NUMBER.sub("#", layer.removeprefix(PEFT_PREFIX)) in self._patterns
            for layer in layers
        )

    def spellings(self) -> Mapping[str, str]:
        """Spelling → COMPONENT.LAYER."""
        return self._names
