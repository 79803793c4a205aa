"""Event streams: their events, who gets them, how often, and how they continue after a disconnect or a restart."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from server.http import sse
from server.jobs import event_stream, watchers
from tests.support.http.front import IMAGE, front
from tests.support.http.streams import stream

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def without_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MIN_INTERVAL_S", 0.0)


async def test_a_stream_reports_a_job_from_acceptance_to_its_end_and_then_ends(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        async with stream(f, f"/api/jobs/{job_id}/events") as reader:
            begin = await reader.until("position")
            f.engine.publish(queue=[(job_id, "model_load", 9.0)])
            loading = await reader.until("loading")
            f.engine.start_job(job_id)
            f.engine.progress(job_id, "denoising", 2)
            progress = await reader.until("progress")
            f.engine.render(job_id)
            end = await reader.until("completed")
            assert await reader.next() is None
        status = await f.status(job_id)

    assert reader.headers["content-type"].startswith("text/event-stream")
    assert [event.name for event in begin] == ["queued", "position"]
    assert begin[0].data["status"] == "queued"
    assert begin[1].data["queue"]["position"] == 0
    assert loading[-1].data["etaSeconds"] == pytest.approx(9.0, abs=1)
    assert progress[-1].data["step"] in (0, 2)
    assert end[-1].data == status
    assert [event.id is not None for event in (begin[0], begin[1], loading[-1], end[-1])] == [True, False, False, True]


@pytest.mark.parametrize("ended", ["failed", "canceled"])
async def test_a_failed_or_canceled_job_sends_a_final_event(tmp_path: Path, ended: str) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        async with stream(f, f"/api/jobs/{job_id}/events") as reader:
            if ended == "failed":
                f.engine.start_job(job_id)
                f.engine.fail(job_id)
            else:
                await f.delete(f"/api/jobs/{job_id}")
            events = await reader.rest()

    assert events[-1].name == events[-1].data["status"] == ended


async def test_a_late_reader_gets_the_events_from_the_beginning(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = await f.complete()
        async with stream(f, f"/api/jobs/{job['jobId']}/events") as reader:
            assert [event.name for event in await reader.rest()] == ["queued", "completed"]


async def test_a_reader_with_the_last_event_gets_204(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = await f.complete()
        async with stream(f, f"/api/jobs/{job['jobId']}/events") as reader:
            await reader.rest()
        assert reader.last_id is not None
        again = await f.get(f"/api/jobs/{job['jobId']}/events", **{"last-event-id": reader.last_id})

    assert again.status_code == 204


async def test_after_a_restart_the_stream_continues_after_the_readers_last_event(tmp_path: Path) -> None:
    """A job that ran when the server was killed is queued again, and no event is sent twice."""
    async with front(tmp_path) as f:
        ended = await f.submit()
        job_id = await f.submit()
        async with stream(f, "/api/events") as reader:
            f.engine.run(ended)
            await reader.until("completed")
            f.engine.start_job(job_id)
            await f.settle()
        last, keys = reader.last_id, f.keys
    assert last is not None
    async with front(tmp_path, keys=keys) as f:
        await f.service.recovery.recover()
        async with stream(f, "/api/events", **{"last-event-id": last}) as reader:
            queued = await reader.until("queued")
            f.engine.run(job_id)
            end = await reader.until("completed")
            new = await f.submit()
            third = await reader.until("queued")

    events = [event for event in queued + end + third if event.id is not None]
    assert [(event.name, event.data["jobId"]) for event in events] == [
        ("queued", job_id),
        ("completed", job_id),
        ("queued", new),
    ]
    ids = [int(last)] + [int(event.id or 0) for event in events]
    assert ids == sorted(set(ids))


async def test_a_final_event_without_a_reader_is_sent_after_the_restart(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        async with stream(f, "/api/events") as reader:
            await reader.until("position")
        last, keys = reader.last_id, f.keys  # id of the bookmark: the reader has received no event with an id
        f.engine.run(job_id)
        await f.settle()
    assert last is not None
    async with front(tmp_path, keys=keys) as f, stream(f, "/api/events", **{"last-event-id": last}) as reader:
        assert [event.name for event in await reader.until("completed")] == ["completed"]


async def test_event_ids_are_not_reused_when_the_newest_job_is_deleted(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = await f.complete()
        async with stream(f, f"/api/jobs/{first['jobId']}/events") as reader:
            await reader.rest()
        await f.delete(f"/api/jobs/{first['jobId']}")
        second = await f.complete()
        async with stream(f, f"/api/jobs/{second['jobId']}/events") as again:
            events = await again.rest()

    assert min(int(event.id or 0) for event in events) > int(reader.last_id or 0)


async def test_the_stream_of_all_jobs_has_only_the_keys_own(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        before = await f.submit()
        async with stream(f, "/api/events") as reader:
            await f.submit("other")
            mine = await f.submit()
            f.engine.run(mine)
            events = await reader.until("completed")
            foreign = await f.get(f"/api/jobs/{mine}/events", "other")

    assert {event.data["jobId"] for event in events} == {before, mine}
    assert foreign.status_code == 404


async def test_a_slow_reader_gets_the_current_state_instead_of_all_past_events(tmp_path: Path) -> None:
    """Events are not buffered for a reader: after many steps it gets one progress event with the current state."""
    async with front(tmp_path) as f:
        job_id = await f.submit(steps=100)
        async with stream(f, f"/api/jobs/{job_id}/events") as reader:
            await reader.until("position")
            reader.reading.clear()
            f.engine.start_job(job_id)
            for step in range(100):
                f.engine.progress(job_id, "denoising", step, 100)
                await asyncio.sleep(0)
            (watch,) = f.service.live_jobs.watchers.all()
            assert len(watch.changed_jobs) <= 1
            reader.reading.set()
            f.engine.render(job_id)
            events = await reader.rest()

    assert events[-1].name == "completed"
    assert sum(event.name == "progress" for event in events) <= 3


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    async with front(tmp_path) as f, stream(f, "/api/events") as reader:
        while reader.comments < 2:
            block = await reader.parts.get()
            reader._read(block.decode().strip())


async def test_a_reader_that_disconnects_is_removed(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        async with stream(f, "/api/events"):
            assert len(f.service.live_jobs.watchers.all()) == 1
        assert f.service.live_jobs.watchers.all() == set()


async def test_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    async with front(tmp_path) as f, stream(f, "/api/events") as reader:
        f.service.events.close()
        assert await reader.next() is None


async def test_the_number_of_streams_per_key_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "MAX_PER_KEY", 1)
    async with front(tmp_path) as f, stream(f, "/api/events"):
        reply = await f.get("/api/events")

    assert (reply.status_code, reply.json()["code"]) == (429, 429)


@pytest.mark.parametrize("path", ["?preview=2", "?preview=1&preview=1", "?x=1", "?preview"])
async def test_an_unknown_query_is_refused(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        assert (await f.get(f"/api/events{path}")).status_code == 400


@pytest.mark.parametrize("last", ["x", "-1", "1" * 16, "1.5", ""])
async def test_an_invalid_last_event_id_is_refused(tmp_path: Path, last: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.get("/api/events", **{"last-event-id": last})

    assert reply.status_code == 400
    assert "Last-Event-ID" in reply.json()["error"]


async def test_events_need_a_key(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(**IMAGE)
        assert (await f.client.get("/api/events")).status_code == 401
        assert (await f.client.get(f"/api/jobs/{job_id}/events")).status_code == 401
        assert (await f.get("/api/jobs/job_1_nothing/events")).status_code == 404


async def test_only_the_latest_preview_is_sent_and_only_on_request(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(preview=True)
        assert f.engine.jobs[job_id].requests[0].preview  # type: ignore[union-attr]  # an image
        f.engine.start_job(job_id)
        path = f"/api/jobs/{job_id}/events?preview=1"
        async with stream(f, path) as with_previews, stream(f, "/api/events") as without:
            await with_previews.until("progress")
            with_previews.reading.clear()
            for value in range(5):
                f.engine.preview(job_id, value * 50)
                await asyncio.sleep(0)
            with_previews.reading.set()
            events = await with_previews.until("preview")
            while (preview := decoded(events[-1].data["image"])).getpixel((0, 0)) != (200, 200, 200):
                events += await with_previews.until("preview")
            f.engine.render(job_id)
            others = await without.until("completed")

    assert (preview.size, events[-1].data["mimeType"]) == ((8, 6), "image/jpeg")
    assert sum(event.name == "preview" for event in events) <= 3
    assert "preview" not in [event.name for event in others]


def decoded(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image)))
