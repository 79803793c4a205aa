"""Event streams: what is told, to whom, how often, and again after a reader or the server was away."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from server.jobs import event_stream, watchers
from tests.support.front import IMAGE, front
from tests.support.streams import stream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MIN_INTERVAL_S", 0.0)


async def test_a_job_is_told_from_its_acceptance_to_its_end_and_then_the_stream_ends(tmp_path: Path) -> None:
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
async def test_every_end_is_told(tmp_path: Path, ended: str) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        async with stream(f, f"/api/jobs/{job_id}/events") as reader:
            if ended == "failed":
                f.engine.start_job(job_id)
                f.engine.fail(job_id)
            else:
                await f.delete(f"/api/jobs/{job_id}")
            told = await reader.rest()

    assert told[-1].name == told[-1].data["status"] == ended


async def test_who_comes_late_hears_it_from_the_beginning(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = await f.complete()
        async with stream(f, f"/api/jobs/{job['jobId']}/events") as reader:
            assert [event.name for event in await reader.rest()] == ["queued", "completed"]


async def test_who_heard_the_end_is_told_to_stay_away(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job = await f.complete()
        async with stream(f, f"/api/jobs/{job['jobId']}/events") as reader:
            await reader.rest()
        assert reader.last_id is not None
        again = await f.get(f"/api/jobs/{job['jobId']}/events", **{"last-event-id": reader.last_id})

    assert again.status_code == 204


async def test_after_a_restart_the_stream_goes_on_where_the_reader_was(tmp_path: Path) -> None:
    """The job ran when the server was killed: it is queued again, and nothing is told twice."""
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

    told = [event for event in queued + end + third if event.id is not None]
    assert [(event.name, event.data["jobId"]) for event in told] == [
        ("queued", job_id),
        ("completed", job_id),
        ("queued", new),
    ]
    ids = [int(last)] + [int(event.id or 0) for event in told]
    assert ids == sorted(set(ids))


async def test_an_end_that_came_while_nobody_listened_is_told_after_the_restart(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        async with stream(f, "/api/events") as reader:
            await reader.until("position")
        last, keys = reader.last_id, f.keys  # of the bookmark: the reader has had no event with an id
        f.engine.run(job_id)
        await f.settle()
    assert last is not None
    async with front(tmp_path, keys=keys) as f, stream(f, "/api/events", **{"last-event-id": last}) as reader:
        assert [event.name for event in await reader.until("completed")] == ["completed"]


async def test_ids_are_never_used_twice_even_when_the_newest_job_is_deleted(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = await f.complete()
        async with stream(f, f"/api/jobs/{first['jobId']}/events") as reader:
            await reader.rest()
        await f.delete(f"/api/jobs/{first['jobId']}")
        second = await f.complete()
        async with stream(f, f"/api/jobs/{second['jobId']}/events") as again:
            told = await again.rest()

    assert min(int(event.id or 0) for event in told) > int(reader.last_id or 0)


async def test_all_of_ones_jobs_and_nobody_elses(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        before = await f.submit()
        async with stream(f, "/api/events") as reader:
            await f.submit("other")
            mine = await f.submit()
            f.engine.run(mine)
            told = await reader.until("completed")
            foreign = await f.get(f"/api/jobs/{mine}/events", "other")

    assert {event.data["jobId"] for event in told} == {before, mine}
    assert foreign.status_code == 404


async def test_a_slow_reader_is_told_how_things_are_not_how_they_were(tmp_path: Path) -> None:
    """What a reader did not take is not kept for it: a thousand steps later one progress event says it all."""
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
            told = await reader.rest()

    assert told[-1].name == "completed"
    assert sum(event.name == "progress" for event in told) <= 3


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.01)
    async with front(tmp_path) as f, stream(f, "/api/events") as reader:
        while reader.comments < 2:
            block = await reader.parts.get()
            reader._read(block.decode().strip())


async def test_a_reader_who_leaves_is_forgotten(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        async with stream(f, "/api/events"):
            assert len(f.service.live_jobs.watchers.all()) == 1
        assert f.service.live_jobs.watchers.all() == set()


async def test_a_server_that_stops_sends_its_readers_away(tmp_path: Path) -> None:
    async with front(tmp_path) as f, stream(f, "/api/events") as reader:
        f.service.events.close()
        assert await reader.next() is None


async def test_a_key_may_not_open_streams_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "MAX_PER_KEY", 1)
    async with front(tmp_path) as f, stream(f, "/api/events"):
        reply = await f.get("/api/events")

    assert (reply.status_code, reply.json()["code"]) == (429, 429)


@pytest.mark.parametrize("path", ["?preview=2", "?preview=1&preview=1", "?x=1", "?preview"])
async def test_a_query_that_is_not_known_is_refused(tmp_path: Path, path: str) -> None:
    async with front(tmp_path) as f:
        assert (await f.get(f"/api/events{path}")).status_code == 400


@pytest.mark.parametrize("last", ["x", "-1", "1" * 16, "1.5", ""])
async def test_an_id_that_is_none_is_refused(tmp_path: Path, last: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.get("/api/events", **{"last-event-id": last})

    assert reply.status_code == 400
    assert "Last-Event-ID" in reply.json()["error"]


async def test_no_key_no_events(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(**IMAGE)
        assert (await f.client.get("/api/events")).status_code == 401
        assert (await f.client.get(f"/api/jobs/{job_id}/events")).status_code == 401
        assert (await f.get("/api/jobs/job_1_nothing/events")).status_code == 404


async def test_previews_go_to_those_who_want_them_and_only_the_latest(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(preview=True)
        assert f.engine.jobs[job_id].requests[0].preview  # type: ignore[union-attr]  # a picture
        f.engine.start_job(job_id)
        async with stream(f, f"/api/jobs/{job_id}/events?preview=1") as wants, stream(f, "/api/events") as plain:
            await wants.until("progress")
            wants.reading.clear()
            for value in range(5):
                f.engine.preview(job_id, value * 50)
                await asyncio.sleep(0)
            wants.reading.set()
            shown = await wants.until("preview")
            while (picture := Image.open(io.BytesIO(base64.b64decode(shown[-1].data["image"])))).getpixel((0, 0)) != (
                200,
                200,
                200,
            ):
                shown += await wants.until("preview")
            f.engine.render(job_id)
            told = await plain.until("completed")

    assert (picture.size, shown[-1].data["mimeType"]) == ((8, 6), "image/jpeg")
    assert sum(event.name == "preview" for event in shown) <= 3
    assert "preview" not in [event.name for event in told]
