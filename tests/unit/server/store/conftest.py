"""An empty store on each of the databases that the server supports."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

from server.store.database import Database
from tests.support import postgres
from tests.support.stores import open_store


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = postgres.find_programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("Postgres or its driver is not installed")
    with postgres.cluster(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = None
    if request.param == "postgres":
        url = postgres.new_database(request.getfixturevalue("postgres_url"), f"t{uuid4().hex}")
    with open_store(tmp_path, url) as opened:
        yield opened
