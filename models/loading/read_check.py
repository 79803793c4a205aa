"""Refuses a module unless each of its tensors came from the files, by name and shape. Device thread only.

The libraries fill what a file lacks with fresh numbers, and only log it. Stock loaders do mean some tensors to be
absent or unread: those that they name themselves (tied weights, `_keys_to_ignore_…`), and parts of a larger model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from models.errors import BadModel

NAMES_SHOWN = 4
# Constants that older versions of the libraries saved, and that are computed today.
COMPUTED = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|num_batches_tracked)$")


@dataclass(frozen=True, slots=True)
class Reads:
    """What a loader did not read, or had no place for."""

    missing: Collection[str] = ()
    unexpected: Collection[str] = ()
    mismatched: Collection[
        tuple[str, Sequence[int], Sequence[int]]
    ] = ()  # name, shape in the file, shape of the module


def check_reads(component: str, module: torch.nn.Module, reads: Reads) -> list[str]:
    """Returns sentences about tensors that were left out by intention.

    Raises `BadModel` that names the tensors which the module lacks, has in another shape, or has no place for.
    """
    for name, in_file, in_module in sorted(reads.mismatched):
        raise BadModel(other_shape(component, name, in_file, in_module))
    if missing := sorted(name for name in reads.missing if not COMPUTED.search(name)):
        raise BadModel(f"{component} lacks {_tensors(missing)} that its config needs", detail=_rest(missing))
    unexpected = sorted(name for name in reads.unexpected if not COMPUTED.search(name))
    if homeless := [name for name in unexpected if not _is_of_another_part(name, module)]:
        raise BadModel(f"{component} has {_tensors(homeless)} that its config has no place for", detail=_rest(homeless))
    return [f"{component} has {_tensors(unexpected)} that its pipeline does not read."] if unexpected else []


def other_shape(component: str, name: str, in_file: Sequence[int], in_module: Sequence[int]) -> str:
    return f"{component}: {name} is {_shape(in_file)} in the file, by its config it is {_shape(in_module)}"


def check_is_filled(component: str, module: torch.nn.Module) -> None:
    """Raises `BadModel` for a tensor without memory: a loader made it and nothing was read into it."""
    empty = sorted(name for name, tensor in _tensors_of(module) if tensor.is_meta)
    if empty:
        raise BadModel(f"{component} lacks {_tensors(empty)} that its config needs", detail=_rest(empty))


@contextmanager
def transformers_checked(component: str) -> Iterator[list[str]]:
    """Checks what transformers reads within this context, before it makes room for what it did not read.

    Yields the list that gets the sentences of `check_reads`. A config may ask for far more than the files hold, and
    transformers 5.23 fills all of that with fresh numbers before it reports anything: in memory that may not exist. So
    this replaces the method that does so, `_finalize_model_loading`, by one that raises `BadModel` first.
    """
    from transformers import PreTrainedModel

    notes: list[str] = []
    finish = PreTrainedModel._finalize_model_loading

    def check_and_finish(model: Any, load_config: Any, info: Any) -> Any:
        quantizer = load_config.hf_quantizer
        if quantizer is not None and not getattr(quantizer.quantization_config, "dequantize", False):
            # Quantized layers have other names and shapes than their files.
            check_reads(component, model, Reads(missing=_missing_in(model, info.missing_keys)))
            return finish(model, load_config, info)
        check_reads(component, model, Reads(_missing_in(model, info.missing_keys), (), info.mismatched_keys))
        finished = finish(model, load_config, info)  # leaves out of its report what the class names as unread
        notes.extend(check_reads(component, model, Reads(unexpected=finished.unexpected_keys)))
        return finished

    PreTrainedModel._finalize_model_loading = staticmethod(check_and_finish)
    try:
        yield notes
    finally:
        PreTrainedModel._finalize_model_loading = staticmethod(finish)


def _missing_in(model: Any, missing: Collection[str]) -> set[str]:
    """Returns the names that no tied tensor stands in for, and that the class does not mean to be absent."""
    stood_in = set()
    for target, source in model.all_tied_weights_keys.items():
        stood_in |= {target} if source not in missing else {source} if target not in missing else set()
    patterns = model._keys_to_ignore_on_load_missing or ()
    return {name for name in missing if name not in stood_in and not any(re.search(p, name) for p in patterns)}


@contextmanager
def single_file_checked(component: str) -> Iterator[list[str]]:
    """Checks what diffusers reads from a single file within this context; its single-file loaders report nothing.

    Yields the list that gets the sentences of `check_reads`. It replaces the one function with which diffusers 0.42
    fills the modules of a single file, which raises `BadModel` then.
    """
    from diffusers.loaders import single_file_model, single_file_utils

    notes: list[str] = []
    fill = single_file_model.load_model_dict_into_meta

    def fill_and_check(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        mismatched: list[tuple[str, Sequence[int], Sequence[int]]] = []
        if kwargs.get("hf_quantizer") is None:  # a packed tensor has another shape than the module
            shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
            mismatched = [
                (name, tensor.shape, shapes[name])
                for name, tensor in state.items()
                if name in shapes and shapes[name] != tensor.shape
            ]
        check_reads(component, module, Reads(mismatched=mismatched))
        result = fill(module, state, *args, **kwargs)
        notes.extend(check_reads(component, module, _reads_of(module, state)))
        return result

    loaders = (single_file_model, single_file_utils)
    for loader in loaders:
        loader.load_model_dict_into_meta = fill_and_check
    try:
        yield notes
    finally:
        for loader in loaders:
            loader.load_model_dict_into_meta = fill


def _reads_of(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> Reads:
    """Compares the names in a module with those it was filled from."""
    tensors = dict(_tensors_of(module))
    kept = module.state_dict(keep_vars=True).keys()
    filled = {id(tensors[name]) for name in state if name in tensors}
    tied: Mapping[str, str] = getattr(module, "all_tied_weights_keys", {})
    ignored = getattr(type(module), "_keys_to_ignore_on_load_unexpected", None) or ()
    return Reads(
        missing=[name for name in kept if id(tensors[name]) not in filled and tied.get(name) not in state],
        unexpected=[
            name for name in state if name not in kept and not any(re.search(pattern, name) for pattern in ignored)
        ],
    )


def _tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _is_of_another_part(name: str, module: torch.nn.Module) -> bool:
    """Returns whether a tensor belongs to a part that the module does not have at all: the head of a language model.

    A tensor of a numbered layer, or of an existing layer, is no such part: there the config and the file disagree.
    """
    *path, _ = name.split(".")
    for depth, step in enumerate(path):
        child = module._modules.get(step)
        if child is None:
            in_layers = isinstance(module, torch.nn.ModuleList | torch.nn.Sequential | torch.nn.ModuleDict)
            return not in_layers and not any(passed.isdigit() for passed in path[:depth])
        module = child
    return not path  # a tensor beside all modules, such as a marker


def _tensors(names: Sequence[str]) -> str:
    """Names the first few: "2 tensors (a, b)"."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    shown = ", ".join(name[:120] for name in names[:NAMES_SHOWN])
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{more})"


def _rest(names: Sequence[str]) -> str:
    """Names all tensors for the detail, where a message shows only the first few."""
    return ", ".join(names) if len(names) > NAMES_SHOWN else ""


def _shape(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes)) or "a single number"
