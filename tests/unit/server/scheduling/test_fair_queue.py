"""The order of waiting jobs: keys take turns; priority, then age decide within a key."""

from hypothesis import given
from hypothesis import strategies as st

from server.scheduling.fair_queue import FairQueue
from tests.support.jobs import chat_job


def order(queue: FairQueue) -> list[str]:
    return [waiting.job.id for waiting in queue.in_order()]


def test_a_key_that_floods_the_queue_delays_only_itself() -> None:
    queue = FairQueue()
    for i in range(5):
        queue.add(chat_job(f"a{i}", "a"), now=i)
    queue.add(chat_job("b0", "b"), now=9)

    assert order(queue)[:3] == ["a0", "b0", "a1"]


def test_within_a_key_higher_priority_goes_first_then_the_older() -> None:
    queue = FairQueue()
    for job_id, priority in (("old", 0), ("urgent", 5), ("young", 0)):
        queue.add(chat_job(job_id, priority=priority), now=0)

    assert order(queue) == ["urgent", "old", "young"]


def test_after_a_job_of_a_key_has_started_the_other_keys_go_first() -> None:
    queue = FairQueue()
    for job_id, owner in (("a0", "a"), ("a1", "a"), ("b0", "b")):
        queue.add(chat_job(job_id, owner), now=0)

    queue.take("a0")

    assert order(queue) == ["b0", "a1"]


def test_a_key_is_not_charged_for_a_job_that_was_removed() -> None:
    queue = FairQueue()
    for job_id, owner in (("a0", "a"), ("a1", "a"), ("b0", "b")):
        queue.add(chat_job(job_id, owner), now=0)

    queue.remove("a0")

    assert order(queue) == ["a1", "b0"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=40))
def test_every_job_added_and_not_taken_is_in_the_order_exactly_once(moves: list[tuple[str, int, bool]]) -> None:
    queue = FairQueue()
    expected: set[str] = set()
    for i, (owner, priority, take) in enumerate(moves):
        queue.add(chat_job(f"j{i}", owner, priority), now=i)
        expected.add(f"j{i}")
        if take:
            first = order(queue)[0]
            queue.take(first)
            expected.discard(first)

    assert sorted(order(queue)) == sorted(expected)
    assert len(queue) == len(expected)


def test_a_new_key_does_not_pay_for_what_others_were_charged_too_much() -> None:
    """The first jobs of a model are charged a second each, whatever they take: embeddings take milliseconds."""
    queue = FairQueue()
    for i in range(64):
        queue.add(chat_job(f"a{i}", "a"), now=0)
    started = [queue.take(f"a{i}") for i in range(32)]
    queue.add(chat_job("during", "b"), now=0)
    for waiting in started:
        queue.ended(waiting.job, 0.01)
    queue.add(chat_job("after", "c"), now=0)

    assert order(queue)[0] == "during"
    assert queue.tag("b") == 0.0
    assert queue.tag("c") <= queue.tag("a") < 0.5


def test_a_key_that_comes_back_gets_no_credit_for_its_idle_time() -> None:
    queue = FairQueue()
    queue.add(chat_job("a0", "a"), now=0)
    queue.ended(queue.take("a0").job, 5.0)
    for i in range(9):
        queue.add(chat_job(f"b{i}", "b"), now=0)
    for i in range(8):
        queue.ended(queue.take(f"b{i}").job, 5.0)
    queue.add(chat_job("a1", "a"), now=0)

    assert queue.tag("a") >= queue.tag("b") - 5.0
