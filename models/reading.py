"""Gathers models from entries and folders, in order of reading; a later one of the same name takes the earlier one's place. No torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models.checkpoint import is_checkpoint, read_checkpoint
from models.defaults import check_defaults, with_sizes
from models.entries import Entry, read_entries
from models.errors import BadConfig, BadModel, ModelsError, SourceMissing
from models.knobs import check_knobs
from models.preflight import check_path
from models.sources import find, needs_fetching
from models.spec import Loading, ModelSpec

logger = logging.getLogger(__name__)

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Refused:
    """A folder or entry that looks like a model and is none we serve."""

    name: str
    reason: str


class Reader:
    def __init__(self, cache_dir: Path, auto_dtype: Literal["float32", "bfloat16"]) -> None:
        self._cache_dir = cache_dir
        self._auto_dtype = auto_dtype
        self.specs: dict[str, ModelSpec] = {}
        self.refused: list[Refused] = []

    def take_entries(self, toml: Path, who: str) -> None:
        """`who`: what `origins` calls this file."""
        for entry in read_entries(toml) if toml.is_file() else ():
            try:
                self._take_entry(entry, toml.parent, who)
            except (BadModel, SourceMissing) as error:
                self._refuse(entry.name, error)
            except BadConfig as error:
                raise BadConfig(f"{toml}: {error.message}") from error

    def _take_entry(self, entry: Entry, beside: Path, who: str) -> None:
        known = self.specs.pop(entry.name, None)  # popped, so that the entry read last is also the last in order
        if entry.source is None:
            if known is None:
                raise BadModel("its entry has no source, and no model of that name was found")
            spec = self._reread(known, entry)
        else:
            spec = self._of_source(entry, entry.source, beside)
        if entry.type is not None and entry.type != spec.type:
            raise BadConfig(f"model '{entry.name}' is said to be {entry.type}, its checkpoint is {spec.type}")
        spec = with_sizes(entry.over(spec, who), entry, who)
        check_defaults(spec, entry)
        if spec.load.vae is not None:
            spec = replace(spec, vae_path=self._lender("vae", spec.load.vae, beside))
        spec = replace(spec, embedding_paths=tuple(self._lender("embedding", e, beside) for e in spec.load.embeddings))
        on_cpu = spec.device == "cpu" or (spec.device is None and self._auto_dtype == "float32")
        check_knobs(spec, on_cpu=on_cpu)
        self.specs[entry.name] = spec

    def _of_source(self, entry: Entry, source: str, beside: Path) -> ModelSpec:
        path = find(source, beside=beside, cache_dir=self._cache_dir)
        said = Loading(**entry.load)
        base = self._lender("base", said.base, beside) if said.base is not None else None
        if path is not None:
            return self._read(path, entry.name, source, entry.dtype, base)
        if not needs_fetching(source):
            raise BadModel(f"its source '{source}' is not there")
        if entry.type is None:
            raise BadConfig(f"model '{entry.name}' is not downloaded yet, so its entry must say its type")
        return ModelSpec(name=entry.name, type=entry.type, path=None, source=source)

    def _lender(self, knob: str, source: str, beside: Path) -> Path:
        """Where what a knob names lies. Raises `BadModel` when that is nowhere yet."""
        path = find(source, beside=beside, cache_dir=self._cache_dir)
        if path is None:
            raise BadModel(f"its {knob} '{source}' is not downloaded; try: agentname pull {source}")
        check_path(path, weights=False)
        return path

    def _reread(self, known: ModelSpec, entry: Entry) -> ModelSpec:
        """Another dtype means other `weight_bytes`."""
        if known.path is None or entry.dtype in ("auto", known.dtype):
            return known
        other = self._read(known.path, known.name, known.source, entry.dtype, known.base_path)
        return replace(known, weight_bytes=other.weight_bytes)

    def take_folder(self, root: Path) -> None:
        """Every checkpoint right below `root`, or `root` itself."""
        for path in checkpoints_in(root):
            name = slug(path.stem if path.is_file() else path.name)
            try:
                if name in self.specs:
                    raise BadModel("another model has this name; give one of them an entry in models.toml")
                self.specs[name] = self._read(path, name, str(path), "auto", None)
            except BadModel as error:
                self._refuse(name, error)

    def _read(self, path: Path, name: str, source: str, dtype: str, base: Path | None) -> ModelSpec:
        float_bytes = FLOAT_BYTES[self._auto_dtype if dtype == "auto" else dtype]
        try:
            return read_checkpoint(
                path, name=name, source=source, float_bytes=float_bytes, base=base, cache_dir=self._cache_dir
            )
        except OSError as error:
            raise BadModel(f"its files cannot be read ({error.strerror})", detail=str(error)) from error

    def _refuse(self, name: str, error: ModelsError) -> None:
        self.refused.append(Refused(name, error.message))
        logger.warning("model refused", extra={"model": name, "reason": error.message, "detail": error.detail})


def checkpoints_in(root: Path) -> Iterator[Path]:
    """The folder itself if it is a checkpoint, else the checkpoints right below it, by name: folders and single files."""
    if not root.is_dir():
        return
    if is_checkpoint(root):
        yield root
        return
    yield from (path for path in sorted(root.iterdir()) if not path.name.startswith(".") and is_checkpoint(path))


def slug(folder_name: str) -> str:
    """A folder's name as a model's: lower case, [a-z0-9._-], at most 64 characters."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder_name.lower()).lstrip("._-")[:64] or "model"
