"""API keys: their format, and the rows that store their SHA-256 digests. A key itself is shown once, when it is
created.

A key is `an_`, 22 random base62 characters (131 bits), `_`, and a checksum of 6 base62 characters. The checksum detects
a typing error or a truncated paste without a query, and lets a secret scanner tell real keys from lookalikes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, Row, insert, or_, select, update

from server.errors import Conflict, NotFound
from server.store import schema

SCOPES = frozenset({"use", "admin"})
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
HINT_LENGTH = 9  # "an_" and six characters: enough to tell keys apart, while 95 bits stay secret
_PATTERN = re.compile(r"(an_[0-9A-Za-z]{22,64})_([0-9A-Za-z]{6})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    id: str
    name: str
    hint: str  # the key's first characters
    plan: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


def random_base62(length: int = 22) -> str:
    """Returns random base62 characters; 22 of them hold 131 bits."""
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode("ascii")), ""
    for _ in range(6):  # 62^6 > 2^32
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text


def new_key() -> str:
    body = f"an_{random_base62()}"
    return f"{body}_{_checksum(body)}"


def well_formed(key: str) -> bool:
    """Whether the format and the checksum of `key` are right."""
    match = _PATTERN.fullmatch(key)
    return match is not None and _checksum(match[1]) == match[2]


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("ascii")).digest()  # a slow hash is not needed: 131 random bits cannot be guessed


_columns = [schema.api_keys.c[field.name] for field in fields(KeyRow)]


def _row(row: Row[tuple[object, ...]]) -> KeyRow:
    values = dict(row._mapping)
    return KeyRow(**{**values, "scopes": frozenset(values["scopes"].split())})


def create_key(conn: Connection, name: str, plan: str, scopes: Iterable[str], at: datetime) -> tuple[KeyRow, str]:
    """Creates a key and returns its row and the key itself, which is not stored. Raises `Conflict` when a live key has
    that name.
    """
    table = schema.api_keys
    assert SCOPES.issuperset(scopes), "unknown scope"
    taken = select(table.c.id).where(table.c.name == name, table.c.revoked_at.is_(None))
    if conn.execute(taken).first() is not None:
        raise Conflict(f"A key named {name!r} exists. Choose another name, or revoke that one first.")
    key = new_key()
    row = KeyRow(
        id=f"key_{random_base62()}",
        name=name,
        hint=key[:HINT_LENGTH],
        plan=plan,
        scopes=frozenset(scopes),
        created_at=at,
        revoked_at=None,
    )
    values = {field.name: getattr(row, field.name) for field in fields(KeyRow)}
    conn.execute(insert(table), values | {"scopes": " ".join(sorted(row.scopes)), "digest": digest_of(key)})
    return row, key


def by_digest(conn: Connection, digest: bytes) -> KeyRow | None:
    """Returns the live key with that digest, or None, also for a revoked one."""
    table = schema.api_keys
    found = conn.execute(select(*_columns).where(table.c.digest == digest, table.c.revoked_at.is_(None))).one_or_none()
    return None if found is None else _row(found)


def revoked_among(conn: Connection, key_ids: Collection[str]) -> list[str]:
    """Returns those of the keys that were revoked."""
    table = schema.api_keys
    return list(
        conn.execute(select(table.c.id).where(table.c.revoked_at.is_not(None), table.c.id.in_(key_ids))).scalars()
    )


def list_keys(conn: Connection) -> list[KeyRow]:
    """Returns all keys, also revoked ones, oldest first."""
    table = schema.api_keys
    return [_row(row) for row in conn.execute(select(*_columns).order_by(table.c.created_at, table.c.id))]


def revoke_key(conn: Connection, id_or_name_or_prefix: str, at: datetime) -> KeyRow:
    """Revokes the live key that matches. Raises `NotFound` when none does, `Conflict` when more than one does."""
    table = schema.api_keys
    text = id_or_name_or_prefix
    matches = or_(table.c.id == text, table.c.name == text)
    if well_formed(text):
        matches = table.c.digest == digest_of(text)
    elif len(text) >= len("an_") + 3:
        matches = or_(matches, table.c.hint.startswith(text, autoescape=True))
    rows = [_row(row) for row in conn.execute(select(*_columns).where(matches, table.c.revoked_at.is_(None)))]
    if not rows:
        raise NotFound("No live key has that id, name or prefix. See: agentname keys list")
    if len(rows) > 1:
        raise Conflict(f"{len(rows)} keys match. Choose one by its id: {', '.join(row.id for row in rows)}")
    conn.execute(update(table).where(table.c.id == rows[0].id).values(revoked_at=at))
    return rows[0]


def revoke_id(conn: Connection, key_id: str, at: datetime) -> KeyRow | None:
    """Revokes the key with exactly that id and returns it, also when it was revoked before; None when there is none."""
    table = schema.api_keys
    live = (table.c.id == key_id) & table.c.revoked_at.is_(None)
    conn.execute(update(table).where(live).values(revoked_at=at))
    found = conn.execute(select(*_columns).where(table.c.id == key_id)).one_or_none()
    return None if found is None else _row(found)
