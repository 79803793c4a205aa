"""Looks into the installed diffusers and transformers without importing them: an import takes seconds and loads torch.

Any thread.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


def package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent


@lru_cache(maxsize=1)
def pipeline_folders() -> frozenset[str]:
    """Returns the names of the packages below diffusers.pipelines and below its folder of deprecated pipelines."""
    return _packages_below("diffusers", "pipelines") | _packages_below("diffusers", "pipelines/deprecated")


@lru_cache(maxsize=1)
def transformers_models() -> frozenset[str]:
    """Returns the model types that transformers implements itself: the names of the folders below its models folder."""
    return _packages_below("transformers", "models")


def _packages_below(package: str, folder: str) -> frozenset[str]:
    root = package_folder(package) / folder
    return frozenset(path.name for path in root.iterdir() if (path / "__init__.py").is_file())


@lru_cache(maxsize=1)
def pipeline_files() -> dict[str, Path]:
    """Returns the file of each class that diffusers.pipelines defines, by the name of the class."""
    pattern = re.compile(rb"^class (\w+)\(", re.MULTILINE)
    found: dict[str, Path] = {}
    for path in sorted((package_folder("diffusers") / "pipelines").rglob("*.py")):
        for match in pattern.finditer(path.read_bytes()):
            found.setdefault(match[1].decode(), path)
    return found
