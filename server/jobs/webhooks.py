"""Calls the webhooks of ended jobs: signs the calls and repeats them until they succeed, across restarts too.

Event loop; the network on threads of their own. A call is stored in the transaction that ends its job, so no call is
lost. A receiver may get a call twice, with the same id, when the server ends before it has stored the reply. Signatures
follow standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, TypeAlias

from server.errors import BadRequest, NotFound, Unavailable
from server.jobs import safe_post
from server.jobs.safe_post import Refused, Target
from server.store import webhooks as store
from server.store.database import Database
from server.store.webhooks import Call

logger = logging.getLogger(__name__)

# Seconds between the tries of a call, about a day in all; then the call is given up.
BACK_OFF_S = (5, 30, 120, 600, 3600, 4 * 3600, 8 * 3600, 12 * 3600)
MAX_CONCURRENT, MAX_PER_KEY = 32, 4
POLL_S = 60.0  # longest wait between two looks for due calls
STORE_RETRY_S = 5.0  # wait after the store was unavailable

Post: TypeAlias = Callable[[Target, str, bytes, Mapping[str, str]], int]
Describe: TypeAlias = Callable[[str, str], Awaitable[Any]]  # (key id, job id) → the status of the job


class Webhooks:
    def __init__(
        self,
        database: Database,
        *,
        secret: bytes,
        clock: Callable[[], datetime],
        allowed_networks: Sequence[str] = (),
        look_up: Callable[[str, int], Sequence[str]] = safe_post.look_up,
        post: Post = safe_post.post,
    ) -> None:
        """allowed_networks: private networks that may be called, such as "192.168.1.0/24"."""
        self._database = database
        self._secret = secret
        self._clock = clock
        self._allowed_networks = tuple(ip_network(network) for network in allowed_networks)
        self._look_up = look_up
        self._post = post
        self._woken = asyncio.Event()  # a job has ended, or a call has
        # Threads of its own: a receiver that never answers holds up nothing else.
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="webhooks")
        self.under_way: dict[asyncio.Task[None], Call] = {}

    def check(self, url: str) -> None:
        """Raises `BadRequest` for a URL that the server does not call."""
        try:
            safe_post.check(url, self._allowed_networks)
        except Refused as error:
            raise BadRequest(f"webhook_url must be {error}.") from None

    def secret_of(self, key_id: str) -> str:
        """The secret with which the receivers of this key verify signatures."""
        return f"whsec_{base64.b64encode(self._signing_key(key_id)).decode()}"

    def wake(self) -> None:
        """Makes `run` look for due calls now: a job has ended."""
        self._woken.set()

    async def run(self, describe: Describe) -> None:
        """Makes calls as they become due, for ever.

        describe: (key id, job id) → the job's status as JSON; raises `NotFound` for a deleted job.
        """
        while True:
            self._woken.clear()
            try:
                wait_s = await self.begin_due(describe)
            except Unavailable:
                logger.warning("webhooks wait for the store")
                wait_s = STORE_RETRY_S
            except Exception:  # one call that cannot be made must not end all the others
                logger.exception("webhooks failed")
                wait_s = STORE_RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def begin_due(self, describe: Describe) -> float:
        """Begins the calls that are due and for which there is room. Returns the seconds until others may be due.

        A receiver that never answers takes the room of its own key alone.
        """
        now = self._clock()
        under_way = tuple(call.event_id for call in self.under_way.values())
        calls = await self._database.read(lambda conn: store.due(conn, now, MAX_PER_KEY, under_way))
        of_key = Counter(call.key_id for call in self.under_way.values())
        for call in calls:
            if len(self.under_way) < MAX_CONCURRENT and of_key[call.key_id] < MAX_PER_KEY:
                of_key[call.key_id] += 1
                task = asyncio.create_task(self._call(call, describe))
                self.under_way[task] = call
                task.add_done_callback(self._ended)
        next_at = await self._database.read(lambda conn: store.next_at(conn, now))
        return POLL_S if next_at is None else min(POLL_S, (next_at - now).total_seconds())

    def close(self) -> None:
        """Gives up the calls under way; the next process makes them again."""
        for task in self.under_way:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.under_way[task]
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a webhook failed", exc_info=error)

    async def _call(self, call: Call, describe: Describe) -> None:
        fields = {"webhook_id": f"evt_{call.event_id}", "job": call.job_id, "tries": call.tries + 1}
        try:
            await self._call_once(call, describe, fields)
        except Unavailable:  # of the store
            logger.warning("webhook waits for the store", extra=fields)
            await asyncio.sleep(STORE_RETRY_S)  # else it would be due again at once

    async def _call_once(self, call: Call, describe: Describe, fields: Mapping[str, object]) -> None:
        try:
            status = await self._send(call, await describe(call.key_id, call.job_id))
        except (Refused, NotFound):  # the name has a private address, or the job was deleted
            logger.warning("webhook refused", extra=fields)
            await self._remove(call)
            return
        except Unavailable:
            raise  # nothing was sent, so this was no try
        except Exception as error:  # noqa: BLE001  # whatever the network, the receiver or the description of the job raises
            status, fields = 0, {**fields, "cause": type(error).__name__}
        if 200 <= status < 300:
            logger.info("webhook delivered", extra=fields)
            await self._remove(call)
        elif call.tries >= len(BACK_OFF_S) or status == 410:  # 410 Gone: the receiver wants no more calls
            logger.warning("webhook given up", extra={**fields, "status": status})
            await self._remove(call)
        else:
            wait_s = BACK_OFF_S[call.tries]
            retry_at = self._clock() + timedelta(seconds=wait_s)
            logger.info("webhook failed, trying again", extra={**fields, "status": status, "wait_s": wait_s})
            await self._database.write(lambda conn: store.postpone(conn, call.event_id, retry_at))

    async def _send(self, call: Call, status: Any) -> int:
        """Returns the HTTP status of the receiver's reply."""
        target = safe_post.parse(call.url)
        event_id, at = f"evt_{call.event_id}", int(time.time())  # what receivers compare with their clocks
        body = json.dumps({"type": f"job.{call.name}", "id": event_id, "data": status}, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "AgentName",
            "webhook-id": event_id,
            "webhook-timestamp": str(at),
            "webhook-signature": self.signature(call.key_id, event_id, at, body),
        }
        loop = asyncio.get_running_loop()
        address = await loop.run_in_executor(
            self._pool, safe_post.resolve, target, self._allowed_networks, self._look_up
        )
        return await loop.run_in_executor(self._pool, self._post, target, address, body, headers)

    async def _remove(self, call: Call) -> None:
        await self._database.write(lambda conn: store.done(conn, call.event_id))

    def signature(self, key_id: str, event_id: str, at: int, body: bytes) -> str:
        digest = hmac.digest(self._signing_key(key_id), f"{event_id}.{at}.".encode() + body, "sha256")
        return f"v1,{base64.b64encode(digest).decode()}"

    def _signing_key(self, key_id: str) -> bytes:
        return hmac.digest(self._secret, f"webhooks of {key_id}".encode(), "sha256")
