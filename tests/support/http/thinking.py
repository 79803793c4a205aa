"""Makes the fake engine think before its replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.job import Job
from tests.fakes import FakeEngine

THOUGHT = "They greet me."
REPLY = "Hello there!"


@contextmanager
def thinking(engine: FakeEngine) -> Iterator[None]:
    """Inside the block, the model thinks THOUGHT and replies REPLY to every message."""
    submit, reply = engine.submit, engine.reply

    def submit_and_reply(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        engine.start_job(job.id)
        engine.finish_chat(job.id, REPLY, THOUGHT)

    engine.reply = None
    engine.submit = submit_and_reply  # type: ignore[method-assign]  # wraps the method
    try:
        yield
    finally:
        engine.submit, engine.reply = submit, reply  # type: ignore[method-assign]  # as before
