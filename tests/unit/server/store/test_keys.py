"""Keys: their form, and that the store can know one again without having it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from server.errors import Conflict, NotFound
from server.store import keys
from server.store.database import Database
from tests.support.stores import NOW, open_store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_store(tmp_path) as opened:
        yield opened


def create(database: Database, name: str = "anna") -> tuple[keys.KeyRow, str]:
    return database.write_now(lambda conn: keys.create_key(conn, name, "free", {"use"}, NOW))


def test_a_new_key_has_its_form_and_a_right_checksum() -> None:
    key = keys.new_key()

    assert re.fullmatch(r"an_[0-9A-Za-z]{22}_[0-9A-Za-z]{6}", key)
    assert keys.well_formed(key)


def test_a_key_with_any_one_character_changed_is_not_well_formed() -> None:
    key = keys.new_key()
    for at in range(len(key)):
        other = "a" if key[at] != "a" else "b"
        assert not keys.well_formed(key[:at] + other + key[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "an_", "an_1_2", "sk-123", "an_" + "é" * 22 + "_000000", "an_" + "0" * 5000 + "_000000"]
)
def test_what_never_was_a_key_is_not_well_formed(text: str) -> None:
    assert not keys.well_formed(text)


def test_a_key_is_found_by_its_digest_and_is_nowhere_in_the_file(tmp_path: Path, database: Database) -> None:
    row, key = create(database)

    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(key))) == row
    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(keys.new_key()))) is None
    database.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key[:9].encode() in content
    assert key[3:25].encode() not in content


def test_a_revoked_key_is_as_unknown_as_any_and_stays_in_the_list(database: Database) -> None:
    row, key = create(database)
    database.write_now(lambda conn: keys.revoke_key(conn, "anna", NOW + timedelta(days=1)))

    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(key))) is None
    listed = database.read_now(keys.list_keys)
    assert [(each.id, each.revoked_at) for each in listed] == [(row.id, NOW + timedelta(days=1))]


@pytest.mark.parametrize("how", ["id", "name", "hint", "whole key", "first letters"])
def test_a_key_is_revoked_by_whatever_names_it(database: Database, how: str) -> None:
    row, key = create(database)
    create(database, "bob")
    named = {"id": row.id, "name": "anna", "hint": row.hint, "whole key": key, "first letters": key[:7]}[how]

    assert database.write_now(lambda conn: keys.revoke_key(conn, named, NOW)).id == row.id


@pytest.mark.parametrize("how", ["", "an_", "an_%%%%", "nobody", "an_00000000000000000000"])
def test_what_names_no_key_revokes_none(database: Database, how: str) -> None:
    create(database)

    with pytest.raises(NotFound):
        database.write_now(lambda conn: keys.revoke_key(conn, how, NOW))


def test_a_name_is_free_again_once_its_key_is_revoked(database: Database) -> None:
    create(database)
    with pytest.raises(Conflict, match="'anna' exists"):
        create(database)

    database.write_now(lambda conn: keys.revoke_key(conn, "anna", NOW))
    create(database)


def test_a_name_that_means_two_keys_revokes_neither(database: Database) -> None:
    first, _ = create(database)
    create(database, first.id)

    with pytest.raises(Conflict, match="2 keys match"):
        database.write_now(lambda conn: keys.revoke_key(conn, first.id, NOW))
