"""Opens the components of a pipeline folder one by one, each by its own class. Device thread only.

Each is opened as the stock pipeline would open it. One by one, because only then do the libraries tell which tensors
they did not find, and because an error can name the component.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.errors import BadModel
from models.files.weight_files import variant, weight_files
from models.loading.read_check import Reads, check_is_filled, check_reads, other_shape, transformers_checked
from models.required_packages import how_to_install, named_in
from pipelines.device import is_fatal, is_out_of_memory

OFFLINE = {"local_files_only": True}
# diffusers 0.42 names a tensor of another shape only in the text of its error.
OTHER_SHAPE = re.compile(r"because (\S+) expected shape torch\.Size\(\[(.*?)\]\), but got torch\.Size\(\[(.*?)\]\)")


def open_components(
    folder: Path, classes: Mapping[str, Any], dtype: torch.dtype, quantization: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the components by name, and sentences about what was left out of their files.

    classes: of the components to open. quantization: configs of the components that are quantized.
    Raises `BadModel` that names the component.
    """
    opened: dict[str, Any] = {}
    notes: list[str] = []
    for name in classes:
        if not (folder / name).is_dir():
            raise BadModel(f"{name} is missing: it is listed, and has no folder")
    # The largest first: while a component is read, its file takes memory beside everything that is open already.
    for name in sorted(classes, key=lambda name: -sum(file.stat().st_size for file in weight_files(folder / name))):
        opened[name], found = open_component(name, classes[name], folder / name, dtype, quantization.get(name))
        notes += found
    return opened, notes


def open_component(
    name: str, cls: Any, folder: Path, dtype: torch.dtype, quantization: Any = None
) -> tuple[Any, list[str]]:
    """Opens one component. Returns it with sentences about what was left out. Raises `BadModel` that names it."""
    with errors_named(name, cls, quantized=quantization is not None):
        if not issubclass(cls, torch.nn.Module):
            return cls.from_pretrained(folder, **OFFLINE), []
        return _open_module(name, cls, folder, dtype, quantization)


@contextmanager
def errors_named(name: str, cls: Any, *, quantized: bool = False) -> Iterator[None]:
    """Turns what the libraries raise about the files of a component into `BadModel` with its name.

    Errors of the device pass through.
    """
    try:
        yield
    except Exception as error:  # the libraries raise many kinds, about configs, shapes, vocabularies and packages
        if isinstance(error, BadModel) or is_out_of_memory(error) or is_fatal(error):
            raise
        detail = f"{type(error).__name__}: {error}"
        message = f"{name} cannot be opened as {cls.__name__}: its files do not fit it, or are damaged"
        if quantized:
            message = "load.quantization does not work with this checkpoint on this machine"
        elif (found := OTHER_SHAPE.search(str(error))) is not None:
            in_module, in_file = (tuple(map(int, filter(None, found[i].split(", ")))) for i in (2, 3))
            message = other_shape(name, found[1], in_file, in_module)
        elif isinstance(error, ImportError) and (package := named_in(str(error))) is not None:
            message = f"{name} needs {how_to_install([package])}"
        raise BadModel(message, detail=detail) from error


def _open_module(
    name: str, cls: Any, folder: Path, dtype: torch.dtype, quantization: Any
) -> tuple[torch.nn.Module, list[str]]:
    from diffusers import ModelMixin

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **OFFLINE}
    options |= {"quantization_config": quantization} if quantization is not None else {}
    if (found := variant([folder])) is not None:
        options["variant"] = found
    if issubclass(cls, ModelMixin):
        module, notes = _open_diffusers_module(name, cls, folder, options)
    else:
        with transformers_checked(name) as notes:
            module = cls.from_pretrained(folder, ignore_mismatched_sizes=True, **options)
    check_is_filled(name, module)
    return module, notes


def _open_diffusers_module(
    name: str, cls: Any, folder: Path, options: Mapping[str, Any]
) -> tuple[torch.nn.Module, list[str]]:
    # With little use of memory, what the files lack stays without memory.
    module, info = cls.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=True, **options)
    parameters = dict(module.named_parameters())
    # It judges by the index; a shard may have more than its index says.
    missing = [tensor for tensor in info["missing_keys"] if tensor not in parameters or parameters[tensor].is_meta]
    quantized = getattr(module, "hf_quantizer", None) is not None  # other names and shapes than the files
    return module, check_reads(name, module, Reads(missing, () if quantized else info["unexpected_keys"]))
