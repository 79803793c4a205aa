"""API keys: their format, and a store that recognizes a key without holding it."""

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


def test_a_new_key_has_the_right_format_and_checksum() -> None:
    key = keys.new_key()

    assert re.fullmatch(r"an_[0-9A-Za-z]{22}_[0-9A-Za-z]{6}", key)
    assert keys.well_formed(key)


def test_a_key_with_any_one_character_changed_is_not_well_formed() -> None:
    key = keys.new_key()
    for i in range(len(key)):
        other = "a" if key[i] != "a" else "b"
        assert not keys.well_formed(key[:i] + other + key[i + 1 :])


@pytest.mark.parametrize(
    "text", ["", "an_", "an_1_2", "sk-123", "an_" + "é" * 22 + "_000000", "an_" + "0" * 5000 + "_000000"]
)
def test_other_text_is_not_well_formed(text: str) -> None:
    assert not keys.well_formed(text)


def test_a_key_is_found_by_its_digest_and_is_not_in_the_file(tmp_path: Path, database: Database) -> None:
    row, key = create(database)

    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(key))) == row
    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(keys.new_key()))) is None
    database.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key[:9].encode() in content
    assert key[3:25].encode() not in content


def test_a_revoked_key_is_unknown_and_stays_in_the_list(database: Database) -> None:
    row, key = create(database)
    database.write_now(lambda conn: keys.revoke_key(conn, "anna", NOW + timedelta(days=1)))

    assert database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(key))) is None
    listed = database.read_now(keys.list_keys)
    assert [(each.id, each.revoked_at) for each in listed] == [(row.id, NOW + timedelta(days=1))]


@pytest.mark.parametrize("how", ["id", "name", "hint", "whole key", "first letters"])
def test_a_key_is_revoked_by_id_name_prefix_or_the_key_itself(database: Database, how: str) -> None:
    row, key = create(database)
    create(database, "bob")
    text = {"id": row.id, "name": "anna", "hint": row.hint, "whole key": key, "first letters": key[:7]}[how]

    assert database.write_now(lambda conn: keys.revoke_key(conn, text, NOW)).id == row.id


@pytest.mark.parametrize("text", ["", "an_", "an_%%%%", "nobody", "an_00000000000000000000"])
def test_text_that_matches_no_key_revokes_none(database: Database, text: str) -> None:
    create(database)

    with pytest.raises(NotFound):
        database.write_now(lambda conn: keys.revoke_key(conn, text, NOW))


def test_a_name_can_be_used_again_once_its_key_is_revoked(database: Database) -> None:
    create(database)
    with pytest.raises(Conflict, match="'anna' exists"):
        create(database)

    database.write_now(lambda conn: keys.revoke_key(conn, "anna", NOW))
    create(database)


def test_text_that_matches_two_keys_revokes_neither(database: Database) -> None:
    first, _ = create(database)
    create(database, first.id)

    with pytest.raises(Conflict, match="2 keys match"):
        database.write_now(lambda conn: keys.revoke_key(conn, first.id, NOW))
