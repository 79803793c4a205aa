"""Chats whose replies are being made are known to the next process, which refunds them."""

from __future__ import annotations

from sqlalchemy import Connection

from server.store import open_chats, usage
from server.store.database import Database
from tests.support.stores import DAY


def test_chats_that_the_end_of_the_process_cut_off_are_refunded_once(database: Database) -> None:
    def chat(conn: Connection) -> None:
        for chat_id, units in (("chat_1", 1), ("chat_2", 3)):
            usage.charge(conn, "anna", DAY, "chats", units, None)
            open_chats.opened(conn, chat_id, "anna", DAY, units)
        open_chats.ended(conn, "chat_1")

    database.write_now(chat)
    for _ in range(2):
        database.write_now(open_chats.refund_all)

    assert database.read_now(lambda conn: usage.used_today(conn, "anna", DAY))["chats"] == 1
