"""Finds the model that a name means, as people and other programs write names. Pure functions; any thread.

The first reading that leads to a model counts:

  smollm2-135m          a name or an alias as it is
  SmolLM2-135M          in other capitals
  owner/name            the hub repository that a model was pulled from; also owner/name@commit, owner/name:file
  smollm2-135m:latest   each of these with the tag that Ollama's programs append
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from models.errors import UnknownModel
from models.sources.hub_id import HubId, hub_id
from models.spec import ModelSpec

LATEST = ":latest"
# Names that an error may repeat: they cannot carry markup, a path or an instruction.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


class SeveralModels(UnknownModel):
    """Several models have that name in its other spellings, or that hub id. The message lists their names."""


def find_model(name: str, specs: Mapping[str, ModelSpec], aliases: Mapping[str, str]) -> ModelSpec | None:
    """Returns the model that `name` means. Raises `SeveralModels` when its first reading that fits, fits several.

    specs: by name. aliases: the name of the model of each alias.
    """
    found: Sequence[ModelSpec] = next(filter(None, _readings(name, specs, aliases)), ())
    if len(found) > 1:
        names = " or ".join(spec.name for spec in found[:3])
        raise SeveralModels(f"That name can mean several models. Send the name of one: {names}.")
    return found[0] if found else None


def spellings(name: str) -> tuple[str, ...]:
    """Returns what a model's name can be that is written as `name`: names have no capitals and no tag."""
    lower = name.lower()
    return name, lower, lower.removesuffix(LATEST)


def pulled_from(spec: ModelSpec) -> HubId | None:
    """Returns the repository or file of the hub that the model comes from; None for a model from elsewhere."""
    source = hub_id(spec.source)
    if source is None or spec.path is None:
        return source
    # A relative folder can look like a hub id. What was pulled is in that repository's folder of the hub's cache.
    return source if f"models--{source.repo.replace('/', '--')}" in spec.path.parts else None


def _readings(name: str, specs: Mapping[str, ModelSpec], aliases: Mapping[str, str]) -> Iterator[list[ModelSpec]]:
    names = [name]
    if name.lower().endswith(LATEST):
        names.append(name[: -len(LATEST)])
    for text in names:
        exact = specs.get(aliases.get(text, text))
        yield [exact] if exact is not None else []
        lower = text.lower()
        yield _of({lower, *(model for alias, model in aliases.items() if alias.lower() == lower)}, specs)
        yield _of_hub_id(text, specs)


def _of(names: set[str], specs: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    return [specs[name] for name in sorted(names) if name in specs]


def _of_hub_id(text: str, specs: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    wanted = hub_id(text)
    if wanted is None:
        return []
    return [spec for spec in specs.values() if (source := pulled_from(spec)) is not None and _matches(source, wanted)]


def _matches(source: HubId, wanted: HubId) -> bool:
    return (
        source.repo.lower() == wanted.repo.lower()
        and wanted.revision in (None, source.revision)
        and wanted.file in (None, source.file)
    )
