"""Limits of a plan: outputs per day (charged in the store), requests per minute (in memory). Event loop only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from server.errors import TooMany

if TYPE_CHECKING:  # the command line reads plans and must not wait for SQLAlchemy
    from server.store.usage import Kind

DAY_S = 86_400
UNLIMITED = 999_999_999_999_999  # the largest integer a RateLimit header can carry (RFC 9651)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the API keys of a plan may do; None: no limit."""

    images: int | None  # per UTC day, as the next two
    videos: int | None
    chats: int | None
    priority: int  # jobs of a larger one start sooner
    burst_per_minute: int | None  # requests of all kinds together
    max_queued: int | None  # jobs that wait or run at once
    file_space: int | None  # bytes that pictures and clips sent to the server may take on disk

    def limit(self, kind: Kind) -> int | None:
        return {"images": self.images, "videos": self.videos, "chats": self.chats}[kind]


DEFAULT_PLANS = {
    "free": Plan(images=10, videos=2, chats=50, priority=0, burst_per_minute=60, max_queued=10, file_space=256 * 2**20),
    "pro": Plan(
        images=200, videos=50, chats=None, priority=1, burst_per_minute=600, max_queued=200, file_space=4 * 2**30
    ),
    "enterprise": Plan(
        images=None, videos=None, chats=None, priority=2, burst_per_minute=None, max_queued=None, file_space=None
    ),
}


def today(now: datetime) -> str:
    """The UTC day that a charge at `now` counts for, as "2026-11-24"."""
    return now.astimezone(UTC).date().isoformat()


def _midnight_after(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def seconds_to_reset(now: datetime) -> int:
    """Seconds until the next UTC day, rounded up to at least 1."""
    return max(1, math.ceil((_midnight_after(now) - now).total_seconds()))


def rate_limit_headers(kind: Kind, limit: int | None, used: int, now: datetime) -> dict[str, str]:
    """The two headers of draft-ietf-httpapi-ratelimit-headers and the three older X-RateLimit ones, with Unix seconds.

    Without a limit the headers carry the largest number they can, so that clients that count down need no special case.
    """
    allowed = UNLIMITED if limit is None else limit
    remaining = UNLIMITED if limit is None else max(0, limit - used)
    return {
        "RateLimit-Policy": f'"{kind}-day";q={allowed};w={DAY_S}',
        "RateLimit": f'"{kind}-day";r={remaining};t={seconds_to_reset(now)}',
        "X-RateLimit-Limit": str(allowed),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(int(_midnight_after(now).timestamp())),
    }


class BurstLimiter:
    """A token bucket for each key. It holds the requests of one minute and fills evenly. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # key id → tokens, time of that level

    def take(self, key_id: str, plan: Plan, n: int = 1) -> None:
        """Takes a request, or none if n is 0. Raises `TooMany`, and takes nothing, when the bucket is empty."""
        size = plan.burst_per_minute
        if size is None:
            return
        now = self._clock()
        tokens, at = self._levels.get(key_id, (float(size), now))
        tokens = min(float(size), tokens + (now - at) * size / 60)
        if tokens < 1:
            self._levels[key_id] = (tokens, now)
            wait_s = math.ceil((1 - tokens) * 60 / size) if size else 60
            raise TooMany(f"This key's plan allows {size} requests a minute.", retry_after_s=max(1, wait_s))
        self._levels[key_id] = (tokens - n, now)
