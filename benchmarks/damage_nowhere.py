"""Finds parameters that came from nowhere, by their values alone and without the code that is tested.

A sound checkpoint holds random numbers of 24 bits and neither 0 nor 1 (`damage_families.py`). So nearly all values of a
tensor that was read occur in the files, whatever was renamed, cut, joined or transposed on the way, and nearly none of
a tensor that a library initialized or left as it found it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from numpy.typing import NDArray
from safetensors import safe_open

Floats = NDArray[np.float32]
READ_SHARE = 0.9  # of the values of a tensor that was read; its others were rounded or computed


def tensors_in(files: Iterable[Path]) -> dict[str, Floats]:
    """Returns the flat values of the floating-point tensors in the weight files, as far as these can be read."""
    found: dict[str, Floats] = {}
    for path in files:
        try:
            found |= {f"{path.parent.name}/{path.name}: {name}": values for name, values in _tensors_in(path).items()}
        except Exception:  # noqa: BLE001, S112  # a damaged file lends no values
            continue
    return found


def _tensors_in(path: Path) -> dict[str, Floats]:
    if path.suffix == ".gguf":
        return {tensor.name: _flat(torch.from_numpy(np.array(tensor.data))) for tensor in GGUFReader(path).tensors}
    with safe_open(path, "pt") as file:
        return {name: _flat(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # it is no mapping


def _flat(tensor: torch.Tensor) -> Floats:
    return tensor.detach().to(torch.float32).flatten().numpy()


def from_nowhere(modules: Mapping[str, torch.nn.Module], files: Iterable[Path]) -> list[str]:
    """Returns the names of parameters and saved buffers whose values are in no file, and of all without memory."""
    known = _sorted(tensors_in(files).values())
    found = []
    for part, module in modules.items():
        for name, tensor in (*module.state_dict().items(), *_unsaved(module)):
            if tensor.is_meta:
                found.append(f"{part}.{name}")
        for name, tensor in module.state_dict().items():
            if not tensor.is_meta and tensor.is_floating_point() and _share_in(known, tensor) < READ_SHARE:
                found.append(f"{part}.{name}")
    return sorted(set(found))


def unread(modules: Mapping[str, torch.nn.Module], files: Iterable[Path]) -> list[str]:
    """Returns the tensors of the files whose values are in no module."""
    tensors = [t for module in modules.values() for t in module.state_dict().values() if t.is_floating_point()]
    known = _sorted(_flat(tensor) for tensor in tensors if not tensor.is_meta)
    return [name for name, values in tensors_in(files).items() if _share_in(known, torch.from_numpy(values)) < 0.5]


def _unsaved(module: torch.nn.Module) -> list[tuple[str, Any]]:
    return [(name, buffer) for name, buffer in module.named_buffers() if buffer is not None]


def _sorted(values: Iterable[Floats]) -> Floats:
    found = [each[np.isfinite(each)] for each in values]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.float32)


def _share_in(known: Floats, tensor: torch.Tensor) -> float:
    """Returns the share of the tensor's values that are known. Values that are not finite count as known."""
    values = _flat(tensor)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    if not known.size:
        return 0.0
    places = np.minimum(np.searchsorted(known, finite), known.size - 1)
    return 1.0 - float(np.count_nonzero(known[places] != finite)) / values.size
