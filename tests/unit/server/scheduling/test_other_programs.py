"""Work that waits for memory of other programs starts once they free it, although no message reports that."""

from __future__ import annotations

import pytest

from pipelines.chat_interface import ChatRequest
from server.job import Job
from server.memory.ledger import Ledger, Reading
from server.protocol import LoadModel
from server.scheduling.actions import Load, ModelFacts, Wait
from server.scheduling.scheduler import Scheduler
from tests.support.prompts import EMPTY

CHAT = ModelFacts("chat", "chat", need_bytes=60, max_running=4, keep_alive_s=100)


def scheduler_with(others_bytes: int) -> Scheduler:
    scheduler = Scheduler(Ledger(name="cpu", capacity_bytes=100), {"chat": CHAT}.__getitem__, patience_s=10)
    observe(scheduler, others_bytes)
    return scheduler


def observe(scheduler: Scheduler, others_bytes: int) -> None:
    scheduler.observe(Reading(free_bytes=100 - others_bytes, ours_bytes=0, exact=False))


@pytest.mark.parametrize("requested_by", ["a job", "a person"])
def test_a_model_that_waits_for_memory_of_other_programs_is_looked_at_again_soon(requested_by: str) -> None:
    scheduler = scheduler_with(others_bytes=70)
    if requested_by == "a job":
        request = ChatRequest(id="c/0", prompt=EMPTY, max_tokens=1)
        scheduler.add(Job(id="c", owner="a", type="chat", model="chat", requests=(request,)), 0.0)
    else:
        scheduler.handle(LoadModel("chat"), 0.0)
    for now in (0.0, 50.0, 5000.0):  # its patience has ended long before the last of these
        action = scheduler.next_action(now)
        assert isinstance(action, Wait)
        assert action.until is not None
        assert now < action.until <= now + 1.0

    observe(scheduler, others_bytes=10)
    assert scheduler.next_action(5001.0) == Load("chat")


def test_an_engine_without_work_waits_for_a_message_whatever_other_programs_hold() -> None:
    assert scheduler_with(others_bytes=70).next_action(0.0) == Wait(None)
