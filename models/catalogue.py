"""Which models there are, now. Data only, no torch. Read from any thread: every reader sees one immutable snapshot.

Three places, later ones over earlier ones: models/builtin/models.toml, every checkpoint found in the models folders,
<data_dir>/models.toml. A broken folder is left out with its reason; a broken models.toml ends the start, and later changes
nothing. `read` reads all three again and `take` swaps the snapshot: that adds, changes and removes models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from models.errors import BadConfig, UnknownModel, nearest
from models.reading import Reader, Refused, slug
from models.spec import ModelSpec, ModelType

__all__ = ["BUILTIN", "Catalogue", "Changes", "Refused", "slug"]

BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload found. `changed`: other weights or another way to load them, so a loaded one is out of date."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    described: tuple[str, ...] = ()  # only defaults, limits, names: a loaded one stays

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.described)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    specs: Mapping[str, ModelSpec]  # in the order of reading
    refused: tuple[Refused, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    gone: Mapping[str, ModelSpec] = field(default_factory=dict)

    def find(self, name: str) -> ModelSpec | None:
        return self.specs.get(self.aliases.get(name, name))


class Catalogue:
    def __init__(
        self,
        specs: Iterable[ModelSpec],
        *,
        refused: Sequence[Refused] = (),
        defaults: Mapping[ModelType, str | None] | None = None,
        read: Callable[[], Reader] | None = None,
    ) -> None:
        """`read` reads the places again; without it the catalogue never changes."""
        self._defaults = defaults or {}
        self._read = read
        self._now = self._snapshot({spec.name: spec for spec in specs}, tuple(refused))
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

        def read() -> Reader:
            reader = Reader(cache_dir, auto_dtype)
            reader.take_entries(builtin / "models.toml", "built-in models.toml")
            for folder in (data_dir / "models", *models_dirs):
                reader.take_folder(folder)
            reader.take_entries(data_dir / "models.toml", "models.toml")
            return reader

        reader = read()
        return cls(reader.specs.values(), refused=reader.refused, defaults=defaults, read=read)

    def read(self) -> Reader:
        """Read all places anew, changing nothing yet: slow, for a worker thread. Raises `BadConfig`."""
        assert self._read is not None, "a catalogue of fixed models is not read again"
        return self._read()

    def take(self, reader: Reader) -> Changes:
        """Make what was read the catalogue. Quick; one thread only (the event loop)."""
        before = self._now
        self._now = self._snapshot(dict(reader.specs), tuple(reader.refused), before)
        both = [name for name in before.specs if name in self._now.specs]
        changed = [name for name in both if before.specs[name] != self._now.specs[name]]
        heavy = [name for name in changed if _loads_otherwise(before.specs[name], self._now.specs[name])]
        return Changes(
            added=tuple(name for name in self._now.specs if name not in before.specs),
            changed=tuple(heavy),
            removed=tuple(name for name in before.specs if name not in self._now.specs),
            described=tuple(name for name in changed if name not in heavy),
        )

    def get(self, name: str) -> ModelSpec:
        """By name or alias. Raises `UnknownModel`."""
        now = self._now
        if (spec := now.find(name)) is None:
            raise UnknownModel(f"There is no model of that name.{nearest(name, now.specs, 3)}")
        return spec

    def recall(self, name: str) -> ModelSpec:
        """As `get`, and a model that was removed as it last was: for those who still hold it."""
        now = self._now  # once: between two looks it may be swapped
        return now.find(name) or now.gone.get(name) or self.get(name)

    def names(self) -> list[str]:
        return sorted(self._now.specs)

    def specs(self) -> list[ModelSpec]:
        now = self._now
        return [now.specs[name] for name in sorted(now.specs)]

    @property
    def refused(self) -> tuple[Refused, ...]:
        return self._now.refused

    def default_for(self, kind: ModelType) -> str | None:
        """The setting's choice while it is there; else the entry that says `default`, a user's before ours; else the first."""
        specs = self._now.specs
        if (chosen := self._defaults.get(kind)) is not None and chosen in specs:
            return chosen
        of_kind = [spec for spec in specs.values() if spec.type == kind]
        said = [spec for spec in of_kind if spec.default]
        return said[-1].name if said else min((spec.name for spec in of_kind), default=None)

    @staticmethod
    def _snapshot(
        specs: Mapping[str, ModelSpec], refused: tuple[Refused, ...], before: _Snapshot | None = None
    ) -> _Snapshot:
        aliases: dict[str, str] = {}
        for spec in specs.values():
            for alias in spec.aliases:
                if alias in specs or alias in aliases:
                    raise BadConfig(f"model '{spec.name}': its alias '{alias}' is the name of another model")
                aliases[alias] = spec.name
        known = {**before.gone, **before.specs} if before else {}
        return _Snapshot(specs, refused, aliases, {name: spec for name, spec in known.items() if name not in specs})


def _loads_otherwise(before: ModelSpec, now: ModelSpec) -> bool:
    def loaded_from(spec: ModelSpec) -> ModelSpec:
        plain = ModelSpec(name="", type=spec.type, path=None, source="")
        return replace(
            spec,
            source="",
            **{
                name: getattr(plain, name)
                for name in ("aliases", "default", "defaults", "sizes", "call", "origins", "pinned", "keep_alive_s")
            },
        )

    return loaded_from(before) != loaded_from(now)
