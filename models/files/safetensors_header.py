"""Reads the header of a safetensors file and checks every number in it against the size of the file. Any thread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel, Incomplete
from models.files.file_kind import MAX_HEADER_BYTES, sniff
from models.files.json_files import parse_json
from models.files.regular_file import open_file

MAX_NAME_CHARS = 512
MAX_DIMS = 8  # a video's patch embedding has 5
MAX_TENSORS = 200_000  # of one file; the largest mixtures of experts have 100,000 in all their files
DTYPE_BYTES = {  # dtypes of the safetensors format → bytes per element
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
FLOAT8_DTYPES = frozenset({"F8_E5M2", "F8_E4M3"})
FLOAT_DTYPES = frozenset({"F16", "BF16", "F32", "F64"}) | FLOAT8_DTYPES  # a cast to the serving dtype changes these


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        return self.elements * DTYPE_BYTES[self.dtype]

    def bytes_at(self, float_bytes: int) -> int:
        """Returns the size of the tensor once every float has `float_bytes`; integers keep their size."""
        return self.elements * float_bytes if self.dtype in FLOAT_DTYPES else self.stored_bytes


def read_safetensors_header(path: Path) -> dict[str, Tensor]:
    """Returns tensor name → dtype and shape. Raises `BadModel` unless the tensors tile the file exactly."""
    entries, header_bytes = _read_entries(path)
    entries.pop("__metadata__", None)
    return _check_tiling(entries, data_bytes=path.stat().st_size - 8 - header_bytes, name=path.name)


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """Returns what the author of the file wrote about it."""
    entries, _ = _read_entries(path)
    metadata = entries.get("__metadata__")
    return dict(metadata) if isinstance(metadata, dict) else {}


def _read_entries(path: Path) -> tuple[dict[str, object], int]:
    """Returns the header and its size in bytes."""
    if path.stat().st_size == 0:
        raise Incomplete(f"{path.name} is empty", missing=(f"the content of {path.name}",))
    kind = sniff(path)
    if kind != "safetensors":
        raise BadModel(f"{path.name} is not a safetensors file ({kind} content)", detail=str(path))
    file_bytes = path.stat().st_size
    with open_file(path) as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES or header_bytes > file_bytes - 8:
            raise BadModel(f"{path.name}: a header of {header_bytes} bytes in a file of {file_bytes}", detail=str(path))
        entries = parse_json(file.read(header_bytes), path.name, unique=True)
    if not isinstance(entries, dict):
        raise BadModel(f"{path.name}: the header is not an object", detail=str(path))
    metadata = entries.get("__metadata__")
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not texts:
        raise BadModel(f"{path.name}: its metadata is not an object of texts", detail=str(path))
    return entries, header_bytes


def _check_tiling(entries: Mapping[str, object], *, data_bytes: int, name: str) -> dict[str, Tensor]:
    if len(entries) > MAX_TENSORS:
        raise BadModel(f"{name}: more than {MAX_TENSORS} tensors")
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Tensor] = {}
    for key, entry in entries.items():
        check_tensor_name(key, name)
        tensor, span = _parse_entry(key, entry, name)
        tensors[key] = tensor
        spans.append(span)
    end_of_last = 0
    for begin, end in sorted(spans):
        if begin != end_of_last:
            raise BadModel(f"{name}: tensors overlap or leave a hole at byte {end_of_last}")
        end_of_last = end
    if end_of_last > data_bytes:
        raise Incomplete(
            f"{name} ends early: the header lists {end_of_last} bytes of tensors, the file holds {data_bytes}",
            missing=(f"the end of {name}",),
        )
    if end_of_last != data_bytes:
        raise BadModel(f"{name}: the header lists {end_of_last} bytes of tensors, the file holds {data_bytes}")
    return tensors


def _parse_entry(key: str, entry: object, name: str) -> tuple[Tensor, tuple[int, int]]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            dtype in DTYPE_BYTES and len(shape) <= MAX_DIMS and all(type(size) is int and size >= 0 for size in shape)
        ):
            tensor = Tensor(dtype, tuple(shape))
        case _:
            raise BadModel(f"{name}: the entry of tensor '{key[:80]}' is malformed")
    if begin < 0 or end - begin != tensor.elements * DTYPE_BYTES[dtype]:
        raise BadModel(f"{name}: the bytes of tensor '{key[:80]}' do not match its shape")
    return tensor, (begin, end)


def check_tensor_name(key: str, name: str) -> None:
    """Refuses a name that would reach into Python objects if a library resolved it (`a.__class__.b`, CVE-2025-6107)."""
    if len(key) > MAX_NAME_CHARS:
        raise BadModel(f"{name}: a tensor name of {len(key)} characters")
    if any(part.startswith("__") and part.endswith("__") for part in key.split(".")):
        raise BadModel(f"{name}: a tensor is named after a Python internal")
