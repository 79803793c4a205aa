"""Finds the weight files that a library opens in a folder, and adds up their bytes from the headers. Any thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from models.errors import BadModel
from models.files.json_files import parse_json
from models.files.safetensors_header import read_safetensors_header

WEIGHT_STEMS = ("model", "diffusion_pytorch_model")  # the names that transformers and diffusers give weight files


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files that from_pretrained opens: the shards of an index, or the one plain file.

    Empty when the folder has none. A folder that has only a variant ("model.fp16.safetensors") gives that file: see
    `variant`.
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
    """Returns "fp16" when a folder has its weights only as model.fp16.safetensors, None when all have plain names."""
    names = [path.name for folder in folders for path in weight_files(folder)]
    found = {name.split(".")[1].split("-")[0] for name in names if name.count(".") > 1}
    return min(found, default=None)


def weight_bytes(folders: Iterable[Path], float_bytes: int) -> int:
    """Returns the bytes of the weights in these folders once every float has `float_bytes`."""
    files = (path for folder in folders for path in weight_files(folder))
    return sum(tensor.bytes_at(float_bytes) for path in files for tensor in read_safetensors_header(path).values())
