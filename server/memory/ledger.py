"""Books who holds how many bytes of one device and of host memory. Device thread only: integers, no locks, no I/O.

Free bytes = capacity − bytes of other programs − booked bytes − reserve, never negative. The bytes of other programs
follow from a reading: what is missing from the capacity although neither free nor ours. Weights are booked per
component, activations while a forward runs, and parked weights in host memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.engine_status import DeviceStatus, MemoryHolder

HolderKind: TypeAlias = Literal["weights", "kv_cache", "activations", "leaked"]


class DoesNotFit(Exception):
    """Fewer bytes are free than were asked for; nothing was booked."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the GPU driver, or the system on a CPU device, reports at one moment."""

    free_bytes: int  # of the device
    ours_bytes: int  # of the device, held by this process
    exact: bool = (
        True  # `ours_bytes` falls when a model leaves; not so on a CPU, where the C library keeps freed memory
    )
    host_free_bytes: int | None = (
        None  # host memory that parked weights may take now; None where the device is the host
    )


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
        self._parked: dict[str, int] = {}  # holder → bytes of host memory
        self._users: dict[str, list[tuple[str, str]]] = {}  # weights → (model, component); booked for the first
        self._reading: Reading | None = None
        self._parked_at_reading = 0  # bytes that were parked when the newest figure of host memory came

    @property
    def usable_bytes(self) -> int:
        """What one job could have on an otherwise empty device."""
        return self.capacity_bytes - self.reserve_bytes

    @property
    def has_driver(self) -> bool:
        """Whether a driver reports exactly what is held, so that the peak of a forward can be measured."""
        return self._reading is not None and self._reading.exact

    @property
    def cached_bytes(self) -> int:
        """What this process holds but nobody has booked: freed by jobs and kept by the allocator for the next ones.

        It may still be booked. Only a driver's figure shows it.
        """
        if self._reading is None or not self.has_driver:
            return 0
        return max(0, self._reading.ours_bytes - self.booked_bytes)

    @property
    def free_bytes(self) -> int:
        """What may still be booked; never negative."""
        return max(0, self.capacity_bytes - self.others_bytes - self.booked_bytes - self.reserve_bytes)

    @property
    def host_free_bytes(self) -> int:
        """What may still be parked: within the budget, and within the host memory that is available now."""
        parked = sum(self._parked.values())
        budget = max(0, self.host_bytes - parked)
        if self._reading is None or self._reading.host_free_bytes is None:
            return budget
        available = self._reading.host_free_bytes - max(0, parked - self._parked_at_reading)
        return max(0, min(budget, available))

    def held_by(self, name: str, kind: HolderKind | None = None, component: str | None = None) -> int:
        """Bytes of the device booked for `name`, of one kind or component or of all."""
        return sum(
            n
            for (booked_kind, part), n in self._booked.get(name, {}).items()
            if kind in (None, booked_kind) and component in (None, part)
        )

    def parked_of(self, name: str) -> int:
        """Bytes of host memory booked for `name`."""
        return self._parked.get(name, 0)

    def book(self, name: str, kind: HolderKind, n_bytes: int, component: str = "") -> None:
        """Book `n_bytes` more for `name`. Raises `DoesNotFit` and books nothing when fewer are free."""
        if n_bytes > self.free_bytes:
            raise DoesNotFit(f"{name} needs {n_bytes} bytes, {self.free_bytes} are free")
        self._set(name, kind, component, self._booked.get(name, {}).get((kind, component), 0) + n_bytes)

    def correct(self, name: str, kind: HolderKind, n_bytes: int, component: str = "") -> None:
        """Replace what is booked by what was measured. The bytes are held already, so no free bytes are required."""
        self._set(name, kind, component, n_bytes)

    def correct_weights(self, name: str, on_device: dict[str, int], parked: dict[str, int]) -> None:
        """Replace the booked weights of `name` by what its lane reports for each component."""
        for kind, component in list(self._booked.get(name, {})):
            if kind == "weights" and component not in on_device:
                self._set(name, kind, component, 0)
        gone = {
            user for users in self._users.values() for user in users if user[0] == name and user[1] not in on_device
        }
        for component, n_bytes in on_device.items():
            self._set(name, "weights", component, 0 if self._is_paid_by_another(name, component) else n_bytes)
        for weights in list(self._users):  # parked weights come back as memory of their own, no longer shared
            self._users[weights] = [user for user in self._users[weights] if user not in gone]
        self._parked.pop(name, None)
        if parked:
            self._parked[name] = sum(parked.values())

    # Weights that several models use

    def share(self, name: str, component: str, weights: str) -> None:
        """Note that `component` of `name` uses `weights`: memory that is booked once for all its users."""
        self._users.setdefault(weights, []).append((name, component))

    def bytes_already_held(self, shareable: Mapping[str, tuple[str, int]]) -> int:
        """Bytes of these components whose weights another model holds already. shareable: component → (key, bytes)."""
        return sum(n_bytes for weights, n_bytes in shareable.values() if self._users.get(weights))

    def is_shared(self, name: str) -> bool:
        """Whether another model uses some of the weights of `name`."""
        return any(len(users) > 1 and name in dict(users) for users in self._users.values())

    def freed_by(self, name: str) -> int:
        """Bytes that become free when `name` leaves: not those that another model goes on using."""
        paid = [users[0] for users in self._users.values() if len(users) > 1 and users[0][0] == name]
        return self.held_by(name) - sum(self._weights_of(*user) for user in paid)

    def _is_paid_by_another(self, name: str, component: str) -> bool:
        return any((name, component) in users[1:] for users in self._users.values())

    def _weights_of(self, name: str, component: str) -> int:
        return self._booked.get(name, {}).get(("weights", component), 0)

    def _hand_over(self, name: str) -> None:
        """Book shared weights that were booked for `name` for the next model that uses them."""
        for weights, users in list(self._users.items()):
            left = [user for user in users if user[0] != name]
            if left and left[0] != users[0]:
                n_bytes = self._weights_of(*users[0])
                self._set(users[0][0], "weights", users[0][1], 0)
                self._set(left[0][0], "weights", left[0][1], n_bytes)
            self._users[weights] = left
        self._users = {weights: users for weights, users in self._users.items() if users}

    def release(self, name: str, kind: HolderKind | None = None) -> int:
        """Free what `name` holds of one kind, or all with the parked weights; returns the freed bytes of the device."""
        freed = 0
        if kind is None:
            self._hand_over(name)
        for booked_kind, component in list(self._booked.get(name, {})):
            if kind in (None, booked_kind) and booked_kind != "leaked":
                freed += self._booked[name][booked_kind, component]
                self._set(name, booked_kind, component, 0)
        if kind is None:
            self._parked.pop(name, None)
        return freed

    def leaked(self, name: str, n_bytes: int) -> None:
        """`name` has left, but the driver has not got `n_bytes` of it back: they stay booked until it has."""
        self._set(name, "leaked", "", self.held_by(name, "leaked") + n_bytes)

    def observe(self, reading: Reading | None) -> None:
        """Take in the newest reading; without one (None) other programs count as holding nothing."""
        known = self._reading
        if reading is not None and (known is None or known.host_free_bytes != reading.host_free_bytes):
            self._parked_at_reading = sum(self._parked.values())  # equal figures: the same one, handed on once more
        self._reading = reading
        if reading is None:
            self.others_bytes = 0
            return
        self.others_bytes = max(0, self.capacity_bytes - reading.free_bytes - reading.ours_bytes)
        for name in [name for name, held in self._booked.items() if ("leaked", "") in held]:
            was = self.held_by(name, "leaked")
            self._set(name, "leaked", "", min(was, max(0, reading.ours_bytes - (self.booked_bytes - was))))

    def status(self) -> DeviceStatus:
        """One row for each holder and kind; the rows sum to `used_bytes`."""
        rows: dict[tuple[str, HolderKind], int] = {}
        for name, held in self._booked.items():
            for (kind, _), n_bytes in held.items():
                rows[name, kind] = rows.get((name, kind), 0) + n_bytes
        holders = [MemoryHolder(name, kind, n) for (name, kind), n in sorted(rows.items())]
        if self.cached_bytes:
            holders.append(MemoryHolder("kept for the next job", "cached", self.cached_bytes))
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
        """The only place where bookings change, so that `booked_bytes` is always their sum."""
        assert n_bytes >= 0
        held = self._booked.setdefault(name, {})
        self.booked_bytes += n_bytes - held.pop((kind, component), 0)
        if n_bytes:
            held[kind, component] = n_bytes
        elif not held:
            del self._booked[name]
