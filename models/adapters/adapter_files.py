"""Tells which adapter a folder or a single file is, from its config or from the names of its tensors. Any thread.

`ADAPTER_CLASSES` lists the folders that diffusers saves, `READERS` the kinds of single files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.adapters.controlnet_file import read_controlnet_file
from models.adapters.single_file_adapter import SingleFileAdapter
from models.checkpoint.resident_bytes import ServedAs, folder_bytes
from models.checkpoint.weight_scales import check_is_plain
from models.errors import BadModel, Incomplete
from models.files.json_files import read_config
from models.files.weight_files import find_weights, weight_files
from models.files.weight_header import Tensors, tensors_of
from pipelines.diffusion_interface import AdapterKind

ADAPTER_CLASSES: Mapping[str, AdapterKind] = {
    "ControlNetModel": "controlnet",
    "ControlNetUnionModel": "controlnet",
    "SD3ControlNetModel": "controlnet",
    "FluxControlNetModel": "controlnet",
    "QwenImageControlNetModel": "controlnet",
    "ZImageControlNetModel": "controlnet",
    "HunyuanDiT2DControlNetModel": "controlnet",
    "SanaControlNetModel": "controlnet",
    "SparseControlNetModel": "controlnet",
    "T2IAdapter": "t2i_adapter",
}
NOT_SERVED = {
    "ControlNetXSAdapter": "its layers are merged into those of the U-Net, which other requests use",
    "UNetControlNetXSModel": "its layers are merged with those of a U-Net, which other requests use",
    "MultiControlNetModel": "it holds several ControlNets: add each of them by itself",
    "MultiAdapter": "it holds several T2I-Adapters: add each of them by itself",
    "CosmosControlNetModel": "no pipeline that is served takes it",
}
READERS: tuple[Callable[[Tensors], SingleFileAdapter | None], ...] = (read_controlnet_file,)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    kind: AdapterKind
    cls: str  # of its module in diffusers
    config: Mapping[str, object] = field(default_factory=dict)  # of that class; of a file, as its tensors tell


def adapter_class(folder: Path) -> str | None:
    """Returns the class of a folder that is an adapter, served or not; None for anything else."""
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        return None
    name = read_config(folder / "config.json").get("_class_name")
    return name if isinstance(name, str) and (name in ADAPTER_CLASSES or name in NOT_SERVED) else None


def check_adapter_class(name: str) -> None:
    """Raises `BadModel` with the reason for a class that is not served."""
    if name in NOT_SERVED:
        raise BadModel(f"is a {name}, which cannot be served: {NOT_SERVED[name]}")


def adapter_files(path: Path) -> AdapterFiles | None:
    """Returns None for anything that is no adapter.

    Raises `BadModel` with the reason for one that cannot be served, `Incomplete` where files are missing.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.suffix != ".safetensors":
        return None
    tensors = tensors_of(path)
    found = next((found for read in READERS if (found := read(tensors)) is not None), None)
    if found is None:
        return None
    check_is_plain("the adapter", tensors)
    return AdapterFiles(found.kind, found.cls, found.config)


def _of_folder(folder: Path) -> AdapterFiles | None:
    cls = adapter_class(folder)
    if cls is None:
        return None
    check_adapter_class(cls)
    if find_weights(folder) is None:
        raise Incomplete("has not all of its files: the weights", missing=("the weights",))
    for file in weight_files(folder):
        check_is_plain("the adapter", tensors_of(file))
    return AdapterFiles(ADAPTER_CLASSES[cls], cls, read_config(folder / "config.json"))


def adapter_bytes(path: Path, float_bytes: int) -> int:
    """Returns the bytes that the adapter takes on a device."""
    if path.is_dir():
        return folder_bytes(path, path.name, "", ServedAs(float_bytes))
    return sum(tensor.elements for tensor in tensors_of(path).values()) * float_bytes


def adapter_stamp(path: Path) -> int:
    """Returns when the newest of the files that a loader opens was changed, in ns. Raises OSError when one is gone."""
    files = [path / "config.json", *weight_files(path)] if path.is_dir() else [path]
    return max(file.stat().st_mtime_ns for file in files)
