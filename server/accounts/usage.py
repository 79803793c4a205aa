"""API keys and their usage of the day: the requesting key's own, and all keys for an admin. Event loop only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan, today
from server.errors import BadRequest, Conflict, NotFound, Unavailable
from server.store import keys, usage
from server.store.database import Database
from server.store.keys import KeyRow
from server.store.usage import KINDS, Kind

UNUSED: Mapping[Kind, int] = dict.fromkeys(KINDS, 0)


@dataclass(frozen=True, slots=True)
class Account:
    key: KeyRow
    used: Mapping[Kind, int]  # today
    plan: Plan | None  # None: the settings no longer have the plan, so the key cannot start anything


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has used today of one kind, for the RateLimit headers."""

    kind: Kind
    limit: int | None
    used: int


class Accounts:
    def __init__(self, *, database: Database, plans: Mapping[str, Plan], clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self.plans = plans

    def plan_of(self, key: ApiKey) -> Plan:
        """Raises `Unavailable` when the settings no longer have the key's plan."""
        plan = self.plans.get(key.plan)
        if plan is None:
            raise Unavailable("This key's plan is not among the configured ones.")
        return plan

    async def allowance(self, key: ApiKey, kind: Kind) -> Allowance:
        used = await self.used(key)
        return Allowance(kind, self.plan_of(key).limit(kind), used[kind])

    async def used(self, key: ApiKey) -> Mapping[Kind, int]:
        day = today(self._clock())
        return await self._database.read(lambda conn: usage.used_today(conn, key.id, day))

    async def list(self) -> Sequence[Account]:
        """All keys, revoked ones too, oldest first."""
        day = today(self._clock())
        rows, used = await self._database.read(lambda conn: (keys.list_keys(conn), usage.used_by_all(conn, day)))
        return [self._account(row, used.get(row.id, UNUSED)) for row in rows]

    async def create(self, name: str, plan: str, scopes: Iterable[str]) -> tuple[Account, str]:
        """Make a key; returns it and its text, which is shown only now. Raises `BadRequest`, `Conflict`."""
        if plan not in self.plans:
            raise BadRequest(f"plan must be one of {', '.join(self.plans)}.")
        now = self._clock()
        try:
            row, text = await self._database.write(lambda conn: keys.create_key(conn, name, plan, scopes, now))
        except Conflict:  # the store's text quotes the name, which is meant for the command line
            raise Conflict("A live key has that name. Choose another one, or revoke that key first.") from None
        return self._account(row, UNUSED), text

    async def revoke(self, key_id: str) -> Account:
        """Revoke a key. Revoking it again changes nothing. Raises `NotFound`."""
        now, day = self._clock(), today(self._clock())

        def revoke(conn: Connection) -> tuple[KeyRow | None, Mapping[Kind, int]]:
            return keys.revoke_id(conn, key_id, now), usage.used_today(conn, key_id, day)

        row, used = await self._database.write(revoke)
        if row is None:
            raise NotFound("There is no such key.")
        return self._account(row, used)

    def _account(self, row: KeyRow, used: Mapping[Kind, int]) -> Account:
        return Account(row, used, self.plans.get(row.plan))
