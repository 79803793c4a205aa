"""The JSON of one model: every value of its spec with its origin, its notes, and why its last load failed.

Pure functions. Which fields of a `ModelSpec` are shown is listed here by name, and a test compares the lists with the
class: a new field is shown or hidden on purpose. Paths of this machine are hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from datetime import date, datetime, time
from typing import Any

from models.spec import ModelSpec
from server.api.wire import JsonObject, Reply
from server.engine_status import ModelState
from server.service.models import ModelView

VALUES = (
    "revision", "aliases", "pipeline", "dtype", "weight_bytes", "default", "keep_alive_s", "pinned", "device",
    "max_running", "guidance_argument", "schedulers", "takes_loras", "takes_images",
    "max_clip_skip", "adapter", "adapter_class", "scale", "control_types",
)  # fmt: skip
TABLES = ("defaults", "limits", "sizes", "call", "load", "scheduler_config", "embedding")  # shown as "defaults.steps"
ELSEWHERE = ("name", "type", "source", "notes", "origins")  # in fields of their own, or beside each value
HIDDEN = ("path", "base_path", "vae_path", "embedding_paths", "fingerprint", "arguments", "shareable", "tasks",
          "control_modes")  # fmt: skip
FROM_CHECKPOINT = ("weight_bytes", "pipeline", "schedulers", "takes_loras", "takes_images", "max_clip_skip",
                   "guidance_argument", "scheduler_config", "embedding", "scale", "control_types")  # fmt: skip


class FailureReply(Reply):
    message: str
    detail: str | None = None  # admin keys only


class ModelDetailsReply(Reply):
    name: str
    type: str
    state: ModelState
    source: str
    downloaded: bool
    values: dict[str, Any]
    origins: dict[str, str]
    notes: list[str]
    failure: FailureReply | None


def details_json(view: ModelView, *, admin: bool) -> JsonObject:
    """admin: whether the reader may see paths and the text of libraries."""
    spec = view.spec
    values = _values(spec)
    return {
        "name": spec.name,
        "type": spec.type,
        "state": view.live.status.state if view.live else "available",
        "source": plain(spec.source),
        "downloaded": spec.path is not None,
        "values": values,
        "origins": {name: plain(spec.origins.get(name, _usual_origin(name))) for name in values},
        "notes": notes_of(view),
        "failure": failure_json(view, admin=admin),
    }


def notes_of(view: ModelView) -> list[str]:
    """What is odd about the model's files, as their check and as its load found it."""
    found = dict.fromkeys((*view.spec.notes, *(view.live.status.notes if view.live else ())))
    return [str(plain(note)) for note in found]


def failure_json(view: ModelView, *, admin: bool) -> JsonObject | None:
    """Why the model's last load failed; None when it did not."""
    error = view.live.status.load_error if view.live else None
    if error is None:
        return None
    return {"message": plain(error.message)} | ({"detail": plain(error.detail)} if admin else {})


def plain(value: object) -> Any:
    """Returns the JSON of any value that a spec can hold, and never fails to: what JSON lacks becomes text.

    That are infinity, moments of a TOML file, paths, and file names that are no Unicode.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(plain(str(key))): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    return plain(str(value))


def _values(spec: ModelSpec) -> JsonObject:
    """Tables are flat: {"defaults": {"steps": 4}} becomes {"defaults.steps": 4}. An unset value is null."""
    tables: dict[str, Mapping[str, object]] = {
        "defaults": asdict(spec.defaults),
        "limits": asdict(spec.limits),
        "sizes": spec.sizes,
        "call": spec.call,
        "load": asdict(spec.load),
        "scheduler_config": spec.scheduler_config,
        "embedding": {} if spec.embedding is None else asdict(spec.embedding),
    }
    found = {name: plain(getattr(spec, name)) for name in VALUES}
    return found | {
        str(plain(f"{table}.{key}")): plain(value) for table in TABLES for key, value in tables[table].items()
    }


def _usual_origin(name: str) -> str:
    return "checkpoint" if name.partition(".")[0] in FROM_CHECKPOINT else "default"
