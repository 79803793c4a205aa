"""The actions that the scheduler decides on, and the facts about a model that it decides by. Plain data; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from server.job import Job, JobType


@dataclass(frozen=True, slots=True)
class Read:
    """Book the model's bytes and read its files into the page cache, in the background; a `Load` follows."""

    model: str


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Drop the model, its parked components included."""

    model: str


@dataclass(frozen=True, slots=True)
class Park:
    """Move components to host memory. They come back by a copy and not by a read from disk."""

    model: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpark:
    """Move parked components back to the device."""

    model: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DropAdapters:
    """Free adapters that no running job of the model uses. The next job that borrows one has it read from disk."""

    model: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResizeCache:
    """Shrink or grow a chat model's KV cache towards `n_bytes`, as far as its running chats allow."""

    model: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Start the job on its model's lane."""

    job: Job


@dataclass(frozen=True, slots=True)
class Step:
    """Run one forward of the model's lane, or resume the one that the lane is suspended in."""

    model: str
    max_rows: int | None = None  # None: as many as the lane can merge
    reserve_bytes: int = 0  # booked as activations during the step
    in_tiles: bool = False  # a decode that is known not to fit whole


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the moment `until` or the next message; None: until the next message."""

    until: float | None


DeviceAction: TypeAlias = Read | Load | Evict | Park | Unpark | DropAdapters | ResizeCache | Admit | Step
Action: TypeAlias = DeviceAction | Wait


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the scheduler knows of a model of the catalogue."""

    name: str
    type: JobType | Literal["adapter"]
    need_bytes: int  # weights and KV cache, from the file headers
    max_running: int  # most requests that its lane runs at once
    keep_alive_s: float  # idle seconds after which it is evicted; inf: never
    pinned: bool = False
    cache_bytes: int = 0  # the KV cache's part of `need_bytes`
    shareable: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # component → (weight identity, bytes)
    fingerprint: str = ""  # identifies the checkpoint in measurements; empty: its name does
