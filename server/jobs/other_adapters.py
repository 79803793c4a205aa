"""Chooses the adapters of a request that no map belongs to: IP-Adapters, an upscaler, a VAE, textual inversions.

Errors name the field and the adapters that are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from models.adapters.fit import fits, misfit
from models.errors import ModelsError
from models.spec import ModelSpec
from pipelines.diffusion_interface import AdapterKind
from server.errors import BadRequest

MAX_NAMED = 8  # adapters that an error names
FindModel = Callable[[str], ModelSpec]  # raises `ModelsError`
NAMES: Mapping[AdapterKind, str] = {
    "ip_adapter": "an IP-Adapter",
    "upscaler": "an upscaler",
    "vae": "a VAE",
    "textual_inversion": "a textual inversion",
}


def choose_adapter(
    field: str, name: str | None, kind: AdapterKind, spec: ModelSpec, find: FindModel, models: Sequence[ModelSpec]
) -> ModelSpec:
    """The adapter of that name; without one, the first by name that fits. models: all of the catalogue.

    Raises `BadRequest`.
    """
    fitting = sorted((each for each in models if each.adapter == kind and fits(each, spec)), key=_name)
    if name is None:
        if not fitting:
            raise BadRequest(f"{field}: {NAMES[kind]} that fits {spec.name} is not here; try: pull NAME.", param=field)
        return fitting[0]
    those = (
        f"Those for {spec.name}: {', '.join(map(_name, fitting[:MAX_NAMED]))}." if fitting else "There is none here."
    )
    try:
        found = find(name)
    except ModelsError as error:
        raise BadRequest(f"{field} is not a model here. {those}", param=field) from error
    if found.adapter != kind:
        raise BadRequest(f"{field}: {found.name} is not {NAMES[kind]}. {those}", param=field)
    if (reason := misfit(found, spec)) is not None:
        raise BadRequest(f"{field}: {found.name} {reason}. {those}", param=field)
    return found


def _name(spec: ModelSpec) -> str:
    return spec.name
