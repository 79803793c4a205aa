"""Holds the models that can be served now, as one immutable snapshot that is swapped whole. Data only, no torch.

Any thread may read. Only the event loop calls `apply`.

Models come from three places, and a later one overrides an earlier one: models/builtin/models.toml, every checkpoint
found in the models folders, <data_dir>/models.toml. A broken folder is left out with its reason. A broken models.toml
ends the start, and changes nothing later. `read` reads all three places and `apply` swaps the snapshot: every addition,
change and removal of a model goes this way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from models.catalogue_reader import STILL_READ, CatalogueReader, RefusedModel
from models.errors import BadConfig, NotServed, UnknownModel, nearest
from models.model_names import find_model, spellings
from models.reading.model_reader import ModelReader
from models.reading.read_model import ModelReading
from models.spec import ModelSpec, ModelType

logger = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True, slots=True)
class Changes:
    """The names that differ between two snapshots."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # other weights or load options: a loaded copy is out of date
    removed: tuple[str, ...] = ()
    settings_changed: tuple[str, ...] = ()  # only defaults, limits or aliases: a loaded copy stays

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.settings_changed)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    specs: Mapping[str, ModelSpec]  # in the order in which they were read
    refused: tuple[RefusedModel, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, ModelSpec] = field(default_factory=dict)  # models of earlier snapshots

    def find(self, name: str) -> ModelSpec | None:
        return self.specs.get(self.aliases.get(name, name))


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
        self._current = self._snapshot({spec.name: spec for spec in specs}, tuple(refused))
        self._log_refused(())
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

    def apply(self, reader: CatalogueReader) -> Changes:
        """Makes what `reader` found the current snapshot. Quick; event loop only."""
        before = self._current
        self._current = self._snapshot(dict(reader.specs), tuple(reader.refused), before)
        self._log_refused(before.refused)
        now = self._current.specs
        differing = [name for name in before.specs if name in now and before.specs[name] != now[name]]
        outdated = [name for name in differing if _needs_reload(before.specs[name], now[name])]
        return Changes(
            added=tuple(name for name in now if name not in before.specs),
            changed=tuple(outdated),
            removed=tuple(name for name in before.specs if name not in now),
            settings_changed=tuple(name for name in differing if name not in outdated),
        )

    def get(self, name: str) -> ModelSpec:
        """Finds a model by name or alias, or by another text that means it (models.model_names).

        Raises `UnknownModel`, also for one that was found and cannot be served.
        """
        current = self._current
        if (spec := find_model(name, current.specs, current.aliases)) is None:
            for refused in current.refused:
                if refused.name in spellings(name):
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

    def specs(self) -> list[ModelSpec]:
        current = self._current
        return [current.specs[name] for name in sorted(current.specs)]

    @property
    def is_complete(self) -> bool:
        """False: some models are still being read, and the next `read` may have them."""
        return all(refused.reason != STILL_READ.reason for refused in self._current.refused)

    @property
    def refused(self) -> tuple[RefusedModel, ...]:
        return self._current.refused

    def default_for(self, kind: ModelType) -> str | None:
        """Returns the model of the setting while it exists, else the entry marked `default`, else the first by name.

        Of several entries marked `default` the last one read wins: a user's entry before a built-in one. The first by
        name is one that needs no picture or clip, if there is any.
        """
        if kind == "adapter":
            return None  # which one a request borrows depends on its model
        if (chosen := self._defaults.get(kind)) is not None:
            with suppress(UnknownModel):
                return self.get(chosen).name
        specs = self._current.specs
        of_kind = [spec for spec in specs.values() if spec.type == kind]
        marked = [spec for spec in of_kind if spec.default]
        of_prompts = [spec for spec in of_kind if spec.makes_from_prompts]
        return marked[-1].name if marked else min((spec.name for spec in of_prompts or of_kind), default=None)

    def _log_refused(self, before: Sequence[RefusedModel]) -> None:
        """Logs the reason of each model that was not refused for it before."""
        known = {(refused.path, refused.reason) for refused in before}
        for refused in self._current.refused:
            if refused.reason != STILL_READ.reason and (refused.path, refused.reason) not in known:
                told = {"model": refused.name, "reason": refused.reason, "detail": refused.detail}
                logger.warning("model refused", extra=told)

    @staticmethod
    def _snapshot(
        specs: Mapping[str, ModelSpec], refused: tuple[RefusedModel, ...], before: _Snapshot | None = None
    ) -> _Snapshot:
        aliases: dict[str, str] = {}
        for spec in specs.values():
            for alias in spec.aliases:
                if alias in specs or alias in aliases:
                    raise BadConfig(f"model '{spec.name}': its alias '{alias}' is the name of another model")
                aliases[alias] = spec.name
        known = {**before.removed, **before.specs} if before else {}
        return _Snapshot(specs, refused, aliases, {name: spec for name, spec in known.items() if name not in specs})


def is_built_in(spec: ModelSpec) -> bool:
    """Whether the files of a model are ours: they ship with the server, or in a wheel whose checksum we know."""
    return spec.source.startswith("wheel:") or (spec.path is not None and spec.path.is_relative_to(BUILTIN))


def _needs_reload(before: ModelSpec, now: ModelSpec) -> bool:
    """Returns whether the two differ in anything that loading depends on."""

    def without_settings(spec: ModelSpec) -> ModelSpec:
        plain = ModelSpec(name="", type=spec.type, path=None, source="")
        names = ("aliases", "default", "defaults", "sizes", "call", "origins", "pinned", "keep_alive_s")
        return replace(spec, source="", **{name: getattr(plain, name) for name in names})

    return without_settings(before) != without_settings(now)
