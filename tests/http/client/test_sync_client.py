"""The blocking client against a real server with a fake engine, in another thread."""

from __future__ import annotations

import threading
from pathlib import Path

from server.client import AgentName, ChatDelta, ChatReply, Job
from server.job import Job as QueuedJob
from server.protocol import Cancel, ModelMessage, Recall
from tests.support.http.served import served
from tests.support.http.thinking import REPLY, THOUGHT, thinking


def test_closing_a_stream_cancels_the_reply(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server, AgentName(server.url, server.f.keys["enterprise"]) as client:
        engine = server.f.engine
        engine.reply = None
        submit, send = engine.submit, engine.send
        canceled = threading.Event()

        def submit_and_start(job: QueuedJob, need_bytes: int = 0, at: float | None = None) -> None:
            submit(job, need_bytes, at)
            server.soon(engine.start_job, job.id)
            server.soon(engine.say, job.id, "I ")

        def send_and_signal(message: Cancel | Recall | ModelMessage) -> None:
            send(message)
            if isinstance(message, Cancel):
                canceled.set()

        engine.submit = submit_and_start  # type: ignore[method-assign]  # wraps the method
        engine.send = send_and_signal  # type: ignore[method-assign]  # wraps the method
        pieces = client.stream_chat("Hello")
        first = next(pieces)
        pieces.close()

        assert first == ChatDelta(text="I ")  # arrived before the reply was complete
        assert canceled.wait(30)


def test_thinking_is_streamed_before_the_reply(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server, AgentName(server.url, server.f.keys["enterprise"]) as client:
        engine = server.f.engine
        with thinking(engine):
            *deltas, reply = client.stream_chat("Hi")

    assert deltas == [ChatDelta(text="", thinking=THOUGHT), ChatDelta(text=REPLY)]
    assert isinstance(reply, ChatReply)
    assert (reply.thinking, reply.reply) == (THOUGHT, REPLY)


def test_watching_a_job_follows_its_events(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server, AgentName(server.url, server.f.keys["enterprise"]) as client:
        job_id = client.generate("A lake").job_id
        watching = client.watch(job_id)
        seen = [next(watching)]
        server.soon(server.f.engine.start_job, job_id)
        server.soon(server.f.engine.progress, job_id, "denoising", 2)
        while seen[-1].step != 2:
            seen.append(next(watching))
        server.soon(server.f.engine.render, job_id)
        seen += watching

    assert [job.status for job in (seen[0], seen[-1])] == ["queued", "completed"]
    assert seen[-1].outputs[0].mime_type == "image/png"
    assert all(isinstance(job, Job) for job in seen)
