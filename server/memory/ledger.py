"""The ledger: who holds how many bytes of one device, and of the host memory beside it. Integers only; device thread only; no locks, no I/O.

Free = capacity − what others hold − what is booked − reserve, never negative. Others' use is the driver's figure minus ours. On CPU
there is no driver: the capacity is a configured budget and others hold nothing. Weights are booked by component;
activations while a quantum is under way; what is parked is booked of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from server.protocol import DeviceStatus, MemoryHolder

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
        self._users: dict[str, list[tuple[str, str]]] = {}  # whose weights → (holder, component); booked for the first
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
        gone = {
            user for users in self._users.values() for user in users if user[0] == name and user[1] not in on_device
        }
        for component, n_bytes in on_device.items():
            self._set(name, "weights", component, 0 if self._pays_another(name, component) else n_bytes)
        for whose in list(self._users):  # what was parked comes back as memory of its own
            self._users[whose] = [user for user in self._users[whose] if user not in gone]
        self._parked.pop(name, None)
        if parked:
            self._parked[name] = sum(parked.values())

    # Weights that several models use

    def share(self, name: str, component: str, whose: str) -> None:
        """`component` of `name`, just loaded, is the same memory as others' who said the same `whose`; it is booked once."""
        self._users.setdefault(whose, []).append((name, component))

    def there_already(self, shareable: Mapping[str, tuple[str, int]]) -> int:
        """Bytes of these that somebody holds, so that they need no room."""
        return sum(n_bytes for whose, n_bytes in shareable.values() if self._users.get(whose))

    def is_shared(self, name: str) -> bool:
        return any(len(users) > 1 and name in dict(users) for users in self._users.values())

    def freed_by(self, name: str) -> int:
        """What comes back when `name` leaves: not what another goes on using."""
        paid = [users[0] for users in self._users.values() if len(users) > 1 and users[0][0] == name]
        return self.held_by(name) - sum(self._weights_of(*user) for user in paid)

    def _pays_another(self, name: str, component: str) -> bool:
        return any((name, component) in users[1:] for users in self._users.values())

    def _weights_of(self, name: str, component: str) -> int:
        return self._booked.get(name, {}).get(("weights", component), 0)

    def _hand_over(self, name: str) -> None:
        """What `name` paid for and others use is booked for the next of them."""
        for whose, users in list(self._users.items()):
            left = [user for user in users if user[0] != name]
            if left and left[0] != users[0]:
                n_bytes = self._weights_of(*users[0])
                self._set(users[0][0], "weights", users[0][1], 0)
                self._set(left[0][0], "weights", left[0][1], n_bytes)
            self._users[whose] = left
        self._users = {whose: users for whose, users in self._users.items() if users}

    def release(self, name: str, kind: HolderKind | None = None) -> int:
        """Free what `name` holds of one kind, or all, parked included; returns how many bytes of the device that was."""
        freed = 0
        if kind is None:
            self._hand_over(name)
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
