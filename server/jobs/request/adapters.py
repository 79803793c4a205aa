"""Chooses the adapters of a request: IP-Adapters, an upscaler, a VAE, textual inversions. `controls.py` has maps.

Errors name the field and the adapters that are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from models.adapters.fit import fits, misfit
from models.errors import ModelsError, StillRead
from models.spec import ModelSpec
from pipelines.diffusion_interface import Adapter, AdapterKind
from server.errors import BadRequest, ModelStillRead

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
    except StillRead as error:
        raise ModelStillRead(error.message) from None
    except ModelsError as error:
        raise BadRequest(f"{field} is not a model here. {those}", param=field) from error
    if found.adapter != kind:
        raise BadRequest(f"{field}: {found.name} is not {NAMES[kind]}. {those}", param=field)
    if (reason := misfit(found, spec)) is not None:
        raise BadRequest(f"{field}: {found.name} {reason}. {those}", param=field)
    return found


def adapter_of(spec: ModelSpec, float_bytes: int) -> Adapter:
    """Describes an adapter with its files as they are now, so that the job runs with those it was accepted with."""
    assert spec.adapter is not None
    try:
        if spec.path is None:
            raise BadRequest(f"{spec.name} is not downloaded; try: pull {spec.name}.")
        stamp, n_bytes = adapter_stamp(spec.path), adapter_bytes(spec.path, float_bytes)
    except (OSError, ModelsError) as error:
        raise BadRequest(f"The files of {spec.name} were removed or changed during the request.") from error
    return Adapter(name=spec.name, kind=spec.adapter, path=str(spec.path), stamp=stamp, n_bytes=n_bytes)


def _name(spec: ModelSpec) -> str:
    return spec.name
