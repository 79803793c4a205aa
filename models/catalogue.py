"""Which models there are. Data only, no torch, made once at start and read from any thread afterwards.

Three places, later ones over earlier ones: models/builtin/models.toml, every checkpoint folder found in the models
folders, <data_dir>/models.toml. A broken folder is left out with its reason; a broken models.toml ends the start.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models.checkpoint import is_checkpoint, read_checkpoint
from models.entries import Entry, read_entries
from models.errors import BadConfig, BadModel, UnknownModel, nearest
from models.sources import find, needs_fetching
from models.spec import ModelSpec, ModelType

logger = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent / "builtin"
FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Refused:
    """A folder or entry that looks like a model and is none we serve."""

    name: str
    reason: str


class Catalogue:
    def __init__(
        self,
        specs: Iterable[ModelSpec],
        *,
        refused: Sequence[Refused] = (),
        defaults: Mapping[ModelType, str | None] | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._defaults = defaults or {}
        self.refused = tuple(refused)
        for kind, name in self._defaults.items():
            if name is not None and self.get(name).type != kind:
                raise BadConfig(f"the default {kind} model '{name}' makes {self.get(name).type}")

    @classmethod
    def open(
        cls,
        *,
        data_dir: Path,
        cache_dir: Path,
        models_dirs: Sequence[Path] = (),
        auto_dtype: Literal["float32", "bfloat16"] = "float32",
        defaults: Mapping[ModelType, str | None] | None = None,
        builtin: Path = BUILTIN,
    ) -> Catalogue:
        """Read all three places. `auto_dtype` is what "auto" means on the device; it decides `weight_bytes`.

        Raises `BadConfig` for a models.toml with anything unknown in it, `UnknownModel` for a default that is no model.
        """
        reader = _Reader(cache_dir, auto_dtype)
        reader.take_entries(builtin / "models.toml")
        for folder in (data_dir / "models", *models_dirs):
            reader.take_folders(folder)
        reader.take_entries(data_dir / "models.toml")
        return cls(reader.specs.values(), refused=reader.refused, defaults=defaults)

    def get(self, name: str) -> ModelSpec:
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownModel(f"There is no model of that name.{nearest(name, self._specs, 3)}") from None

    def names(self) -> list[str]:
        return sorted(self._specs)

    def specs(self) -> list[ModelSpec]:
        return [self._specs[name] for name in self.names()]

    def default_for(self, kind: ModelType) -> str | None:
        """The setting's choice; else the entry that says `default`, a user's before ours; else the first of that type."""
        if (chosen := self._defaults.get(kind)) is not None:
            return chosen
        of_kind = [spec for spec in self._specs.values() if spec.type == kind]
        said = [spec for spec in of_kind if spec.default]
        return said[-1].name if said else min((spec.name for spec in of_kind), default=None)


class _Reader:
    """Gathers specs in order of reading; a later one of the same name takes the earlier one's place."""

    def __init__(self, cache_dir: Path, auto_dtype: Literal["float32", "bfloat16"]) -> None:
        self._cache_dir = cache_dir
        self._auto_dtype = auto_dtype
        self.specs: dict[str, ModelSpec] = {}
        self.refused: list[Refused] = []

    def take_entries(self, toml: Path) -> None:
        for entry in read_entries(toml) if toml.is_file() else ():
            try:
                self._take_entry(entry, toml.parent)
            except BadModel as error:
                self._refuse(entry.name, error)
            except BadConfig as error:
                raise BadConfig(f"{toml}: {error.message}") from error

    def _take_entry(self, entry: Entry, beside: Path) -> None:
        known = self.specs.pop(entry.name, None)  # popped, so that the entry read last is also the last in order
        if entry.source is None:
            if known is None:
                raise BadConfig(f"model '{entry.name}' has no source, and no model of that name was found")
            self.specs[entry.name] = entry.over(self._reread(known, entry))
            return
        folder = find(entry.source, beside=beside, cache_dir=self._cache_dir)
        if folder is not None:
            spec = self._read(folder, entry.name, entry.source, entry.dtype)
        elif not needs_fetching(entry.source):
            raise BadConfig(f"model '{entry.name}': its source '{entry.source}' is not there")
        elif entry.type is None:
            raise BadConfig(f"model '{entry.name}' is not downloaded yet, so its entry must say its type")
        else:
            spec = ModelSpec(name=entry.name, type=entry.type, path=None, source=entry.source)
        if entry.type is not None and entry.type != spec.type:
            raise BadConfig(f"model '{entry.name}' is said to be {entry.type}, its checkpoint is {spec.type}")
        self.specs[entry.name] = entry.over(spec)

    def _reread(self, known: ModelSpec, entry: Entry) -> ModelSpec:
        """Another dtype means other `weight_bytes`."""
        if known.path is None or entry.dtype in ("auto", known.dtype):
            return known
        width = self._read(known.path, known.name, known.source, entry.dtype)
        return replace(known, weight_bytes=width.weight_bytes)

    def take_folders(self, root: Path) -> None:
        for folder in _checkpoints_in(root):
            name = slug(folder.name)
            try:
                if name in self.specs:
                    raise BadModel("another model has this name; give one of them an entry in models.toml")
                self.specs[name] = self._read(folder, name, str(folder), "auto")
            except BadModel as error:
                self._refuse(name, error)

    def _read(self, folder: Path, name: str, source: str, dtype: str) -> ModelSpec:
        float_bytes = FLOAT_BYTES[self._auto_dtype if dtype == "auto" else dtype]
        try:
            return read_checkpoint(folder, name=name, source=source, float_bytes=float_bytes)
        except OSError as error:
            raise BadModel(f"its files cannot be read ({error.strerror})", detail=str(error)) from error

    def _refuse(self, name: str, error: BadModel) -> None:
        self.refused.append(Refused(name, error.message))
        logger.warning("model refused", extra={"model": name, "reason": error.message, "detail": error.detail})


def _checkpoints_in(root: Path) -> Iterator[Path]:
    """The folder itself if it is a checkpoint, else the checkpoints right below it, by name."""
    if not root.is_dir():
        return
    if is_checkpoint(root):
        yield root
        return
    yield from (path for path in sorted(root.iterdir()) if path.is_dir() and is_checkpoint(path))


def slug(folder_name: str) -> str:
    """A folder's name as a model's: lower case, [a-z0-9._-], at most 64 characters."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder_name.lower()).lstrip("._-")[:64] or "model"
