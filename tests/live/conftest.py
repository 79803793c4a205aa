"""Fixtures of all tests against a running server. Each module has its own `server`."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.http.live_audit import audit, grown, held
from tests.support.http.live_server import STARTED, LiveServer


@pytest.fixture
def ai(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=server.key, max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def audited() -> Iterator[None]:
    """Audits after each test every server that it may have used: the store, the files, the replies and the log."""
    before = {live: held(live) for live in STARTED}
    yield
    found = {live.data_dir.name: [*audit(live), *grown(live, before.get(live))] for live in STARTED}
    STARTED[:] = [live for live in STARTED if live.process is not None and live.process.poll() is None]
    assert not any(found.values()), found
