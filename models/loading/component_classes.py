"""Looks up the class of each component that a model_index.json lists, in the library that defines it.

Device thread only: it imports the libraries.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from models.checkpoint.pipeline_source import module_of
from models.errors import BadModel
from models.required_packages import how_to_install, is_installed

# A component class has one of these bases; anything else in the libraries is a function or a helper.
COMPONENT_BASES = ("ModelMixin", "SchedulerMixin", "PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin",
                   "FeatureExtractionMixin", "BaseImageProcessor", "ImageProcessingMixin", "ConfigMixin",
                   "VideoProcessor")  # fmt: skip


def component_class(name: str, library: str, cls: str) -> Any:
    """Returns the class. Raises `BadModel` unless it is a model, scheduler, tokenizer or processor of that library."""
    import diffusers
    import transformers
    from diffusers.utils.deprecation_utils import _maybe_remap_transformers_class  # CLIPFeatureExtractor has gone

    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    today = _maybe_remap_transformers_class(cls) if library == "transformers" else None
    found = getattr(home, today or cls, None) or _restore_deprecated(library, cls)
    if type(found).__name__ == "DummyObject":  # the libraries' stand-in for a class that needs another package
        missing = [package for package in found._backends if not is_installed(package)]
        raise BadModel(f"component '{name}' is a {cls}, which needs {how_to_install(missing)}")
    bases = {base.__name__ for base in found.__mro__} if inspect.isclass(found) else set()
    if not bases.intersection(COMPONENT_BASES) or "DiffusionPipeline" in bases:
        raise BadModel(f"component '{name}' names {library}.{cls}, which is no component class")
    return found


def _restore_deprecated(library: str, cls: str) -> Any:
    """Returns a class of a deprecated pipeline, after making it importable under the name that the checkpoint uses.

    diffusers moved these pipelines to another folder. Published checkpoints name the old one (["wuerstchen",
    "PaellaVQModel"]), saved ones "diffusers", and the library finds neither.
    """
    import diffusers

    module = module_of(cls)
    if module is None or not module.startswith("diffusers.pipelines.deprecated."):
        return None
    folder = module.split(".")[3]
    if library == "diffusers":
        setattr(diffusers, cls, getattr(importlib.import_module(module), cls))
        return getattr(diffusers, cls)
    if library != folder:
        return None
    setattr(diffusers.pipelines, folder, importlib.import_module(f"diffusers.pipelines.deprecated.{folder}"))
    return getattr(getattr(diffusers.pipelines, folder), cls, None)
