"""All models at one moment, and how two such moments differ. Pure data, any thread; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from models.catalogue_reader import RefusedModel
from models.errors import BadConfig
from models.spec import ModelSpec, ModelType


@dataclass(frozen=True, slots=True)
class Changes:
    """The names that differ between two snapshots."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # other weights or load options: a loaded copy is out of date
    removed: tuple[str, ...] = ()
    settings_changed: tuple[str, ...] = ()  # only defaults, limits or aliases: a loaded copy stays

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.settings_changed)


@dataclass(frozen=True)  # without slots: some of it is computed once, when it is first asked for
class Snapshot:
    specs: Mapping[str, ModelSpec]  # in the order in which they were read
    refused: tuple[RefusedModel, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, ModelSpec] = field(default_factory=dict)  # models of earlier snapshots

    @classmethod
    def of(
        cls, specs: Mapping[str, ModelSpec], refused: tuple[RefusedModel, ...], before: Snapshot | None = None
    ) -> Snapshot:
        """Raises `BadConfig` for an alias that is taken."""
        aliases: dict[str, str] = {}
        for spec in specs.values():
            for alias in spec.aliases:
                if alias in specs or alias in aliases:
                    raise BadConfig(f"model '{spec.name}': its alias '{alias}' is the name of another model")
                aliases[alias] = spec.name
        known = {**before.removed, **before.specs} if before else {}
        return cls(specs, refused, aliases, {name: spec for name, spec in known.items() if name not in specs})

    def find(self, name: str) -> ModelSpec | None:
        return self.specs.get(self.aliases.get(name, name))

    @cached_property
    def by_name(self) -> tuple[ModelSpec, ...]:
        """All models, sorted by name."""
        return tuple(self.specs[name] for name in sorted(self.specs))

    @cached_property
    def usual(self) -> Mapping[ModelType, str]:
        """The default of each type where no setting names one: the entry marked `default`, else the first by name.

        Of several entries marked `default` the last one read wins: a user's entry before a built-in one. The first by
        name is one that needs no picture or clip, if there is any.
        """
        found: dict[ModelType, str] = {}
        for kind in {spec.type for spec in self.by_name} - {"adapter"}:  # which one to borrow depends on the model
            marked = [spec for spec in self.specs.values() if spec.type == kind and spec.default]
            of_kind = [spec for spec in self.by_name if spec.type == kind]
            found[kind] = marked[-1].name if marked else min(of_kind, key=lambda spec: not spec.makes_from_prompts).name
        return found


def changes_between(before: Snapshot, now: Snapshot) -> Changes:
    differing = [name for name in before.specs if name in now.specs and before.specs[name] != now.specs[name]]
    outdated = [name for name in differing if _needs_reload(before.specs[name], now.specs[name])]
    return Changes(
        added=tuple(name for name in now.specs if name not in before.specs),
        changed=tuple(outdated),
        removed=tuple(name for name in before.specs if name not in now.specs),
        settings_changed=tuple(name for name in differing if name not in outdated),
    )


def _needs_reload(before: ModelSpec, now: ModelSpec) -> bool:
    """Returns whether the two differ in anything that loading depends on."""

    def without_settings(spec: ModelSpec) -> ModelSpec:
        plain = ModelSpec(name="", type=spec.type, path=None, source="")
        names = ("aliases", "default", "defaults", "sizes", "call", "origins", "pinned", "keep_alive_s")
        return replace(spec, source="", **{name: getattr(plain, name) for name in names})

    return without_settings(before) != without_settings(now)
