"""How long a model stays loaded after a request, as Ollama's clients say it. Event loop only."""

from __future__ import annotations

import math
import re
from typing import Any

from models.spec import ModelSpec
from server.accounts.auth import ApiKey
from server.errors import BadRequest
from server.service.service import Service

KEEP_ALIVE = 'a time like "5m", "1h30m" or "30s", a number of seconds, 0 to unload the model, or -1 to keep it'
TIME = re.compile(r"(-?)((?:\d{1,9}(?:\.\d{1,9})?(?:h|ms|m|s|us|µs|ns))+)")
PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
LONGEST_S = 10 * 365 * 86400.0  # longer means for ever


def read_keep_alive(value: Any) -> float | None:
    """Returns seconds, infinite for a negative time; None for no wish. Raises `BadRequest`."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if (match := TIME.fullmatch(value)) is not None:
            seconds = sum(float(number) * SECONDS[unit] for number, unit in PART.findall(match[2]))
            seconds = -seconds if match[1] else seconds
        elif re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?", value, re.ASCII):
            seconds = float(value)
        else:
            raise BadRequest(f"keep_alive must be {KEEP_ALIVE}.", param="keep_alive")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(max(value, -1), LONGEST_S + 1))
    else:
        raise BadRequest(f"keep_alive must be {KEEP_ALIVE}.", param="keep_alive")
    return math.inf if seconds < 0 or seconds > LONGEST_S else seconds


async def keep(service: Service, key: ApiKey, spec: ModelSpec, seconds: float | None) -> None:
    """Sets it, if the key may: clients send it with every request, so that those of others are not refused for it."""
    if seconds is not None and "admin" in key.scopes and service.models.one(spec.name).keep_alive_s != seconds:
        await service.model_overrides.keep_alive(spec.name, seconds)


async def load_or_unload(service: Service, key: ApiKey, spec: ModelSpec, seconds: float | None) -> str:
    """Does what a request without a question means, if the key may. Returns the reason that its reply gives."""
    if "admin" in key.scopes:
        if seconds == 0:
            await service.model_overrides.unload(spec.name)
        else:
            await service.model_overrides.load(spec.name)
            await keep(service, key, spec, seconds)
    return "unload" if seconds == 0 else "load"
