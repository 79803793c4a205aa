"""Charges a chat message to the daily limit of its key, and refunds it when the reply fails. Event loop only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from server.accounts.auth import ApiKey
from server.accounts.quotas import Plan, seconds_to_reset, today
from server.jobs.artifacts import new_id
from server.jobs.results import Results
from server.store import open_chats, usage


@dataclass(frozen=True, slots=True)
class ChatCharge:
    id: str  # the store refunds each id once
    key_id: str
    day: str
    limit: int | None  # messages per day; None: unlimited
    used: int  # messages charged on this day, this one included
    n_choices: int  # replies to the message: each is charged as one message

    def refund(self, results: Results) -> asyncio.Task[bool]:
        """Refunds the message in a task, because the client may have disconnected."""

        def refund(conn: Connection) -> bool:
            open_chats.ended(conn, self.id)
            return usage.refund_units(conn, self.id, self.key_id, self.day, "chats", self.n_choices)

        return results.spawn(results.persist(refund))

    def keep(self, results: Results) -> asyncio.Task[None]:
        """Keeps the charge, in a task: until then the next start would refund it, as that of a chat cut off."""
        return results.spawn(results.persist(lambda conn: open_chats.ended(conn, self.id)))


def charge_chat(conn: Connection, key: ApiKey, plan: Plan, now: datetime, n_choices: int = 1) -> ChatCharge:
    """Raises `QuotaUsedUp` and charges nothing when the daily limit is reached."""
    day, limit = today(now), plan.chats
    used = usage.charge(conn, key.id, day, "chats", n_choices, limit, retry_after_s=seconds_to_reset(now))
    chat_id = f"chat_{new_id()}"
    open_chats.opened(conn, chat_id, key.id, day, n_choices)
    return ChatCharge(chat_id, key.id, day, limit, used, n_choices)
