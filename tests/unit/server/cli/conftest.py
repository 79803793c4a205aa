"""A server with a fake engine for the commands that talk to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http.command_line import use_server
from tests.support.http.served import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as server:
        server.run_every_job()
        yield server


@pytest.fixture
def use_server_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Served) -> None:
    """Commands talk to the server and save files in an empty folder."""
    use_server(monkeypatch, server)
    monkeypatch.chdir(tmp_path)
