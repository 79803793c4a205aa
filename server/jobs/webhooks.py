"""Calls the webhooks of ended jobs: signs the calls and repeats them until they succeed, across restarts too.

Event loop only. A call is stored in the transaction that ends its job, so no call is lost. A receiver may get a call
twice, with the same id, when the server ends before it has stored the reply. Signatures follow standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from server.errors import BadRequest, NotFound, Unavailable
from server.jobs import safe_post
from server.jobs.safe_post import Refused, Target
from server.store import webhooks as store
from server.store.database import Database
from server.store.webhooks import Call

logger = logging.getLogger(__name__)

# Seconds between the tries of a call, about a day in all; then the call is given up.
BACK_OFF_S = (5, 30, 120, 600, 3600, 4 * 3600, 8 * 3600, 12 * 3600)
MAX_CONCURRENT = 8
POLL_S = 60.0  # longest wait between two looks for due calls
STORE_RETRY_S = 5.0  # wait after the store was unavailable

Post = Callable[[Target, str, bytes, Mapping[str, str]], int]


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
        self._job_ended = asyncio.Event()

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
        self._job_ended.set()

    async def run(self, describe: Callable[[str, str], Awaitable[Any]]) -> None:
        """Makes calls as they become due, for ever.

        describe: (key id, job id) → the job's status as JSON; raises `NotFound` for a deleted job.
        """
        while True:
            self._job_ended.clear()
            try:
                wait_s = await self.deliver(describe)
            except Unavailable:
                logger.warning("webhooks wait for the store")
                wait_s = STORE_RETRY_S
            except Exception:  # one call that cannot be made must not end all the others
                logger.exception("webhooks failed")
                wait_s = STORE_RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._job_ended.wait()

    async def deliver(self, describe: Callable[[str, str], Awaitable[Any]]) -> float:
        """Makes the calls that are due; returns the seconds to wait before the next look."""
        while calls := await self._database.read(lambda conn: store.due(conn, self._clock(), MAX_CONCURRENT)):
            await asyncio.gather(*(self._call(call, describe) for call in calls))
        next_at = await self._database.read(store.next_at)
        if next_at is None:
            return POLL_S
        return min(POLL_S, max(0.0, (next_at - self._clock()).total_seconds()))

    async def _call(self, call: Call, describe: Callable[[str, str], Awaitable[Any]]) -> None:
        fields = {"webhook_id": f"evt_{call.event_id}", "job": call.job_id, "tries": call.tries + 1}
        try:
            status = await self._send(call, await describe(call.key_id, call.job_id))
        except (Refused, NotFound):  # the name has a private address, or the job was deleted
            logger.warning("webhook refused", extra=fields)
            await self._remove(call)
            return
        except Unavailable:
            raise  # of the store: nothing was sent, so this was no try
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
        event_id, at = f"evt_{call.event_id}", int(self._clock().timestamp())
        body = json.dumps({"type": f"job.{call.name}", "id": event_id, "data": status}, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "AgentName",
            "webhook-id": event_id,
            "webhook-timestamp": str(at),
            "webhook-signature": self.signature(call.key_id, event_id, at, body),
        }
        address = await asyncio.to_thread(safe_post.resolve, target, self._allowed_networks, self._look_up)
        return await asyncio.to_thread(self._post, target, address, body, headers)

    async def _remove(self, call: Call) -> None:
        await self._database.write(lambda conn: store.done(conn, call.event_id))

    def signature(self, key_id: str, event_id: str, at: int, body: bytes) -> str:
        digest = hmac.digest(self._signing_key(key_id), f"{event_id}.{at}.".encode() + body, "sha256")
        return f"v1,{base64.b64encode(digest).decode()}"

    def _signing_key(self, key_id: str) -> bytes:
        return hmac.digest(self._secret, f"webhooks of {key_id}".encode(), "sha256")
