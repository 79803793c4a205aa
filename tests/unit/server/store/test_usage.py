"""Charges never exceed the limit and refunds never repeat, also with concurrent writers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.store import jobs, usage
from server.store.database import Database
from server.store.usage import QuotaUsedUp
from tests.support.stores import DAY, job_row, open_store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_store(tmp_path) as opened:
        yield opened


def used(database: Database, day: str = DAY) -> dict[str, int]:
    return database.read_now(lambda conn: usage.used_today(conn, "anna", day))


def test_of_two_hundred_concurrent_charges_a_limit_of_fifty_admits_fifty(tmp_path: Path, database: Database) -> None:
    """Half of the charges use another connection to the same file, as another process would."""

    def accept(number: int):
        def work(conn) -> None:
            usage.charge(conn, "anna", DAY, "images", 1, 50)
            jobs.insert_job(conn, job_row(f"job_{number}"))

        return work

    async def scenario(stores: list[Database]) -> list[object]:
        writes = [stores[number % 2].write(accept(number)) for number in range(200)]
        return await asyncio.gather(*writes, return_exceptions=True)

    with open_store(tmp_path) as other:
        results = asyncio.run(scenario([database, other]))

    assert [type(result) for result in results].count(type(None)) == 50
    assert sum(isinstance(result, QuotaUsedUp) for result in results) == 150
    assert used(database) == {"images": 50, "videos": 0, "chats": 0}
    rows, _ = database.read_now(lambda conn: jobs.list_jobs(conn, "anna", None, 500, None))
    assert len(rows) == 50


def test_a_charge_above_the_limit_books_nothing_and_reports_what_is_used(database: Database) -> None:
    assert database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "images", 8, 10)) == 8
    with pytest.raises(QuotaUsedUp, match=r"allows 10 images a day \(UTC\): 8 used, 3 more requested") as raised:
        database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "images", 3, 10, retry_after_s=77))

    assert (raised.value.status, raised.value.retry_after_s) == (429, 77)
    assert (raised.value.kind, raised.value.limit, raised.value.used) == ("images", 10, 8)
    assert database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "images", 2, 10)) == 10


def test_kinds_days_and_keys_are_counted_separately(database: Database) -> None:
    def work(conn) -> None:
        usage.charge(conn, "anna", DAY, "images", 1, 1)
        usage.charge(conn, "anna", DAY, "videos", 1, 1)
        usage.charge(conn, "anna", "2026-11-25", "images", 1, 1)
        usage.charge(conn, "bob", DAY, "images", 1, 1)

    database.write_now(work)

    assert used(database) == {"images": 1, "videos": 1, "chats": 0}
    assert used(database, "2026-11-25") == {"images": 1, "videos": 0, "chats": 0}


def test_a_limit_of_zero_refuses_the_first_charge(database: Database) -> None:
    with pytest.raises(QuotaUsedUp):
        database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "videos", 1, 0))


def test_usage_without_a_limit_is_counted(database: Database) -> None:
    database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "chats", 5000, None))

    assert used(database)["chats"] == 5000


def test_a_job_is_refunded_once_and_on_the_day_it_was_charged_to(database: Database) -> None:
    def accept(conn) -> None:
        usage.charge(conn, "anna", "2026-11-23", "images", 4, 10)
        usage.charge(conn, "anna", DAY, "images", 2, 10)
        jobs.insert_job(conn, job_row(charged_day="2026-11-23", charged_units=4))

    database.write_now(accept)

    assert database.write_now(lambda conn: usage.refund(conn, "job_1"))
    assert not database.write_now(lambda conn: usage.refund(conn, "job_1"))
    assert used(database, "2026-11-23")["images"] == 0
    assert used(database)["images"] == 2


def test_a_job_that_was_not_charged_is_not_refunded(database: Database) -> None:
    database.write_now(
        lambda conn: jobs.insert_job(conn, job_row(charged_day=None, charged_kind=None, charged_units=0))
    )

    assert not database.write_now(lambda conn: usage.refund(conn, "job_1"))
    assert not database.write_now(lambda conn: usage.refund(conn, "job_unknown"))


def test_a_chat_is_refunded_once(database: Database) -> None:
    database.write_now(lambda conn: usage.charge(conn, "anna", DAY, "chats", 1, 50))

    assert database.write_now(lambda conn: usage.refund_units(conn, "chat_1", "anna", DAY, "chats", 1))
    assert not database.write_now(lambda conn: usage.refund_units(conn, "chat_1", "anna", DAY, "chats", 1))
    assert used(database)["chats"] == 0


def test_charges_of_old_days_are_deleted(database: Database) -> None:
    def work(conn) -> None:
        usage.charge(conn, "anna", "2026-11-23", "images", 1, None)
        usage.charge(conn, "anna", DAY, "images", 1, None)
        usage.forget_days_before(conn, DAY)

    database.write_now(work)

    assert used(database, "2026-11-23")["images"] == 0
    assert used(database)["images"] == 1
