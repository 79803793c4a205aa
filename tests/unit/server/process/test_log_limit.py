"""Nobody fills the log by repeating what is logged, and what is left out is told."""

from __future__ import annotations

import logging

import pytest

from server.process.log_limit import MOST_KINDS, KindLimit


@pytest.fixture
def lines() -> list[logging.LogRecord]:
    return []


@pytest.fixture
def limit() -> KindLimit:
    return KindLimit(most=3, most_tracebacks=1, period_s=3600)


def record(phrase: str, *, name: str = "server.test", error: BaseException | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, None)
    return logging.LogRecord(name, logging.WARNING, "", 0, phrase, None, exc_info)


def test_lines_of_a_kind_after_the_first_ones_are_left_out_and_told(
    limit: KindLimit, caplog: pytest.LogCaptureFixture
) -> None:
    passed = [limit.filter(record("request failed")) for _ in range(10)]
    others = [limit.filter(record("job queued")), limit.filter(record("request failed", name="server.other"))]
    limit.tell()
    limit.tell()
    (told,) = caplog.records

    assert passed == [True] * 3 + [False] * 7
    assert others == [True, True]
    assert (told.__dict__["lines"], told.__dict__["phrase"], told.__dict__["of"]) == (
        7,
        "request failed",
        "server.test",
    )


def test_tracebacks_are_fewer(limit: KindLimit) -> None:
    assert [limit.filter(record("request failed", error=ValueError())) for _ in range(3)] == [True, False, False]


def test_phrases_that_are_new_each_time_count_as_one_kind_in_the_end(limit: KindLimit) -> None:
    passed = sum(limit.filter(record(f"value {n}")) for n in range(10 * MOST_KINDS))

    assert passed == MOST_KINDS + 3


def test_a_new_period_begins_afresh() -> None:
    limit = KindLimit(most=1, period_s=0)

    assert all(limit.filter(record("request failed")) for _ in range(10))


def test_what_was_left_out_is_told_at_the_end_of_the_period_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    limit = KindLimit(most=1, period_s=0.05)
    while limit.filter(record("request failed")):
        pass
    assert limit._telling is not None
    limit._telling.join(5)

    assert [told.__dict__["lines"] for told in caplog.records] == [1]
