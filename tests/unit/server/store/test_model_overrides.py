"""The store keeps the pins and keep-alives that admins set."""

from __future__ import annotations

import math
from pathlib import Path

from server.store import model_overrides
from server.store.model_overrides import ModelOverride
from tests.support.stores import open_store


def test_a_pin_and_a_keep_alive_are_stored_separately_and_survive_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: model_overrides.decide(conn, "painter", pinned=True))
        database.write_now(lambda conn: model_overrides.decide(conn, "painter", keep_alive_s=math.inf))
        database.write_now(lambda conn: model_overrides.decide(conn, "talker", keep_alive_s=0.0))
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: model_overrides.decide(conn, "talker", pinned=False))

        assert database.read_now(model_overrides.model_overrides) == {
            "painter": ModelOverride(True, math.inf),
            "talker": ModelOverride(False, 0.0),
        }
