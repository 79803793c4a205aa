"""Charges one chat message to the daily limit of its key, and refunds it when the reply fails. Event loop only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan, seconds_to_reset, today
from server.jobs.artifacts import new_id
from server.jobs.results import Results
from server.store import usage


@dataclass(frozen=True, slots=True)
class ChatCharge:
    id: str  # the store refunds each id once
    key_id: str
    day: str
    limit: int | None  # messages per day; None: unlimited
    used: int  # messages charged on this day, this one included

    def refund(self, results: Results) -> None:
        """Refunds the message in a task, because the client may have disconnected."""

        def refund(conn: Connection) -> bool:
            return usage.refund_units(conn, self.id, self.key_id, self.day, "chats", 1)

        results.spawn(results.persist(refund))


def charge_chat(conn: Connection, key: ApiKey, plan: Plan, now: datetime) -> ChatCharge:
    """Raises `QuotaUsedUp` and charges nothing when the daily limit is reached."""
    day, limit = today(now), plan.chats
    used = usage.charge(conn, key.id, day, "chats", 1, limit, retry_after_s=seconds_to_reset(now))
    return ChatCharge(f"chat_{new_id()}", key.id, day, limit, used)
