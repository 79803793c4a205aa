"""Finds the weight files that a library opens in a folder. Any thread.

Where a folder has a whole file and shards, the libraries differ: transformers takes the whole file, diffusers the
index, even one that names shards which are not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel, Incomplete
from models.files.json_files import MAX_INDEX_BYTES, read_config, read_json
from models.files.leftovers import files_in, is_unfinished

TRANSFORMERS, DIFFUSERS = "model", "diffusion_pytorch_model"  # the names that the libraries give weight files
SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a folder: one whole file, or the shards of an index."""

    file: Path  # the whole file or the index
    variant: str | None  # "fp16" of model.fp16.safetensors

    @property
    def is_sharded(self) -> bool:
        return self.file.suffix == ".json"

    def files(self) -> list[Path]:
        """Raises `Incomplete` for a shard or file that is not there, `BadModel` for a malformed index."""
        if self.is_sharded:
            return _shards(self.file)
        if is_unfinished(self.file):
            raise Incomplete(f"{self.file.name} is still being downloaded", missing=(self.file.name,))
        return [self.file]


def find_weights(folder: Path) -> Weights | None:
    """Returns what from_pretrained opens: the plain weights, or the first variant when there are no plain ones."""
    config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = config.get("transformers_weights")
    if isinstance(named, str) and "_class_name" not in config:
        return Weights(_inside(folder, named, "config.json"), None) if (folder / named).is_file() else None
    for stem in _stems(config):
        found = [*_candidates(folder, stem)]
        if found:
            return min(found, key=lambda weights: (weights.variant is not None, weights.variant or ""))
    return None


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files that from_pretrained opens, an empty list when the folder has none.

    Raises `Incomplete` for a shard that is not there.
    """
    weights = find_weights(folder)
    return [] if weights is None else weights.files()


def _stems(config: dict[str, object]) -> tuple[str, ...]:
    if "_class_name" in config:
        return (DIFFUSERS,)
    if "architectures" in config or "model_type" in config:
        return (TRANSFORMERS,)
    return TRANSFORMERS, DIFFUSERS


def _candidates(folder: Path, stem: str) -> Iterator[Weights]:
    """Yields whole files and indexes; of two with the same variant, the library opens the first."""
    whole = re.compile(rf"{stem}(?:\.(?P<variant>[^.]+))?\.safetensors")
    # The second place of the variant is that of older versions of diffusers.
    index = re.compile(rf"{stem}\.safetensors(?:\.(?P<old>[^.]+))?\.index(?:\.(?P<variant>[^.]+))?\.json")
    found = {path.name: path for path in files_in(folder, f"{stem}.*") if path.is_file()}
    for pattern in (whole, index) if stem == TRANSFORMERS else (index, whole):
        for name, path in found.items():
            if (match := pattern.fullmatch(name)) and not SHARD.search(name):
                yield Weights(path, match["variant"] or match.groupdict().get("old"))


def _shards(index: Path) -> list[Path]:
    parsed = read_json(index, MAX_INDEX_BYTES, "an index")
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadModel(f"{index.name} has no weight_map of names")
    shards = [_inside(index.parent, shard, index.name) for shard in sorted(set(weight_map.values()))]
    missing = [shard for shard in shards if not shard.is_file() or is_unfinished(shard)]
    if missing:
        whole = index.with_name(f"{index.name.split('.')[0]}.safetensors")
        hint = f"; {whole.name} is not read while {index.name} is beside it" if whole.is_file() else ""
        more = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise Incomplete(
            f"{missing[0].name}{more} is missing (named by {index.name}){hint}",
            missing=tuple(shard.name for shard in missing),
            detail=str(index.parent),
        )
    if not isinstance(parsed, dict) or not isinstance(parsed.get("metadata"), dict):
        raise BadModel(f"{index.name} has no metadata, which the libraries read")
    return shards


def _inside(folder: Path, name: str, named_by: str) -> Path:
    if name != os.path.basename(name) or "\\" in name or not name.endswith((".safetensors", ".index.json")):
        raise BadModel(f"{named_by} points outside its folder", detail=f"{folder}: {name!r}")
    return folder / name


def variant(folders: Iterable[Path]) -> str | None:
    """Returns "fp16" when a folder has its weights only as model.fp16.safetensors, None when all have plain names."""
    found = (weights.variant for folder in folders if (weights := find_weights(folder)) is not None)
    return min((name for name in found if name is not None), default=None)
