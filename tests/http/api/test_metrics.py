"""/metrics: what is counted, by which labels, and who may look."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.protocol import ModelStatus, RanOutOfMemory
from tests.support.front import VIDEO, Front, front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def series(f: Front) -> dict[str, float]:
    reply = await f.get("/metrics", "admin")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line.rpartition(" ") for line in reply.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_only_an_admin_may_look(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.get("/metrics", "pro")).status_code == 403
        assert (await f.client.get("/metrics")).status_code == 401


async def test_what_happens_is_counted(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        f.engine.start(job_id, queue_ms=700)
        f.engine.progress(job_id, "denoising", 1)
        f.engine.progress(job_id, "denoising", 2)
        f.engine.render(job_id)
        failed = await f.submit()
        f.engine.start(failed)
        f.engine.fail(failed, "out_of_memory")
        await f.settle()
        await f.post("/api/chat", {"message": "Hi"})
        f.engine.deliver(RanOutOfMemory("painter"))
        waiting = await f.submit(**VIDEO)
        resident = ModelStatus("painter", "resident", 1, 0, "on", 0, None)
        f.engine.publish(queue=[(waiting, "gpu_memory", None)], models=[resident])
        f.engine.publish(queue=[(waiting, "gpu_memory", None), ("chat_1", "turn", None)], running=[("chat_2", None)])
        told = await series(f)

    assert told['agentname_jobs_ended_total{status="completed",type="image"}'] == 1
    assert told['agentname_jobs_ended_total{status="failed",type="image"}'] == 1
    assert told['agentname_jobs_failed_total{code="out_of_memory"}'] == 1
    assert told['agentname_queue_wait_seconds_bucket{le="1.0",type="image"}'] == 2
    assert told['agentname_queue_wait_seconds_bucket{le="0.5",type="image"}'] == 1
    assert told['agentname_step_seconds_count{model="painter"}'] >= 1
    assert told['agentname_batch_rows_sum{model="painter"}'] == 2
    assert told['agentname_tokens_total{kind="completion"}'] == 5
    assert told['agentname_queue_jobs{reason="gpu_memory",type="video"}'] == 1
    assert told['agentname_queue_jobs{reason="turn",type="chat"}'] == 1
    assert told['agentname_running_jobs{type="chat"}'] == 1
    assert told['agentname_out_of_memory_total{model="painter"}'] == 1
    assert told['agentname_model_loads_total{model="painter"}'] == 1
    assert told['agentname_model_evictions_total{model="painter"}'] == 1
    assert told['agentname_memory_bytes{device="cpu",holder="painter",kind="weights"}'] == 2 * 2**30


async def test_requests_are_counted_by_the_template_of_their_route(tmp_path: Path) -> None:
    """A path that somebody makes up is no series of its own."""
    async with front(tmp_path) as f:
        await f.status(await f.submit())
        await f.get("/api/status/job_made_up")
        await f.get("/made/up")
        await f.client.request("MADEUP", "/made/up")
        told = await series(f)

    assert told['agentname_http_requests_total{method="GET",route="/api/status/{job_id}",status="200"}'] == 1
    assert told['agentname_http_requests_total{method="GET",route="/api/status/{job_id}",status="404"}'] == 1
    assert told['agentname_http_requests_total{method="GET",route="other",status="404"}'] == 1
    assert not [name for name in told if "made" in name.lower()]
