"""schemathesis tests a running server against its own OpenAPI document, on every route that a key may call."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
import uvicorn

from pipelines.diffusion_interface import DiffusionRequest
from server.http.http11 import Http11
from server.job import Job
from tests.support.checkpoints import chat_folder, stable_diffusion_folder
from tests.support.http.front import IMAGE, VIDEO, Front, front
from tests.support.http.library_front import library

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ADMIN_ROUTES = "^/(api/(models|keys)|metrics)"


def finish_some(f: Front) -> None:
    """Makes the fake engine complete every small job with one output, so that there are files and metrics."""
    submit = f.engine.submit

    def submit_and_run(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        request = job.requests[0]
        if isinstance(request, DiffusionRequest) and len(job.requests) == 1 and request.width * request.height <= 4096:
            asyncio.get_running_loop().call_soon(f.engine.run, job.id)

    f.engine.submit = submit_and_run  # type: ignore[method-assign]  # wraps the method


async def run_schemathesis(f: Front, folder: Path, key: str, *options: str) -> None:
    """Runs all checks except one: the document lacks the models' limits, so that some valid data is refused."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(f.app, http=Http11, ws="none", lifespan="on", log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        (folder / "schemathesis.toml").write_text(
            # The default statuses and 413: too many messages are often too many bytes, which is checked first.
            "[checks.negative_data_rejection]\n"
            "expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]\n"
        )
        command = [
            "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{sock.getsockname()[1]}/api/openapi.json",
            "--header", f"Authorization: Bearer {f.keys[key]}",
            "--checks", "all", "--exclude-checks", "positive_data_acceptance",
            "--phases", "coverage,fuzzing,stateful", "--generation-deterministic", "--no-color", *options,
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        server.should_exit = True
        await serving
    assert process.returncode == 0, output.decode()[-6000:]


async def test_schemathesis_finds_no_violation_of_the_openapi_document(tmp_path: Path) -> None:
    async with front(tmp_path, queue_size=100_000) as f:
        finish_some(f)
        for body in (IMAGE, VIDEO):
            await f.complete(**body)
        # The streams of events end with their jobs or never: see test_events.py.
        options = ("--exclude-path-regex", "/events$", "--max-examples", "5", "--max-time", "12")
        await run_schemathesis(f, tmp_path, "enterprise", *options)


async def test_schemathesis_finds_no_violation_by_an_admin_who_changes_models_and_keys(tmp_path: Path) -> None:
    folders = [stable_diffusion_folder(tmp_path / "a"), chat_folder(tmp_path / "c")]
    async with library(tmp_path) as f:
        for folder in folders:
            reply = await f.post("/api/models", {"source": str(folder)}, "admin")
            assert reply.status_code == 200, reply.text
        options = ("--include-path-regex", ADMIN_ROUTES, "--max-examples", "10", "--max-time", "15")
        await run_schemathesis(f, tmp_path, "admin", *options)
