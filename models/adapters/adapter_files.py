"""Tells which adapter a folder or a single file is, from its config or from the names of its tensors. Any thread.

`ADAPTER_CLASSES` lists the folders that diffusers saves, `READERS` the kinds of single files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.adapters.controlnet_file import read_controlnet_file
from models.adapters.part_files import read_inversion_file, read_ip_adapter_file, read_vae_file
from models.adapters.single_file_adapter import SingleFileAdapter
from models.adapters.upscaler_file import read_upscaler_file
from models.checkpoint.resident_bytes import ServedAs, folder_bytes
from models.checkpoint.weight_scales import check_is_plain
from models.errors import BadModel, Incomplete
from models.files.ip_adapter_folder import image_encoder_folder, ip_adapter_file
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
VAE_CLASS = re.compile(r"^(Asymmetric)?Autoencoder[A-Z]\w*$")  # as diffusers names them
READERS: tuple[Callable[[Tensors], SingleFileAdapter | None], ...] = (
    read_controlnet_file,
    read_ip_adapter_file,
    read_upscaler_file,
    read_vae_file,
    read_inversion_file,
)


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
    if not isinstance(name, str):
        return None
    return name if is_adapter_class(name) else None


def is_adapter_class(name: str) -> bool:
    return name in ADAPTER_CLASSES or name in NOT_SERVED or VAE_CLASS.match(name) is not None


def check_adapter_class(name: str) -> None:
    """Raises `BadModel` with the reason for a class that is not served."""
    if name in NOT_SERVED:
        raise BadModel(f"is a {name}, which cannot be served: {NOT_SERVED[name]}")


def adapter_files(path: Path, *, may_be_upscaler: bool = False) -> AdapterFiles | None:
    """Returns None for anything that is no adapter.

    may_be_upscaler: a single file that is nothing that is known counts as an upscaler of another architecture.
    Raises `BadModel` with the reason for one that cannot be served, `Incomplete` where files are missing.
    """
    if path.is_dir() and (file := ip_adapter_file(path)) is not None:
        path = file
    if path.is_dir():
        return _of_folder(path)
    if path.suffix != ".safetensors":
        return None
    tensors = tensors_of(path)
    found = next((found for read in READERS if (found := read(tensors)) is not None), None)
    if found is None and may_be_upscaler:
        found = SingleFileAdapter("upscaler", "")
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
    return AdapterFiles(ADAPTER_CLASSES.get(cls, "vae"), cls, read_config(folder / "config.json"))


def adapter_bytes(path: Path, float_bytes: int) -> int:
    """Returns the bytes that the adapter takes on a device."""
    return sum(
        folder_bytes(part, part.name, "", ServedAs(float_bytes))
        if part.is_dir()
        else sum(tensor.elements for tensor in tensors_of(part).values()) * float_bytes
        for part in _parts(path)
    )


def adapter_stamp(path: Path) -> int:
    """Returns when the newest of the files that a loader opens was changed, in ns. Raises OSError when one is gone."""
    files = [
        file
        for part in _parts(path)
        for file in ([part / "config.json", *weight_files(part)] if part.is_dir() else [part])
    ]
    return max(file.stat().st_mtime_ns for file in files)


def _parts(path: Path) -> list[Path]:
    """The folders and files that a loader opens: of an IP-Adapter its file, and the folder of its encoder."""
    file = ip_adapter_file(path)
    if file is None or read_ip_adapter_file(tensors_of(file)) is None:
        return [path]
    encoder = image_encoder_folder(path)
    return [file] if encoder is None else [file, encoder]
