"""Identifies the API key of a request; a look-up in the store holds for at most a second. Event loop only."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

from server.errors import Forbidden, Unauthorized
from server.paths import LOCAL_KEY_FILE
from server.store.database import Database
from server.store.keys import SCOPES, by_digest, digest_of, new_key, well_formed

CACHE_S = 1.0  # a revoked key works no longer than this
CACHE_SIZE = 4096  # keys; only valid ones are cached, so invalid requests cannot fill the cache


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    name: str
    plan: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises `Forbidden` when the key does not have `scope`."""
        if scope not in self.scopes:
            raise Forbidden(f"This API key lacks the scope '{scope}'.")


@dataclass(frozen=True, slots=True)
class LocalKey:
    """The admin key of this machine, for all who may read the data directory. New at each start, never in the store."""

    key: ApiKey
    digest: bytes


def write_local_key(data_dir: Path, *, plan: str = "enterprise") -> LocalKey:
    """Make the local key of this process and write it to a file that only its user can read, for the command line."""
    text = new_key()
    temporary = data_dir / f"{LOCAL_KEY_FILE}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
    temporary.replace(data_dir / LOCAL_KEY_FILE)
    return LocalKey(ApiKey("local", "local", plan, SCOPES), digest_of(text))


class Authenticator:
    def __init__(
        self, database: Database, *, local_key: LocalKey | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._local_key = local_key
        self._clock = clock
        self._live: dict[bytes, tuple[float, ApiKey]] = {}  # digest → looked up at, key

    async def identify(
        self, authorization_header: str | None, *, bare_key: str | None = None, basic: bool = False
    ) -> ApiKey:
        """The key that a request was sent with. bare_key: of a header of its own, which counts only without an
        Authorization header. basic: the key may also be the password of Basic authentication.

        Raises `Unauthorized`, with the same text for a missing, malformed, unknown and revoked key.
        """
        if authorization_header is None:
            text = bare_key or ""
        else:
            text = _bearer_token(authorization_header) or (_basic_password(authorization_header) if basic else "")
        if not well_formed(text):
            raise Unauthorized
        digest = digest_of(text)
        if self._local_key is not None and compare_digest(digest, self._local_key.digest):
            return self._local_key.key
        now = self._clock()
        looked_up_at, key = self._live.get(digest, (now - CACHE_S, None))
        if key is not None and now - looked_up_at < CACHE_S:
            return key
        row = await self._database.read(lambda conn: by_digest(conn, digest))
        if row is None:
            self._live.pop(digest, None)
            raise Unauthorized
        key = ApiKey(row.id, row.name, row.plan, row.scopes)
        if len(self._live) >= CACHE_SIZE:
            self._live.clear()
        self._live[digest] = (now, key)  # the time before the look-up, so that no entry is older than it claims
        return key


def _bearer_token(header: str | None) -> str:
    """The token of a Bearer header; without one "", which is never a well-formed key."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def _basic_password(header: str | None) -> str:
    """The password of a Basic header, whatever the user name; "" without one."""
    scheme, _, credentials = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(" "), validate=True).decode("ascii").partition(":")[2]
    except ValueError:  # neither base64 nor ASCII
        return ""
