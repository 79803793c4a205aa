"""The ledger: who holds how many bytes of one device, and of the host memory beside it. Integers only; device thread only; no locks, no I/O.

Free = capacity − what others hold − what is booked − reserve, never negative. Others' use is the driver's figure minus ours. On CPU
there is no driver: the capacity is a configured budget and others hold nothing. Weights are booked by component;
activations while a quantum is under way; what is parked is booked of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.jobs import DeviceStatus, MemoryHolder

HolderKind: TypeAlias = Literal["weights", "kv_cache", "activations", "leaked"]


class DoesNotFit(Exception):
    """Fewer bytes are free than asked for; nothing was booked."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the driver says: free bytes of the device, and bytes this process holds of it."""

    free_bytes: int
    ours_bytes: int


class Ledger:
    def __init__(self, *, name: str, capacity_bytes: int, reserve_bytes: int = 0, host_bytes: int = 0) -> None:
        """`host_bytes`: most that may be parked in host memory; 0 where the device is the host."""
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self.host_bytes = host_bytes
        self.booked_bytes = 0
        self.others_bytes = 0
        self._booked: dict[str, dict[tuple[HolderKind, str], int]] = {}  # holder → (kind, component) → bytes
        self._parked: dict[str, int] = {}  # holder → bytes of the host
        self._reading: Reading | None = None

    @property
    def usable_bytes(self) -> int:
        """What one job could have if nothing else were there."""
        return self.capacity_bytes - self.reserve_bytes

    @property
    def has_driver(self) -> bool:
        """Whether a driver reports what is really held."""
        return self._reading is not None

    @property
    def free_bytes(self) -> int:
        """What may still be booked; never negative."""
        return max(0, self.capacity_bytes - self.others_bytes - self.booked_bytes - self.reserve_bytes)

    @property
    def host_free_bytes(self) -> int:
        return max(0, self.host_bytes - sum(self._parked.values()))

    def held_by(self, name: str, kind: HolderKind | None = None) -> int:
        """Bytes of the device booked for `name`, of one kind or of all."""
        return sum(n for (its, _), n in self._booked.get(name, {}).items() if kind in (None, its))

    def parked_of(self, name: str) -> int:
        """Bytes of the host booked for `name`."""
        return self._parked.get(name, 0)

    def book(self, name: str, kind: HolderKind, n_bytes: int, component: str = "") -> None:
        """Book `n_bytes` more for `name`. Raises `DoesNotFit` and books nothing when fewer are free."""
        if n_bytes > self.free_bytes:
            raise DoesNotFit(f"{name} needs {n_bytes} bytes, {self.free_bytes} are free")
        self._set(name, kind, component, self._booked.get(name, {}).get((kind, component), 0) + n_bytes)

    def correct(self, name: str, kind: HolderKind, n_bytes: int, component: str = "") -> None:
        """Replace what is booked by what was measured; it is held already, so it is booked whatever is free."""
        self._set(name, kind, component, n_bytes)

    def correct_weights(self, name: str, on_device: dict[str, int], parked: dict[str, int]) -> None:
        """Replace the weights of `name`, by component, on the device and on the host, by what its lane says it holds."""
        for kind, component in list(self._booked.get(name, {})):
            if kind == "weights" and component not in on_device:
                self._set(name, kind, component, 0)
        for component, n_bytes in on_device.items():
            self._set(name, "weights", component, n_bytes)
        self._parked.pop(name, None)
        if parked:
            self._parked[name] = sum(parked.values())

    def release(self, name: str, kind: HolderKind | None = None) -> int:
        """Free what `name` holds of one kind, or all, parked included; returns how many bytes of the device that was."""
        freed = 0
        for its, component in list(self._booked.get(name, {})):
            if kind in (None, its) and its != "leaked":
                freed += self._booked[name][its, component]
                self._set(name, its, component, 0)
        if kind is None:
            self._parked.pop(name, None)
        return freed

    def leaked(self, name: str, n_bytes: int) -> None:
        """`name` is gone but the driver says that so many of its bytes are not: they stay booked until they come back."""
        self._set(name, "leaked", "", self.held_by(name, "leaked") + n_bytes)

    def observe(self, reading: Reading | None) -> None:
        """Take in the driver's figures; None where there is no driver."""
        self._reading = reading
        if reading is None:
            self.others_bytes = 0
            return
        self.others_bytes = max(0, self.capacity_bytes - reading.free_bytes - reading.ours_bytes)
        for name in [name for name, held in self._booked.items() if ("leaked", "") in held]:
            was = self.held_by(name, "leaked")
            self._set(name, "leaked", "", min(was, max(0, reading.ours_bytes - (self.booked_bytes - was))))

    def status(self) -> DeviceStatus:
        """One row per holder and kind; the rows sum to `used_bytes`."""
        rows: dict[tuple[str, HolderKind], int] = {}
        for name, held in self._booked.items():
            for (kind, _), n_bytes in held.items():
                rows[name, kind] = rows.get((name, kind), 0) + n_bytes
        holders = [MemoryHolder(name, kind, n) for (name, kind), n in sorted(rows.items())]
        if self.others_bytes:
            holders.append(MemoryHolder("other programs", "other", self.others_bytes))
        return DeviceStatus(
            name=self.name,
            total_bytes=self.capacity_bytes,
            used_bytes=sum(holder.n_bytes for holder in holders),
            others_bytes=self.others_bytes,
            reserve_bytes=self.reserve_bytes,
            free_bytes=self.free_bytes,
            holders=tuple(holders),
        )

    def _set(self, name: str, kind: HolderKind, component: str, n_bytes: int) -> None:
        """The only place where bookings change, so that the sum is always theirs."""
        assert n_bytes >= 0
        held = self._booked.setdefault(name, {})
        self.booked_bytes += n_bytes - held.pop((kind, component), 0)
        if n_bytes:
            held[kind, component] = n_bytes
        elif not held:
            del self._booked[name]
