"""A key gets as many event streams as its limit says, however many it asks for at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from server.errors import TooMany
from server.jobs.watchers import MAX_PER_KEY, Watchers


def test_the_limit_is_taken_when_it_is_checked() -> None:
    """All requests have passed the check that comes before a look into the store when the first stream begins."""
    watchers = Watchers()
    n_refused = 0
    for _ in range(3 * MAX_PER_KEY):
        watchers.check("anna")
    with ExitStack() as streams:
        for _ in range(3 * MAX_PER_KEY):
            try:
                streams.enter_context(watchers.stream("anna", None))
            except TooMany:
                n_refused += 1
        streams.enter_context(watchers.stream("ben", None))
        assert len(watchers.all()) == MAX_PER_KEY + 1

    assert n_refused == 2 * MAX_PER_KEY
    assert watchers.all() == set()


def test_requests_that_wait_for_their_job_are_no_streams() -> None:
    watchers = Watchers()
    with ExitStack() as waits:
        for n in range(MAX_PER_KEY):
            waits.enter_context(watchers.watch("anna", f"job {n}"))
        watchers.check("anna")
        for _ in range(MAX_PER_KEY):
            waits.enter_context(watchers.stream("anna", None))
        with pytest.raises(TooMany):
            watchers.check("anna")
