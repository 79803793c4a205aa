"""Finds the LoRAs of a request and describes their files, so that the job runs with those it was accepted with."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from models.errors import ModelsError
from models.lora_compatibility import may_fit
from models.lora_files import held_bytes
from models.spec import ModelSpec
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest

FindLora: TypeAlias = Callable[[str], Path]  # LoRA name → its file; raises `ModelsError`


def choose_loras(
    request: GenerateRequest, spec: ModelSpec, float_bytes: int, find: FindLora | None
) -> list[dict[str, Any]]:
    """Returns the stored form of each LoRA. float_bytes: of the model's precision. Raises `BadRequest`."""
    if not request.loras:
        return []
    if not spec.takes_loras:
        raise BadRequest(f"loras: {spec.name} does not support LoRAs.")
    if find is None:
        raise BadRequest("loras: this server has no LoRAs.")
    names = [unicodedata.normalize("NFC", name) for name, _ in request.loras]
    if len(set(names)) < len(names):
        raise BadRequest("loras: each LoRA may be listed only once.")
    try:
        found = [(name, find(name), weight) for name, (_, weight) in zip(names, request.loras, strict=True)]
        for name, path, _ in found:
            if spec.path is not None and not may_fit(path, spec.path):
                raise BadRequest(f"loras: {name} matches no layer of {spec.name}: it was made for another model.")
        return [
            {
                "name": name,
                "path": str(path),
                "weight": weight,
                "stamp": path.stat().st_mtime_ns,
                "n_bytes": held_bytes(path, float_bytes),
            }
            for name, path, weight in found
        ]
    except OSError as error:
        raise BadRequest("loras: a LoRA file was removed during the request.") from error
    except ModelsError as error:
        raise BadRequest(f"loras: {error.message}") from error
