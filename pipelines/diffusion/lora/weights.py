"""Turns the tensors of a LoRA file into those that this pipeline's layers take, or refuses them by name. Any thread.

Three steps: rename (by our own table, or by diffusers' conversion where the file has the layers' names of other code),
multiply alpha into the weights, and check each tensor against the layer that it is for. diffusers would put alphas that
differ by layer into patterns that match no layer of a U-Net, and would enlarge a layer that is too small for a LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.diffusion.lora.layer_names import ALPHA, BIAS, DORA_SCALE, DOWN, MAGNITUDE, UP, LayerNames, split
from pipelines.diffusion.lora.layers import Layers, Shapes, shapes_of
from pipelines.diffusion.lora.lora_file import BadLora, LoraFile, names, shown
from pipelines.diffusion.lora.provenance import plain, sources_of
from pipelines.diffusion.lora.renaming import Convert, Parts, State, by_layers_of_the_pipeline, is_whole
from pipelines.quantized.eight_bit_linear import EightBitLinear

FOR_TEXT_ENCODERS = {
    DOWN: "lora_linear_layer.down.weight",
    UP: "lora_linear_layer.up.weight",
    BIAS: "lora_linear_layer.up.bias",
    MAGNITUDE: f"{MAGNITUDE}.weight",
}


@dataclass(frozen=True, slots=True)
class LoraWeights:
    layers: dict[str, Parts]  # COMPONENT.LAYER → its parts, ready for peft
    warnings: tuple[str, ...]

    def tensors(self) -> State:
        return {f"{layer}.{part}": tensor for layer, parts in self.layers.items() for part, tensor in parts.items()}

    def for_diffusers(self) -> State:
        """In the naming that diffusers expects of each component: of text encoders it takes its own alone."""
        return {
            f"{layer}.{FOR_TEXT_ENCODERS.get(part, part) if layer.startswith('text_encoder') else part}": tensor
            for layer, parts in self.layers.items()
            for part, tensor in parts.items()
        }


def fit(name: str, file: LoraFile, layers: Layers, convert: Convert) -> LoraWeights:
    """convert: diffusers' conversion of names, which returns alphas by layer besides. Raises `BadLora`."""
    spelled = LayerNames(layers)
    modules = {f"{component}.{layer}": module for component, found in layers.items() for layer, module in found.items()}
    by_layer = by_layers_of_the_pipeline(name, file, spelled, convert)
    known = {layer: parts for layer, parts in by_layer.items() if layer in modules and is_whole(parts)}
    missing = sorted(layer for layer, parts in by_layer.items() if layer not in modules and is_whole(parts))
    if not known:
        raise BadLora(f"The LoRA {name} does not fit this model: it is for none of its layers.")
    for layer, parts in known.items():
        _multiply_by_alpha(layer, parts, file.settings)
        if isinstance(modules[layer], EightBitLinear) and not parts.keys().isdisjoint((MAGNITUDE, DORA_SCALE)):
            raise BadLora(
                f"The LoRA {name} is a DoRA, which scales the layers' own weights: it cannot be worn while "
                f"load.quantization is {modules[layer].kind}."
            )
        shapes = shapes_of(modules[layer])
        if shapes is not None and DOWN in parts:
            _check_shapes(name, layer, parts, shapes)
    for component in layers:
        _complete(
            name, component, {layer: parts for layer, parts in known.items() if layer.startswith(f"{component}.")}
        )
    unread = _unread(file, [tensor for parts in by_layer.values() if is_whole(parts) for tensor in parts.values()])
    warnings = []
    if missing:
        warnings.append(
            f"The LoRA {name}: {len(missing)} of its {len(missing) + len(known)} layers are not in this model and were "
            f"left out: {names(missing)}."
        )
    if unread:
        warnings.append(
            f"The LoRA {name}: {len(unread)} of its tensors cannot be used and were left out: {names(unread)}."
        )
    if file.without_alpha:
        warnings.append(
            f"The LoRA {name} has no alpha for {len(file.without_alpha)} of its layers, which are used unscaled: "
            f"{names(file.without_alpha)}."
        )
    plain_layers = {layer: {part: plain(tensor) for part, tensor in parts.items()} for layer, parts in known.items()}
    return LoraWeights(plain_layers, tuple(warnings))


def _multiply_by_alpha(layer: str, parts: Parts, settings: Mapping[str, Any]) -> None:
    """Afterwards the product of the halves is the difference of the weights, and nothing is left to be scaled."""
    alpha = parts.pop(ALPHA, None)
    if DOWN not in parts:
        _multiply_lokr(parts, alpha)
        return
    rank = parts[DOWN].shape[0]
    scale = float(alpha) / rank if alpha is not None else _scale_by_settings(layer, rank, settings)
    if scale != 1:
        for part in (DOWN, BIAS):  # peft scales the bias of `lora_B` as well
            if part in parts:
                parts[part] = (parts[part].float() * scale).to(parts[part].dtype)


def _multiply_lokr(parts: Parts, alpha: torch.Tensor | None) -> None:
    """LyCORIS ignores alpha where no factor has low rank."""
    ranks = [parts[part].shape[0] for part in ("lokr_w2_b", "lokr_w1_b") if part in parts]
    first = "lokr_w1" if "lokr_w1" in parts else "lokr_w1_a"
    if alpha is not None and ranks and first in parts:
        parts[first] = parts[first] * (float(alpha) / ranks[0])


def _scale_by_settings(layer: str, rank: int, settings: Mapping[str, Any]) -> float:
    component, _, inner = layer.partition(".")
    found = {
        key: settings.get(f"{component}.{key}", settings.get(key))
        for key in ("lora_alpha", "alpha_pattern", "use_rslora")
    }
    alpha, patterns = found["lora_alpha"], found["alpha_pattern"]
    for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
        ending = pattern.removeprefix("^")
        if inner == ending or (pattern == ending and inner.endswith(f".{ending}")):
            alpha = value
    if not isinstance(alpha, int | float):
        return 1.0
    return float(alpha / rank**0.5 if found["use_rslora"] is True else alpha / rank)


def _check_shapes(name: str, layer: str, parts: Parts, shapes: Shapes) -> None:
    rank = parts[DOWN].shape[0]
    needed = {
        DOWN: (rank, *shapes.down),
        UP: (shapes.n_outputs, rank, *shapes.up),
        BIAS: (shapes.n_outputs,),
        MAGNITUDE: (1, shapes.n_outputs, *shapes.up) if shapes.up else (shapes.n_outputs,),
    }
    if DORA_SCALE in parts:
        if parts[DORA_SCALE].shape[0] == parts[DORA_SCALE].numel() == shapes.n_outputs:
            parts[MAGNITUDE] = parts.pop(DORA_SCALE)
        else:
            del parts[DORA_SCALE]  # by inputs, as older versions of LyCORIS trained it: peft has no such thing
    for part in list(parts):
        tensor, shape = parts[part], needed[part]
        if _without_ones(tuple(tensor.shape)) != _without_ones(shape):
            origin = names(sorted(sources_of(tensor))) or f"{layer}.{part}"
            raise BadLora(
                f"The LoRA {name} does not fit this model: {origin} has the shape {tuple(tensor.shape)}, and "
                f"{shown(layer)} needs {tuple(shape)}."
            )
        # A linear layer in one program is a convolution of 1 × 1 in another.
        parts[part] = tensor.reshape(shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _complete(name: str, component: str, layers: dict[str, Parts]) -> None:
    """peft gives every layer of a component a bias or a magnitude when one has it. A bias may be zero."""
    if any(BIAS in parts for parts in layers.values()):
        for parts in layers.values():
            if BIAS not in parts:
                parts[BIAS] = torch.zeros(parts[UP].shape[0], dtype=parts[UP].dtype)
    without = [layer for layer, parts in layers.items() if MAGNITUDE not in parts]
    if 0 < len(without) < len(layers):
        raise BadLora(
            f"The LoRA {name} is incomplete: it has DoRA's magnitudes for some layers of {component}, but not for "
            f"{names(without)}."
        )


def _unread(file: LoraFile, used: list[torch.Tensor]) -> list[str]:
    """Tensors of the file that nothing was computed from. Zeros and scales of layers that are used do not matter."""
    sources = frozenset[str]().union(*(sources_of(tensor) for tensor in used))
    stems = {parsed.layer for source in sources if (parsed := split(source))}
    return sorted(
        source
        for tensor in file.tensors.values()
        for source in sources_of(tensor) - sources
        if not (source.endswith(f".{ALPHA}") and source.removesuffix(f".{ALPHA}") in stems)
        if plain(tensor).any()
    )
