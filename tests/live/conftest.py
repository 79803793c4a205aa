"""Fixtures of all tests against a running server. Each module has its own `server`."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.http.live_server import LiveServer


@pytest.fixture
def ai(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=server.key, max_retries=0) as client:
        yield client
