"""Tells other servers how jobs ended: signed, again until it gets through, and over restarts. Event loop only.

What is to be told is in the store with the end itself, so nothing is lost between the two. A call may get through twice (the
server died before it noted the answer); its id is the same then. Signatures are those of standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
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

# Between tries; after the last of them it is given up: about a day in all.
BACK_OFF_S = (5, 30, 120, 600, 3600, 4 * 3600, 8 * 3600, 12 * 3600)
AT_ONCE = 8
LOOK_EVERY_S = 60.0  # if nothing wakes it earlier

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
        """`allowed_networks`, like "192.168.1.0/24", may be called though they are private."""
        self._database = database
        self._secret = secret
        self._clock = clock
        self._allowed = tuple(ip_network(network) for network in allowed_networks)
        self._look_up = look_up
        self._post = post
        self._ended = asyncio.Event()

    def check(self, url: str) -> None:
        """Raises `BadRequest`."""
        try:
            safe_post.check(url, self._allowed)
        except Refused as error:
            raise BadRequest(f"webhook_url must be {error}.") from None

    def secret_of(self, key_id: str) -> str:
        """What this key's receivers check signatures with."""
        return f"whsec_{base64.b64encode(self._key(key_id)).decode()}"

    def wake(self) -> None:
        """A job has ended: it may have somebody to tell."""
        self._ended.set()

    async def run(self, describe: Callable[[str, str], Awaitable[Any]]) -> None:
        """For ever. `describe(key_id, job_id)` gives the job's status as JSON, and raises `NotFound` when it is gone."""
        while True:
            self._ended.clear()
            try:
                wait_s = await self.deliver(describe)
            except Unavailable:
                logger.warning("webhooks wait for the store")
                wait_s = 5.0
            try:
                async with asyncio.timeout(wait_s):
                    await self._ended.wait()
            except TimeoutError:
                pass

    async def deliver(self, describe: Callable[[str, str], Awaitable[Any]]) -> float:
        """Make the calls that are due. Returns the seconds until the next is."""
        while calls := await self._database.read(lambda conn: store.due(conn, self._clock(), AT_ONCE)):
            await asyncio.gather(*(self._call(call, describe) for call in calls))
        following = await self._database.read(store.next_at)
        return (
            LOOK_EVERY_S
            if following is None
            else min(LOOK_EVERY_S, max(0.0, (following - self._clock()).total_seconds()))
        )

    async def _call(self, call: Call, describe: Callable[[str, str], Awaitable[Any]]) -> None:
        said = {"webhook_id": f"evt_{call.event_id}", "job": call.job_id, "tries": call.tries + 1}
        try:
            status = await self._send(call, await describe(call.key_id, call.job_id))
        except (Refused, NotFound):
            logger.warning(
                "webhook refused", extra=said
            )  # its name leads into a private network, or its job is deleted
            await self._done(call)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            status, said = 0, {**said, "cause": type(error).__name__}
        if 200 <= status < 300:
            logger.info("webhook delivered", extra=said)
            await self._done(call)
        elif call.tries >= len(BACK_OFF_S) or status == 410:  # Gone: the receiver wants no more
            logger.warning("webhook given up", extra={**said, "status": status})
            await self._done(call)
        else:
            until = self._clock() + timedelta(seconds=BACK_OFF_S[call.tries])
            logger.info(
                "webhook failed, trying again", extra={**said, "status": status, "wait_s": BACK_OFF_S[call.tries]}
            )
            await self._database.write(lambda conn: store.postpone(conn, call.event_id, until))

    async def _send(self, call: Call, status: Any) -> int:
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
        address = await asyncio.to_thread(safe_post.resolve, target, self._allowed, self._look_up)
        return await asyncio.to_thread(self._post, target, address, body, headers)

    async def _done(self, call: Call) -> None:
        await self._database.write(lambda conn: store.done(conn, call.event_id))

    def signature(self, key_id: str, event_id: str, at: int, body: bytes) -> str:
        digest = hmac.digest(self._key(key_id), f"{event_id}.{at}.".encode() + body, "sha256")
        return f"v1,{base64.b64encode(digest).decode()}"

    def _key(self, key_id: str) -> bytes:
        return hmac.digest(self._secret, f"webhooks of {key_id}".encode(), "sha256")
