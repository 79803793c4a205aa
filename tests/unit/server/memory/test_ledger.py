"""The ledger never gives out more bytes than there are, and its rows add up."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.memory.ledger import DoesNotFit, Ledger, Reading


def test_a_booking_that_does_not_fit_books_nothing() -> None:
    ledger = Ledger(name="cpu", capacity_bytes=100, reserve_bytes=10)
    ledger.book("a", "weights", 60)

    with pytest.raises(DoesNotFit):
        ledger.book("b", "weights", 31)

    assert ledger.held_by("b") == 0
    assert ledger.free_bytes == 30


def test_bytes_of_other_programs_are_what_the_driver_counts_neither_as_free_nor_as_ours() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100)
    ledger.book("a", "weights", 30)
    ledger.observe(Reading(free_bytes=50, ours_bytes=30))

    assert ledger.others_bytes == 20
    assert ledger.free_bytes == 50


def test_release_frees_weights_and_cache_together() -> None:
    ledger = Ledger(name="cpu", capacity_bytes=100)
    ledger.book("a", "weights", 30)
    ledger.book("a", "kv_cache", 20)

    assert ledger.release("a") == 50
    assert ledger.free_bytes == 100


names = st.sampled_from("abcd")


@given(st.lists(st.one_of(st.tuples(names, st.integers(0, 60)), names), max_size=50), st.integers(0, 120))
def test_the_ledger_never_exceeds_the_device_never_goes_negative_and_adds_up(steps: list, others: int) -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100, reserve_bytes=5)
    for step in steps:
        if isinstance(step, str):
            ledger.release(step)
        else:
            with contextlib.suppress(DoesNotFit):
                ledger.book(step[0], "weights", step[1])
        ours = ledger.booked_bytes
        assert 0 <= ours <= ledger.capacity_bytes - ledger.reserve_bytes
        ledger.observe(Reading(free_bytes=max(0, 100 - ours - others), ours_bytes=ours))
        status = ledger.status()
        assert status.free_bytes >= 0
        assert sum(holder.n_bytes for holder in status.holders) == status.used_bytes
    for name in "abcd":
        ledger.release(name)
    assert ledger.booked_bytes == 0


def test_what_the_allocator_keeps_is_shown_and_may_still_be_booked() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100)
    ledger.book("a", "weights", 20)
    ledger.observe(Reading(free_bytes=60, ours_bytes=35))  # 5 are another program's

    status = ledger.status()
    assert [(holder.kind, holder.n_bytes) for holder in status.holders] == [
        ("weights", 20), ("cached", 15), ("other", 5)
    ]  # fmt: skip
    assert status.used_bytes == 40, "what the driver says"
    assert ledger.free_bytes == 75


def test_on_a_cpu_memory_that_the_c_library_keeps_is_no_row() -> None:
    ledger = Ledger(name="cpu", capacity_bytes=100)
    ledger.observe(Reading(free_bytes=60, ours_bytes=35, exact=False))
    assert ledger.status().used_bytes == ledger.others_bytes


def test_leaked_bytes_stay_booked_until_the_driver_has_them_back() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100)
    ledger.leaked("a", 30)
    ledger.observe(Reading(free_bytes=70, ours_bytes=30))
    assert ledger.free_bytes == 70
    assert ledger.status().holders[0].kind == "leaked"

    ledger.observe(Reading(free_bytes=90, ours_bytes=10))
    assert ledger.held_by("a", "leaked") == 10

    ledger.observe(Reading(free_bytes=100, ours_bytes=0))
    assert ledger.booked_bytes == 0


def test_parked_weights_are_booked_in_host_memory_and_no_longer_on_the_device() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100, host_bytes=50)
    ledger.correct_weights("a", {"model": 40, "text_encoder": 20}, {})
    ledger.correct_weights("a", {"model": 40}, {"text_encoder": 20})

    assert (ledger.free_bytes, ledger.host_free_bytes, ledger.parked_of("a")) == (60, 30, 20)
    ledger.release("a")
    assert (ledger.free_bytes, ledger.host_free_bytes) == (100, 50)


def test_weights_are_parked_only_in_host_memory_that_is_available_now() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100, host_bytes=50)
    ledger.observe(Reading(free_bytes=100, ours_bytes=0, host_free_bytes=30))
    assert ledger.host_free_bytes == 30

    ledger.observe(Reading(free_bytes=100, ours_bytes=0, host_free_bytes=80))
    assert ledger.host_free_bytes == 50  # the budget stays a bound

    ledger.observe(Reading(free_bytes=100, ours_bytes=0, host_free_bytes=0))
    assert ledger.host_free_bytes == 0


def test_what_was_parked_since_the_newest_figure_of_host_memory_is_no_longer_available() -> None:
    ledger = Ledger(name="gpu", capacity_bytes=100, host_bytes=500)
    old, new = (Reading(free_bytes=100, ours_bytes=0, host_free_bytes=n) for n in (30, 5))
    ledger.observe(old)
    ledger.correct_weights("a", {}, {"model": 20})
    assert ledger.host_free_bytes == 10

    ledger.observe(old)  # figures are reused for a moment
    assert ledger.host_free_bytes == 10

    ledger.observe(new)
    assert ledger.host_free_bytes == 5
    ledger.release("a")
    assert ledger.host_free_bytes == 5


def test_a_system_that_keeps_freed_memory_is_no_driver() -> None:
    ledger = Ledger(name="cpu", capacity_bytes=100)
    ledger.observe(Reading(free_bytes=50, ours_bytes=30, exact=False))

    assert (ledger.others_bytes, ledger.has_driver) == (20, False)
    ledger.observe(Reading(free_bytes=50, ours_bytes=30))
    assert ledger.has_driver
