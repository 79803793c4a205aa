"""Embedding jobs in the engine: wide forwards, beside chats, canceled, failed. Real lanes, no thread."""

from __future__ import annotations

import numpy as np

from pipelines.embedding_interface import EmbeddingRequest, TextTokens
from server.job import Job
from server.protocol import Cancel, JobCanceled, JobEmbedded, JobFailed, JobReplied, Submit
from server.scheduling.actions import Step, Wait
from tests.support.jobs import chat_job
from tests.support.lanes.fake_lane import FakeLane
from tests.support.lanes.tiny_encoders import tiny_lane
from tests.support.threadless_executor import ThreadlessExecutor


def embedding(name: str, n_texts: int = 8, *, length: int = 20, owner: str = "a") -> Job:
    texts = tuple(TextTokens((1, *(5 + (i + n) % 70 for n in range(length)), 2)) for i in range(n_texts))
    request = EmbeddingRequest(id=f"{name}/0", owner=owner, texts=texts)
    return Job(id=name, owner=owner, type="embedding", model="m", requests=(request,))


def embedded(bench: ThreadlessExecutor) -> list[str]:
    return [event.job_id for event in bench.of(JobEmbedded) if isinstance(event, JobEmbedded)]


def test_all_texts_of_waiting_jobs_share_the_first_forward() -> None:
    bench = ThreadlessExecutor({"m": tiny_lane()}, 10**9)
    bench.send(*(Submit(embedding(f"embed_{i}", owner=str(i)), 0.0) for i in range(3)))
    bench.until(lambda action: isinstance(action, Wait))

    assert embedded(bench) == ["embed_0", "embed_1", "embed_2"]
    steps = [action for action in bench.actions if isinstance(action, Step)]
    assert [step.max_rows for step in steps] == [24], "no width is tried out by doubling"
    (event, *_) = bench.of(JobEmbedded)
    assert isinstance(event, JobEmbedded)
    assert (event.vectors.shape, event.n_tokens) == ((8, 32), 8 * 22)
    assert np.allclose(np.linalg.norm(event.vectors, axis=1), 1)


def test_a_chat_goes_between_the_forwards_of_a_long_job() -> None:
    bench = ThreadlessExecutor({"m": tiny_lane(step_tokens=128), "chat": FakeLane("chat", {"model": 100})}, 10**9)
    bench.send(Submit(embedding("embed_1", 60, length=60), 0.0))
    bench.turns(8)
    bench.send(Submit(chat_job("chat_1", model="chat"), bench.now))
    bench.until(lambda action: bool(bench.of(JobReplied)), most=60)
    assert not embedded(bench), "the chat's reply did not wait for the job"
    bench.until(lambda action: bool(embedded(bench)))


def test_a_canceled_job_ends_before_its_next_forward() -> None:
    bench = ThreadlessExecutor({"m": tiny_lane(step_tokens=128)}, 10**9)
    bench.send(Submit(embedding("embed_1", 60, length=60), 0.0))
    bench.turns(5)
    bench.send(Cancel("embed_1"))

    assert [event for event in bench.events if isinstance(event, JobCanceled)] == [JobCanceled("embed_1")]
    assert not bench.executor.lanes["m"].has_work()


def test_a_job_that_the_model_cannot_read_fails_alone() -> None:
    bench = ThreadlessExecutor({"m": tiny_lane()}, 10**9)
    bench.send(Submit(embedding("embed_long", length=500), 0.0), Submit(embedding("embed_good"), 0.0))
    bench.until(lambda action: isinstance(action, Wait))

    (failed,) = bench.of(JobFailed)
    assert isinstance(failed, JobFailed)
    assert (failed.job_id, failed.code) == ("embed_long", "context_overflow")
    assert embedded(bench) == ["embed_good"]
