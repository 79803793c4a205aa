"""Ends what revoked keys have left: their jobs, replies, event streams and webhooks. Event loop only.

A key may be revoked over HTTP, or by the command line in a process of its own, so the store is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet

from server.errors import Unavailable
from server.jobs.jobs import Jobs
from server.jobs.live_jobs import LiveJobs
from server.service.running_chats import RunningChats
from server.store import keys, webhooks
from server.store.database import Database

logger = logging.getLogger(__name__)

POLL_S = 1.0  # as long as a revoked key is taken for a valid one at most


class Revocations:
    def __init__(self, *, database: Database, jobs: Jobs, live_jobs: LiveJobs, running_chats: RunningChats) -> None:
        self._database = database
        self._jobs = jobs
        self._live_jobs = live_jobs
        self._running_chats = running_chats

    async def run(self) -> None:
        """Looks for revoked keys, for ever. With nothing under way, the store is not asked."""
        while True:
            try:
                await self.end_revoked()
            except Unavailable:
                logger.warning("revoked keys are looked for again when the store answers")
            except Exception:  # one key's work must not keep the others'
                logger.exception("the work of revoked keys was not ended")
            await asyncio.sleep(POLL_S)

    async def end_revoked(self) -> None:
        """Ends what is under way for keys that were revoked."""
        in_use = self._keys_in_use()
        if in_use:
            for key_id in await self._database.read(lambda conn: keys.revoked_among(conn, in_use)):
                await self.end(key_id)

    async def end(self, key_id: str) -> None:
        """Ends everything of this key that is under way. Queued jobs are refunded."""
        self._live_jobs.watchers.close(key_id)
        n_jobs, n_replies = self._jobs.cancel_all(key_id), self._running_chats.cancel_all(key_id)
        await self._database.write(lambda conn: webhooks.forget_key(conn, key_id))
        if n_jobs or n_replies:
            logger.info("ended the work of a revoked key", extra={"key_id": key_id, "jobs": n_jobs, "chats": n_replies})

    def _keys_in_use(self) -> AbstractSet[str]:
        watching = {watch.key_id for watch in self._live_jobs.watchers.all()}
        return watching | self._live_jobs.key_ids() | self._running_chats.key_ids()
