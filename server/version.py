"""The version of this program, also where it runs from a checkout that was never installed. Any thread."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    try:
        return version("agentname")
    except PackageNotFoundError:  # a copied checkout on the path has no metadata
        return "from source"
