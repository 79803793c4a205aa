"""The ledger: who holds how many bytes of one device. Integers only; device thread only; no locks, no I/O.

Free = min(what the driver reports, capacity − booked) − reserve. Other programs' use shows as the difference between
the driver's figure and ours. On CPU there is no driver: the capacity is a configured budget and others hold nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.jobs import DeviceStatus, MemoryHolder

HolderKind: TypeAlias = Literal["weights", "kv_cache", "activations"]


class DoesNotFit(Exception):
    """Fewer bytes are free than asked for; nothing was booked."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the driver says: free bytes of the device, and bytes this process holds of it."""

    free_bytes: int
    ours_bytes: int


class Ledger:
    def __init__(self, *, name: str, capacity_bytes: int, reserve_bytes: int = 0) -> None:
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self._booked: dict[tuple[str, HolderKind], int] = {}
        self._reading: Reading | None = None

    @property
    def usable_bytes(self) -> int:
        """What one job could have if nothing else were there."""
        return self.capacity_bytes - self.reserve_bytes

    @property
    def booked_bytes(self) -> int:
        return sum(self._booked.values())

    @property
    def others_bytes(self) -> int:
        if self._reading is None:
            return 0
        return max(0, self.capacity_bytes - self._reading.free_bytes - self._reading.ours_bytes)

    @property
    def free_bytes(self) -> int:
        """What may still be booked; never negative."""
        return max(0, self.capacity_bytes - self.others_bytes - self.booked_bytes - self.reserve_bytes)

    def held_by(self, name: str, kind: HolderKind | None = None) -> int:
        """Bytes booked for `name`, of one kind or of all."""
        return sum(n for (holder, its), n in self._booked.items() if holder == name and kind in (None, its))

    def book(self, name: str, kind: HolderKind, n_bytes: int) -> None:
        """Book `n_bytes` more for `name`. Raises `DoesNotFit` and books nothing when fewer are free."""
        if n_bytes > self.free_bytes:
            raise DoesNotFit(f"{name} needs {n_bytes} bytes, {self.free_bytes} are free")
        self._booked[name, kind] = self._booked.get((name, kind), 0) + n_bytes

    def correct(self, name: str, kind: HolderKind, n_bytes: int) -> None:
        """Replace an estimate by what was measured; it is held already, so it is booked whatever is free."""
        self._booked[name, kind] = n_bytes

    def release(self, name: str) -> int:
        """Free all that `name` holds; returns how many bytes that was."""
        freed = self.held_by(name)
        self._booked = {key: n for key, n in self._booked.items() if key[0] != name}
        return freed

    def observe(self, reading: Reading | None) -> None:
        """Take in the driver's figures; None where there is no driver."""
        self._reading = reading

    def status(self) -> DeviceStatus:
        """One row per holder; the rows sum to `used_bytes`."""
        holders = [MemoryHolder(name, kind, n) for (name, kind), n in sorted(self._booked.items()) if n > 0]
        if self.others_bytes:
            holders.append(MemoryHolder("other programs", "other", self.others_bytes))
        used = sum(holder.n_bytes for holder in holders)
        return DeviceStatus(
            name=self.name,
            total_bytes=self.capacity_bytes,
            used_bytes=used,
            others_bytes=self.others_bytes,
            reserve_bytes=self.reserve_bytes,
            free_bytes=self.free_bytes,
            holders=tuple(holders),
        )
