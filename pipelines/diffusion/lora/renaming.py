"""Brings the tensors of a LoRA file to the layers of this pipeline, by our own table of names or by diffusers'.

Any thread. diffusers converts the layers' names of other code, some only with one spelling of the halves, some only
without alphas. So the file is offered to it in each spelling, and the one is taken that finds most layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from pipelines.diffusion.lora.layer_names import ALPHA, DOWN, HALVES, UP, LayerNames, split
from pipelines.diffusion.lora.lora_file import BadLora, LoraFile, names, shown
from pipelines.diffusion.lora.original_names import renamed
from pipelines.diffusion.lora.provenance import Traced

State: TypeAlias = dict[str, torch.Tensor]
Parts: TypeAlias = dict[str, torch.Tensor]  # part → tensor, of one layer
OTHER_PARTS = (".weight", ".bias", ".diff", ".diff_b")  # parts that some conversions of diffusers read
Convert: TypeAlias = Callable[[State], tuple[State, Mapping[str, Any]]]  # diffusers' own; also returns alphas by layer


def by_layers_of_the_pipeline(name: str, file: LoraFile, spelled: LayerNames, convert: Convert) -> dict[str, Parts]:
    """COMPONENT.LAYER → parts. Layers that this pipeline does not have keep their names."""
    own = _by_layer(file.tensors, spelled)
    others = [layer for layer, parts in own.items() if layer not in spelled.known and is_whole(parts)]
    if any(layer in spelled.known for layer in own) and not _of_other_code(file) and spelled.speaks_for(others):
        return own
    # One name that is not of a LoRA would make diffusers refuse the whole file.
    tensors = {key: tensor for key, tensor in file.tensors.items() if split(key) or key.endswith(OTHER_PARTS)}
    found, failure = [own], None
    for spelling in (dict, _in_peft_names, _in_kohya_names, lambda tensors: renamed(_in_peft_names(tensors))):
        try:
            converted, alphas = convert(spelling(tensors))
        except Exception as error:  # noqa: BLE001  the library raises many kinds, about names and shapes
            failure = failure or error
            continue
        alpha_tensors = {f"{_layer(key)}.{ALPHA}": torch.tensor(float(alpha)) for key, alpha in alphas.items()}
        found.insert(-1, _by_layer(converted | alpha_tensors, spelled))  # where two find as much, diffusers' is taken
        if _n_known(found[-2], spelled) == sum(map(is_whole, found[-2].values())) > 0:
            break
    best = max(found, key=lambda layers: _n_known(layers, spelled))
    if failure is not None and not _n_known(best, spelled):
        raise BadLora(_why_not(name, failure)) from failure
    return best


def _n_known(layers: Mapping[str, Parts], spelled: LayerNames) -> int:
    return sum(layer in spelled.known and is_whole(parts) for layer, parts in layers.items())


def _in_peft_names(tensors: Mapping[str, torch.Tensor]) -> State:
    return _without_alphas(tensors, {DOWN: DOWN, UP: UP})


def _in_kohya_names(tensors: Mapping[str, torch.Tensor]) -> State:
    return _without_alphas(tensors, {DOWN: "lora_down.weight", UP: "lora_up.weight"})


def _without_alphas(tensors: Mapping[str, torch.Tensor], halves: Mapping[str, str]) -> State:
    """The same file in another spelling, for conversions of diffusers that know one spelling and no alphas."""
    state: State = {}
    for key, tensor in tensors.items():
        parsed = split(key)
        if parsed is None or parsed.part not in halves:
            if parsed is None or parsed.part != ALPHA:
                state[key] = tensor
            continue
        alpha = tensors.get(f"{parsed.layer}.{ALPHA}")
        scaled = tensor * (float(alpha) / tensor.shape[0]) if alpha is not None and parsed.part == DOWN else tensor
        state[f"{parsed.layer}.{halves[parsed.part]}"] = scaled
    return state


def _of_other_code(file: LoraFile) -> bool:
    """Whether halves of layers have names that only diffusers can read, as those of X-Labs."""
    return any(key.endswith(tuple(HALVES)) and split(key) is None for key in file.tensors)


def _by_layer(state: Mapping[str, torch.Tensor], spelled: LayerNames) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for key, tensor in state.items():
        if (parsed := split(key)) is not None:
            found.setdefault(spelled.find(parsed.layer) or parsed.layer, {})[parsed.part] = tensor
    return found


def _layer(alpha: str) -> str:
    """The layer of an alpha in diffusers' own naming, which is sometimes that of a half."""
    name = alpha.removesuffix(f".{ALPHA}")
    parsed = split(name)
    return parsed.layer if parsed else name


def _why_not(name: str, error: Exception) -> str:
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"The LoRA {name} is incomplete: diffusers finds no {shown(error.args[0])} in it."
    if isinstance(error, RuntimeError | AssertionError) and Traced.latest:
        return f"The LoRA {name} does not fit this model: {names(sorted(Traced.latest))} cannot be converted."
    return f"The LoRA {name} does not fit this model: diffusers cannot read the names of its tensors."


def is_whole(parts: Parts) -> bool:
    return {DOWN, UP} <= parts.keys() or any(part.startswith("lokr_") for part in parts)
