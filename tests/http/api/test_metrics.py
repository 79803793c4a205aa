"""GET /metrics: its series and labels, and the metrics in a job's status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.engine_status import ModelStatus
from server.protocol import OutputReady, RanOutOfMemory
from tests.support.http.front import VIDEO, Front, front

pytestmark = pytest.mark.anyio


async def series(f: Front) -> dict[str, float]:
    reply = await f.get("/metrics", "admin")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line.rpartition(" ") for line in reply.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_metrics_need_an_admin_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        assert (await f.get("/metrics", "pro")).status_code == 403
        assert (await f.client.get("/metrics")).status_code == 401


async def test_jobs_memory_and_loads_are_counted(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        f.engine.start_job(job_id, queue_ms=700)
        f.engine.progress(job_id, "denoising", 1)
        f.engine.progress(job_id, "denoising", 2)
        f.engine.render(job_id)
        failed = await f.submit()
        f.engine.start_job(failed)
        f.engine.fail(failed, "out_of_memory")
        await f.settle()
        await f.post("/api/chat", {"message": "Hi"})
        f.engine.deliver(RanOutOfMemory("painter"))
        waiting = await f.submit(**VIDEO)
        resident = ModelStatus("painter", "resident", 1, 0, "on", 0, None)
        f.engine.publish(queue=[(waiting, "gpu_memory", None)], models=[resident])
        f.engine.publish(queue=[(waiting, "gpu_memory", None), ("chat_1", "turn", None)], running=[("chat_2", None)])
        values = await series(f)

    assert values['agentname_jobs_ended_total{status="completed",type="image"}'] == 1
    assert values['agentname_jobs_ended_total{status="failed",type="image"}'] == 1
    assert values['agentname_jobs_failed_total{code="out_of_memory"}'] == 1
    assert values['agentname_queue_wait_seconds_bucket{le="1.0",type="image"}'] == 2
    assert values['agentname_queue_wait_seconds_bucket{le="0.5",type="image"}'] == 1
    assert values['agentname_step_seconds_count{model="painter"}'] >= 1
    assert values['agentname_batch_rows_sum{model="painter"}'] == 2
    assert values['agentname_tokens_total{kind="completion"}'] == 5
    assert values['agentname_queue_jobs{reason="gpu_memory",type="video"}'] == 1
    assert values['agentname_queue_jobs{reason="turn",type="chat"}'] == 1
    assert values['agentname_running_jobs{type="chat"}'] == 1
    assert values['agentname_out_of_memory_total{model="painter"}'] == 1
    assert values['agentname_model_loads_total{model="painter"}'] == 1
    assert values['agentname_model_evictions_total{model="painter"}'] == 1
    assert values['agentname_memory_bytes{device="cpu",holder="painter",kind="weights"}'] == 2 * 2**30


async def test_requests_are_counted_by_route_template(tmp_path: Path) -> None:
    """An unknown path does not become a series."""
    async with front(tmp_path) as f:
        await f.status(await f.submit())
        await f.get("/api/status/job_made_up")
        await f.get("/made/up")
        await f.client.request("MADEUP", "/made/up")
        values = await series(f)

    assert values['agentname_http_requests_total{method="GET",route="/api/status/{job_id}",status="200"}'] == 1
    assert values['agentname_http_requests_total{method="GET",route="/api/status/{job_id}",status="404"}'] == 1
    assert values['agentname_http_requests_total{method="GET",route="other",status="404"}'] == 1
    assert not [name for name in values if "made" in name.lower()]


# Metrics of one job, in its status


async def test_a_status_has_the_largest_measured_peak_and_each_warning_once(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        deliver = f.engine.deliver
        peaks = iter((700, 900, None))

        def measured(event) -> None:
            if isinstance(event, OutputReady):
                event = replace(
                    event, peak_bytes=next(peaks), warnings=("Its weights visit the device block by block.",)
                )
            deliver(event)

        f.engine.deliver = measured
        status = await f.complete(n=3)

    assert status["metrics"]["peakBytes"] == 900
    assert status["warnings"] == ["Its weights visit the device block by block."]


async def test_a_status_without_measurements_has_null_for_the_peak(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        status = await f.complete()

    assert status["metrics"]["peakBytes"] is None
    assert status["warnings"] == []
