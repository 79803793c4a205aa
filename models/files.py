"""What a weight file is and how large, told from its first bytes. Opens nothing that could run code; no torch.

Names lie: a pickle may be called model.safetensors. So the content decides, and every number in a header is checked
against the size of the file before it is believed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from models.errors import BadModel

FileKind: TypeAlias = Literal["safetensors", "gguf", "pickle", "zip", "unknown"]

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
MAX_NAME_CHARS = 512
DTYPE_BYTES = {  # of the safetensors format; bytes per element
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
WEIGHT_STEMS = ("model", "diffusion_pytorch_model")  # the names transformers and diffusers give their weight files
FLOAT_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})  # what a cast to the serving dtype changes


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def sniff(path: Path) -> FileKind:
    """The kind of a weight file by its first bytes; "unknown" when it is none of these."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"PK"):
        return "zip"  # what torch.save writes: a zip around a pickle
    # 8 bytes of header length, then JSON; before the pickle test, because a length may begin with 0x80
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return "safetensors"
    if head.startswith(b"\x80") or head[:1] in (b"(", b"c", b"]", b"}"):
        return "pickle"  # protocol 2 and later name themselves; 0 and 1 begin with an opcode
    return "unknown"


def read_safetensors_header(path: Path) -> dict[str, Tensor]:
    """Names, dtypes and shapes of a safetensors file. Raises `BadModel` unless the tensors tile the file exactly."""
    kind = sniff(path)
    if kind != "safetensors":
        raise BadModel(f"{path.name} is not a safetensors file ({kind} content)", detail=str(path))
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES or header_bytes > file_bytes - 8:
            raise BadModel(f"{path.name}: a header of {header_bytes} bytes in a file of {file_bytes}", detail=str(path))
        entries = parse_json(file.read(header_bytes), path.name)
    if not isinstance(entries, dict):
        raise BadModel(f"{path.name}: the header is not an object", detail=str(path))
    entries.pop("__metadata__", None)
    return _check_tiling(entries, data_bytes=file_bytes - 8 - header_bytes, name=path.name)


def _check_tiling(entries: Mapping[str, object], *, data_bytes: int, name: str) -> dict[str, Tensor]:
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
    if end_of_last != data_bytes:
        raise BadModel(f"{name}: the header speaks of {end_of_last} bytes of tensors, the file holds {data_bytes}")
    return tensors


def _parse_entry(key: str, entry: object, name: str) -> tuple[Tensor, tuple[int, int]]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            dtype in DTYPE_BYTES and all(type(size) is int and size >= 0 for size in shape)
        ):
            tensor = Tensor(dtype, tuple(shape))
        case _:
            raise BadModel(f"{name}: the entry of tensor '{key[:80]}' is malformed")
    if begin < 0 or end - begin != tensor.elements * DTYPE_BYTES[dtype]:
        raise BadModel(f"{name}: tensor '{key[:80]}' does not have the size its shape says")
    return tensor, (begin, end)


def check_tensor_name(key: str, name: str) -> None:
    """Refuse names that would reach into Python objects if anybody walked them (`a.__class__.b`, CVE-2025-6107)."""
    if len(key) > MAX_NAME_CHARS:
        raise BadModel(f"{name}: a tensor name of {len(key)} characters")
    if any(part.startswith("__") and part.endswith("__") for part in key.split(".")):
        raise BadModel(f"{name}: a tensor is named after a Python internal")


def parse_json(text: bytes, name: str) -> object:
    """`json.loads` that refuses duplicate keys (two readers could see two files) and turns every failure into `BadModel`."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadModel(f"{name}: the same key twice in one object")
        return found

    try:
        parsed: object = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadModel(f"{name} is not valid JSON") from error
    return parsed


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that from_pretrained opens in this folder: an index's shards, or the one plain file.

    Empty when there are none. With only a variant there ("model.fp16.safetensors"), that one: see `variant`.
    """
    for stem in WEIGHT_STEMS:
        for index in (
            folder / f"{stem}.safetensors.index.json",
            *sorted(folder.glob(f"{stem}.safetensors.index.*.json")),
        ):
            if index.is_file():
                return _shards(index)
        for single in (folder / f"{stem}.safetensors", *sorted(folder.glob(f"{stem}.*.safetensors"))):
            if single.is_file():
                return [single]
    return []


def _shards(index: Path) -> list[Path]:
    parsed = parse_json(index.read_bytes(), index.name)
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadModel(f"{index.name} has no weight_map of names")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if shard != os.path.basename(shard) or "\\" in shard or not shard.endswith(".safetensors"):
            raise BadModel(f"{index.name} points outside its folder", detail=f"{index}: {shard!r}")
        if not (index.parent / shard).is_file():
            raise BadModel(f"{shard} is missing (named by {index.name})", detail=str(index.parent))
    return [index.parent / shard for shard in shards]


def variant(folders: Iterable[Path]) -> str | None:
    """ "fp16" when some folder has its weights only as model.fp16.safetensors; None when plain names are all there."""
    names = [path.name for folder in folders for path in weight_files(folder)]
    found = {name.split(".")[1].split("-")[0] for name in names if name.count(".") > 1}
    return min(found, default=None)


def weight_bytes(folders: Iterable[Path], float_bytes: int) -> int:
    """Bytes of the weights in these folders once every float is `float_bytes` wide."""
    total = 0
    for path in (path for folder in folders for path in weight_files(folder)):
        for tensor in read_safetensors_header(path).values():
            total += tensor.elements * (float_bytes if tensor.dtype in FLOAT_DTYPES else DTYPE_BYTES[tensor.dtype])
    return total
