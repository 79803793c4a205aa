"""Who is asking: the API key of a request, looked up and held for at most a second. Event loop only."""

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
CACHE_SIZE = 4096  # keys; only live ones are held, so strangers cannot fill it


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    name: str
    plan: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises `Forbidden` without it."""
        if scope not in self.scopes:
            raise Forbidden(f"This API key lacks the scope '{scope}'.")


@dataclass(frozen=True, slots=True)
class LocalKey:
    """The key of this machine: whoever may read the data directory is its admin. New at each start, never in the store."""

    key: ApiKey
    digest: bytes


def write_local_key(data_dir: Path, *, plan: str = "enterprise") -> LocalKey:
    """Make the key of this process and leave it in a file that only its user can read, for the command line."""
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

    async def identify(self, authorization_header: str | None, *, basic: bool = False) -> ApiKey:
        """`basic`: the key may also be the password of Basic authentication.

        Raises `Unauthorized`, one and the same for a missing, malformed, unknown and revoked key."""
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
        self._live[digest] = (now, key)  # the moment before the look-up: no answer is older than it claims
        return key


def _bearer_token(header: str | None) -> str:
    """Empty, which is never well formed, when there is none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def _basic_password(header: str | None) -> str:
    """Empty when there is none. The user's name may be anything."""
    scheme, _, said = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(said.strip(" "), validate=True).decode("ascii").partition(":")[2]
    except ValueError:  # no base64, or no ASCII
        return ""
