"""How models are called in Ollama's API. Pure functions."""

from __future__ import annotations

from models.model_names import LATEST
from models.spec import ModelSpec


def shown_name(spec: ModelSpec) -> str:
    """A name with a tag, which all names of Ollama's models have. Requests may leave the tag out."""
    return spec.name + LATEST
