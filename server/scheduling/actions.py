"""What the device may do next, and what the policy must know of a model to decide. Plain data, any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from server.job import Job, JobType


@dataclass(frozen=True, slots=True)
class Read:
    """Book the model's bytes and have its files read, aside from the device thread; a `Load` follows."""

    model: str


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Drop the model, what it has parked included."""

    model: str


@dataclass(frozen=True, slots=True)
class Park:
    """Move components to host memory; coming back costs a copy, not a read from disk."""

    model: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpark:
    model: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResizeCache:
    """Shrink or grow a chat's KV cache towards `n_bytes`, as far as its running chats allow."""

    model: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Admit:
    job: Job


@dataclass(frozen=True, slots=True)
class Step:
    model: str
    max_rows: int | None = None  # None: as many as the lane will merge
    reserve_bytes: int = 0  # booked as activations while the quantum is under way


@dataclass(frozen=True, slots=True)
class Wait:
    until: float | None  # None: until a message comes


Action: TypeAlias = Read | Load | Evict | Park | Unpark | ResizeCache | Admit | Step | Wait


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the policy needs to know of a model."""

    name: str
    type: JobType
    need_bytes: int  # weights and cache, from the file headers
    max_running: int  # requests in its lane at once
    keep_alive_s: float  # idle seconds until it is evicted; inf: never
    pinned: bool = False
    cache_bytes: int = 0  # of `need_bytes`, what a KV cache takes
    shareable: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # component → whose weights, bytes
    fingerprint: str = ""  # of the checkpoint: what was measured of it holds as long as this does; empty: its name
