"""API keys: every refusal is the same, and a revoked key is refused within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.accounts.auth import CACHE_S, ApiKey, Authenticator, write_local_key
from server.errors import Forbidden, Unauthorized
from server.store import keys
from server.store.database import Database
from tests.support.stores import NOW, open_store


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingStore:
    """The store, with a count of its reads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reads = 0

    async def read(self, work):
        self.reads += 1
        return await self.database.read(work)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_store(tmp_path) as opened:
        yield opened


def create(database: Database, name: str = "anna", plan: str = "free") -> str:
    return database.write_now(lambda conn: keys.create_key(conn, name, plan, {"use"}, NOW))[1]


def identify(authenticator: Authenticator, header: str | None) -> ApiKey:
    return asyncio.run(authenticator.identify(header))


def test_a_key_is_identified_by_its_bearer_header(database: Database) -> None:
    key = create(database)
    authenticator = Authenticator(database, local_key=None)

    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key}"):
        found = identify(authenticator, header)
        assert (found.name, found.plan, found.scopes) == ("anna", "free", frozenset({"use"}))


def test_every_refusal_is_the_same_and_only_a_well_formed_key_reaches_the_store(database: Database) -> None:
    key = create(database)
    revoked = create(database, "bob")
    database.write_now(lambda conn: keys.revoke_key(conn, "bob", NOW))
    store = CountingStore(database)
    authenticator = Authenticator(store, local_key=None)  # type: ignore[arg-type]  # only read is called
    swapped = key[:-1] + ("a" if key[-1] != "a" else "b")

    answers = []
    for header in (
        *(
            None,
            "",
            "Bearer",
            "Bearer ",
            key,
            f"Basic {key}",
            f"Bearer {key} {key}",
            f"Bearer\t{key}",
            f"Bearer {key}\x00",
        ),
        *(f"Bearer {swapped}", "Bearer " + "x" * 8192, "Bearer an_ключ", f"Bearer {key.upper()}", f"Token {key}"),
    ):
        with pytest.raises(Unauthorized) as raised:
            identify(authenticator, header)
        answers.append((raised.value.status, raised.value.message, raised.value.retry_after_s))
    assert store.reads == 0

    for unknown in (keys.new_key(), revoked):
        with pytest.raises(Unauthorized) as raised:
            identify(authenticator, f"Bearer {unknown}")
        answers.append((raised.value.status, raised.value.message, raised.value.retry_after_s))
    assert store.reads == 2

    assert len(answers) == 16
    assert len(set(answers)) == 1


def test_a_revoked_key_is_refused_within_a_second_and_the_store_is_read_once_a_second(database: Database) -> None:
    key, clock, store = create(database), Clock(), CountingStore(database)
    authenticator = Authenticator(store, local_key=None, clock=clock)  # type: ignore[arg-type]  # only read is called
    for _ in range(5):
        identify(authenticator, f"Bearer {key}")
    assert store.reads == 1

    database.write_now(lambda conn: keys.revoke_key(conn, "anna", NOW))
    clock.now += CACHE_S - 0.001
    identify(authenticator, f"Bearer {key}")
    clock.now += 0.001
    with pytest.raises(Unauthorized):
        identify(authenticator, f"Bearer {key}")
    assert CACHE_S <= 1.0
    assert store.reads == 2


def test_the_local_key_is_an_admin_and_needs_no_read_of_the_store(tmp_path: Path, database: Database) -> None:
    local = write_local_key(tmp_path)
    text = (tmp_path / "local-key").read_text().strip()
    store = CountingStore(database)
    found = identify(Authenticator(store, local_key=local), f"Bearer {text}")

    assert found.scopes == {"use", "admin"}
    assert found.id == "local"
    assert store.reads == 0
    assert (tmp_path / "local-key").stat().st_mode & 0o777 == 0o600
    assert text not in repr(local)


def test_each_start_makes_a_new_local_key(tmp_path: Path, database: Database) -> None:
    write_local_key(tmp_path)
    old = (tmp_path / "local-key").read_text().strip()
    now = write_local_key(tmp_path)

    assert (tmp_path / "local-key").read_text().strip() != old
    assert sorted(path.name for path in tmp_path.glob("local-key*")) == ["local-key"]
    with pytest.raises(Unauthorized):
        identify(Authenticator(database, local_key=now), f"Bearer {old}")


def test_a_key_without_the_scope_is_forbidden() -> None:
    key = ApiKey("key_1", "anna", "free", frozenset({"use"}))

    key.require("use")
    with pytest.raises(Forbidden, match="admin"):
        key.require("admin")
