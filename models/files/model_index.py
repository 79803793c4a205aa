"""Reads the components that a model_index.json lists, as diffusers does, and refuses classes of other libraries.

Any thread. diffusers opens the keys that the pipeline class takes as components; the others are values of the class or
left-overs, and are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from models.errors import BadModel
from models.installed_libraries import pipeline_folders
from models.pipeline_signature import pipeline_signature


def components(model_index: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Returns component name → (library, class). Components that are listed as null are left out.

    Raises `BadModel` for an entry that diffusers cannot read, and for a class that is not of its libraries.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in _component_entries(model_index):
        match value:
            case [str(library), str(cls)]:
                _check_component(name, library, cls)
                found[name] = (library, cls)
            case [None, _]:
                continue
            case None:
                raise BadModel(f"model_index.json: component '{name}' is null; one that is left out is [null, null]")
            case _:
                raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    return found


def unlisted_components(model_index: Mapping[str, object]) -> list[str]:
    """Returns the components that the pipeline class cannot do without and that are not even listed as null."""
    signature = pipeline_signature(str(model_index.get("_class_name")))
    return [] if signature is None else sorted(signature.required.difference(model_index))


def _component_entries(model_index: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yields the entries that the class takes as components; of an unknown class, those that look like one."""
    signature = pipeline_signature(str(model_index.get("_class_name")))
    for name, value in model_index.items():
        if signature is not None:
            # A name that is no argument is not opened by diffusers; with a path in it, it is refused all the same.
            if name in signature.components or (_pair_of_names(value) and not name.isidentifier()):
                yield name, value
        elif _pair_of_names(value) or (isinstance(value, list) and value[:1] == [None]):
            yield name, value


def _pair_of_names(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _check_component(name: str, library: str, cls: str) -> None:
    if not name.isidentifier() or not cls.isidentifier():
        raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    # Published checkpoints also name pipeline folders of diffusers: ["stable_diffusion",
    # "StableDiffusionSafetyChecker"].
    if library not in ("diffusers", "transformers") and library not in pipeline_folders():
        raise BadModel(
            f"model_index.json: component '{name}' wants code from another library than diffusers or transformers"
        )
