"""The live server against its own OpenAPI document, by a program that thinks of what we did not."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
import uvicorn

from server.http.http11 import Http11
from server.job import Job
from tests.support.front import IMAGE, VIDEO, Front, front

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def finish_some(f: Front) -> None:
    """From now on every small job of one output ends by itself, so that there are files and metrics to look at."""
    submit = f.engine.submit

    def submit_and_run(job: Job, need_bytes: int = 0) -> None:
        submit(job, need_bytes)
        request = job.requests[0]
        if job.type != "chat" and len(job.requests) == 1 and request.width * request.height <= 64 * 64:  # type: ignore[union-attr]  # no chat
            asyncio.get_running_loop().call_soon(f.engine.run, job.id)

    f.engine.submit = submit_and_run  # type: ignore[method-assign]  # one more thing it does


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """All its checks but one: it cannot know a model's limits, so not everything the document allows is accepted."""
    async with front(tmp_path, queue_size=100_000) as f:
        finish_some(f)
        for body in (IMAGE, VIDEO):
            await f.complete(**body)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            server = uvicorn.Server(uvicorn.Config(f.app, http=Http11, ws="none", lifespan="on", log_config=None))
            serving = asyncio.create_task(server.serve(sockets=[sock]))
            (tmp_path / "schemathesis.toml").write_text(
                # The usual ones, and 413: too many messages are often too many bytes, which is told first.
                "[checks.negative_data_rejection]\n"
                "expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]\n"
            )
            command = [
                "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{sock.getsockname()[1]}/api/openapi.json",
                "--header", f"Authorization: Bearer {f.keys['enterprise']}",
                "--checks", "all", "--exclude-checks", "positive_data_acceptance",
                "--phases", "coverage,fuzzing,stateful", "--max-examples", "5", "--max-time", "12",
                "--exclude-path-regex", "/events$",  # they end when their jobs do, or never: tests/http/api/test_events.py
                "--generation-deterministic", "--no-color",
            ]  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            told, _ = await process.communicate()
            server.should_exit = True
            await serving

    assert process.returncode == 0, told.decode()[-6000:]
