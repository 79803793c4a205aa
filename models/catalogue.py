"""Holds the models that can be served now, as one immutable snapshot that is swapped whole. Data only, no torch.

Any thread may read. Only the event loop calls `apply`.

Models come from three places, and a later one overrides an earlier one: models/builtin/models.toml, every checkpoint
found in the models folders, <data_dir>/models.toml. A broken folder is left out with its reason. A broken models.toml
ends the start, and changes nothing later. `read` reads all three places, `compare` tells what is new in them, and
`apply` swaps the snapshot: every addition, change and removal of a model goes this way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.catalogue_reader import CatalogueReader, RefusedModel
from models.catalogue_snapshot import Changes, Snapshot, changes_between
from models.errors import BadConfig, NotServed, StillRead, UnknownModel, nearest
from models.model_names import find_model, spellings
from models.reading.model_reader import ModelReader
from models.reading.read_model import ModelReading
from models.spec import ModelSpec, ModelType

logger = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True, slots=True)
class Update:
    """A snapshot that may take the place of the one that it was compared with."""

    before: Snapshot
    now: Snapshot
    changes: Changes


class Catalogue:
    def __init__(
        self,
        specs: Iterable[ModelSpec],
        *,
        refused: Sequence[RefusedModel] = (),
        defaults: Mapping[ModelType, str | None] | None = None,
        read: Callable[[], CatalogueReader] | None = None,
    ) -> None:
        """`read` reads the three places again. Without it the catalogue never changes."""
        self._defaults = defaults or {}
        self._read = read
        self._current = Snapshot.of({spec.name: spec for spec in specs}, tuple(refused))
        _log_refused(self._current)
        away = {model.name for model in self.refused}  # such a default is back once its files are
        for kind, name in self._defaults.items():
            if name is not None and name not in away and self.get(name).type != kind:
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
        reader: ModelReader | None = None,
        wait_s: float = math.inf,
    ) -> Catalogue:
        """Reads all three places. `auto_dtype` is the dtype that "auto" stands for; it decides `weight_bytes`.

        reader: reads all models but the built-in ones; None: this process does. wait_s: of a reading; a model that
        takes longer is refused as still being read until another reading finds it done.

        Raises `BadConfig` for a models.toml with anything unknown in it, `UnknownModel` for a default that no model
        has.
        """

        def read() -> CatalogueReader:
            found = CatalogueReader(ModelReading(cache_dir, auto_dtype), reader, time.monotonic() + wait_s)
            found.add_toml(builtin / "models.toml", "built-in models.toml", is_ours=True)
            found.add_folders([data_dir / "models", *models_dirs])
            found.add_toml(data_dir / "models.toml", "models.toml")
            if reader is not None:
                reader.done()
            return found

        first = read()
        return cls(first.specs.values(), refused=first.refused, defaults=defaults, read=read)

    def read(self) -> CatalogueReader:
        """Reads all places and changes nothing yet. Slow, for a worker thread. Raises `BadConfig`."""
        assert self._read is not None, "a catalogue of fixed models cannot be read again"
        return self._read()

    def compare(self, reader: CatalogueReader) -> Update:
        """Compares what `reader` found with the current snapshot, and logs each model that was not refused for the same
        reason before. Slow with thousands of models, for a worker thread. Raises `BadConfig`.
        """
        before = self._current
        now = Snapshot.of(dict(reader.specs), tuple(reader.refused), before)
        _log_refused(now, before)
        return Update(before, now, changes_between(before, now))

    def apply(self, update: Update) -> Changes:
        """Makes it the current snapshot. Event loop only."""
        assert update.before is self._current, "another update was applied since this one was compared"
        self._current = update.now
        return update.changes

    def get(self, name: str) -> ModelSpec:
        """Finds a model by name or alias, or by another text that means it (models.model_names).

        Raises `UnknownModel`, also for one that was found and cannot be served.
        """
        current = self._current
        if (spec := find_model(name, current.specs, current.aliases)) is None:
            for refused in current.refused:
                if refused.name in spellings(name):
                    if refused.is_still_read:
                        raise StillRead(f"The model {refused.name} is still being read. Ask again in a moment.")
                    lacks = f" It lacks {'; '.join(refused.missing[:3])}." if refused.missing else ""
                    tells = f"GET /api/models/{refused.name} tells why."
                    raise NotServed(f"The model {refused.name} cannot be served.{lacks} {tells}")
            raise UnknownModel(f"There is no model of that name.{nearest(name.lower(), current.specs, 3)}")
        return spec

    def recall(self, name: str) -> ModelSpec:
        """As `get`, but also finds a removed model as it last was, for jobs and lanes that still use it."""
        current = self._current  # read once: `apply` may swap it between two reads
        return current.find(name) or current.removed.get(name) or self.get(name)

    def names(self) -> list[str]:
        return sorted(self._current.specs)

    def specs(self) -> tuple[ModelSpec, ...]:
        """Sorted by name."""
        return self._current.by_name

    @property
    def is_complete(self) -> bool:
        """False: some models are still being read, and the next `read` may have them."""
        return not any(refused.is_still_read for refused in self._current.refused)

    @property
    def refused(self) -> tuple[RefusedModel, ...]:
        return self._current.refused

    def default_for(self, kind: ModelType) -> str | None:
        """Returns the model of the setting while it exists or is still being read, else the usual one of the snapshot.

        `get` raises `StillRead` for one that is still being read.
        """
        if kind != "adapter" and (chosen := self._defaults.get(kind)) is not None:
            try:
                return self.get(chosen).name
            except StillRead:
                return chosen
            except UnknownModel:
                pass
        return self._current.usual.get(kind)


def _log_refused(now: Snapshot, before: Snapshot | None = None) -> None:
    """Logs the reason of each model that was not refused for it before."""
    known = {(refused.path, refused.reason) for refused in before.refused} if before else set()
    for refused in now.refused:
        if not refused.is_still_read and (refused.path, refused.reason) not in known:
            told = {"model": refused.name, "reason": refused.reason, "detail": refused.detail}
            logger.warning("model refused", extra=told)


def is_built_in(spec: ModelSpec) -> bool:
    """Whether the files of a model are ours: they ship with the server, or in a wheel whose checksum we know."""
    return spec.source.startswith("wheel:") or (spec.path is not None and spec.path.is_relative_to(BUILTIN))
