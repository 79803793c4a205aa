"""A job ends with a reason, whatever an encoder, a worker or the handling of an event raises."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.jobs import artifacts as artifacts_module
from server.jobs.encoding import EncodingFailed, InvalidFrames
from server.protocol import JobCanceled
from tests.support.http.front import front

pytestmark = pytest.mark.anyio


class Panic(BaseException):
    """As compiled libraries raise: not an `Exception`."""


RAISED = st.sampled_from(
    [ValueError("encoding error 5"), MemoryError(), struct.error("ushort"), KeyError("x"), RecursionError(),
     UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), AssertionError(), EncodingFailed("code 1"),
     InvalidFrames(), OSError(28, "disk full"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Panic()]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(error=RAISED, failing_output=st.integers(0, 2))
async def test_a_job_ends_whatever_its_encoder_raises(
    tmp_path_factory: pytest.TempPathFactory, error: BaseException, failing_output: int
) -> None:
    calls = 0

    def encode(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_output + 1:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts_module, "encode", encode)
        async with front(tmp_path_factory.mktemp("front")) as f:
            job_id = await f.submit("free", n=3)
            f.engine.run(job_id)
            await f.settle()
            status = await f.status(job_id, "free")

            assert status["status"] == "failed"
            assert status["error"]["code"] in ("encoding_failed", "output_not_saved", "invalid_output")
            assert str(error) not in status["error"]["message"] or not str(error)
            assert await f.used("images") == 0
            assert list((f.data_dir / "outputs").iterdir()) == []
            assert f.engine.canceled == [job_id]


async def test_a_job_whose_end_cannot_be_stored_as_it_is_fails(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        f.engine.start_job(job_id)
        f.service.live_jobs.get(job_id).warnings.append(object())  # type: ignore[arg-type, union-attr]  # is no JSON
        f.engine.render(job_id)
        await f.settle()
        status = await f.status(job_id, "free")

        assert (status["status"], status["error"]["code"]) == ("failed", "internal_error")
        assert await f.used("images") == 0


async def test_a_job_whose_event_cannot_be_handled_fails_and_the_next_event_is_handled(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        broken, fine = await f.submit("free"), await f.submit("free")
        f.engine.start_job(broken)
        f.service.results.on_canceled = _raise  # type: ignore[method-assign, assignment]
        f.engine.deliver(JobCanceled(broken))
        f.engine.run(fine)
        await f.settle()

        assert (await f.status(broken, "free"))["error"]["code"] == "internal_error"
        assert (await f.status(fine, "free"))["status"] == "completed"


def _raise(*_: object) -> None:
    raise TypeError("a bug")


@pytest.mark.parametrize(("output_format", "limit"), [("webp", 16_383), ("png", None)])
async def test_a_size_that_the_format_cannot_hold_is_refused_at_once(
    tmp_path: Path, output_format: str, limit: int | None
) -> None:
    async with front(tmp_path) as f:
        body = {"prompt": "x", "type": "image", "width": 16_384, "height": 8, "output_format": output_format}
        reply = await f.post("/api/generate", body)

    assert reply.status_code == (400 if limit else 200)
    assert not limit or f"at most {limit} pixels" in reply.json()["error"]
