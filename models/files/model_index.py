"""Reads the components that a model_index.json lists, and refuses classes of any other library. Any thread."""

from __future__ import annotations

from models.errors import BadModel
from models.installed_libraries import pipeline_folders


def components(model_index: dict[str, object]) -> dict[str, tuple[str, str]]:
    """Returns component name → (library, class). Components that are listed as null are left out."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in model_index.items():
        match value:
            case [str(library), str(cls)]:
                _check_component(name, library, cls)
                found[name] = (library, cls)
            case [None, None]:
                continue
            case [_, _]:
                raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    return found


def _check_component(name: str, library: str, cls: str) -> None:
    if not name.isidentifier() or not cls.isidentifier():
        raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    # Published checkpoints also name pipeline folders of diffusers: ["stable_diffusion",
    # "StableDiffusionSafetyChecker"].
    if library not in ("diffusers", "transformers") and library not in pipeline_folders():
        raise BadModel(
            f"model_index.json: component '{name}' wants code from another library than diffusers or transformers"
        )
