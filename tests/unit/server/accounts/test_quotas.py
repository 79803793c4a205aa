"""Plans, rate limit headers, and the limit of requests per minute."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from server.accounts.quotas import DEFAULT_PLANS, BurstLimiter, Plan, rate_limit_headers, seconds_to_reset, today
from server.errors import TooMany

EVENING = datetime(2026, 11, 24, 23, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def plan(burst_per_minute: int | None) -> Plan:
    return replace(DEFAULT_PLANS["free"], burst_per_minute=burst_per_minute)


@pytest.mark.parametrize(
    ("name", "images", "videos", "chats"),
    [("free", 10, 2, 50), ("pro", 200, 50, None), ("enterprise", None, None, None)],
)
def test_the_plans_are_those_of_the_documentation(
    name: str, images: int | None, videos: int | None, chats: int | None
) -> None:
    found = DEFAULT_PLANS[name]

    assert (found.limit("images"), found.limit("videos"), found.limit("chats")) == (images, videos, chats)


def test_the_headers_have_the_remaining_outputs_and_the_seconds_to_the_end_of_the_day() -> None:
    assert rate_limit_headers("images", 10, 4, EVENING) == {
        "RateLimit-Policy": '"images-day";q=10;w=86400',
        "RateLimit": '"images-day";r=6;t=3600',
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "6",
        "X-RateLimit-Reset": str(int(datetime(2026, 11, 25, tzinfo=UTC).timestamp())),
    }


def test_a_limit_lowered_below_the_usage_leaves_zero() -> None:
    assert rate_limit_headers("images", 3, 7, EVENING)["X-RateLimit-Remaining"] == "0"


def test_without_a_limit_the_headers_are_still_numbers() -> None:
    headers = rate_limit_headers("chats", None, 123, EVENING)

    assert int(headers["X-RateLimit-Limit"]) == int(headers["X-RateLimit-Remaining"]) == 999_999_999_999_999


@pytest.mark.parametrize(
    ("now", "day", "seconds"),
    [
        (datetime(2026, 11, 24, 23, 59, 59, 900_000, tzinfo=UTC), "2026-11-24", 1),
        (datetime(2026, 11, 25, 0, 0, 0, 100_000, tzinfo=UTC), "2026-11-25", 86_400),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "2026-12-31", 60),
        (datetime(2026, 11, 25, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-11-24", 3600),
    ],
)
def test_a_day_is_a_utc_day(now: datetime, day: str, seconds: int) -> None:
    assert (today(now), seconds_to_reset(now)) == (day, seconds)


def test_a_bucket_holds_the_requests_of_a_minute_and_fills_evenly() -> None:
    clock = Clock()
    burst_limiter = BurstLimiter(clock)
    for _ in range(30):
        burst_limiter.take("anna", plan(30))
    with pytest.raises(TooMany, match="30 requests a minute") as raised:
        burst_limiter.take("anna", plan(30))
    assert raised.value.retry_after_s == 2

    clock.now += 2
    burst_limiter.take("anna", plan(30))
    with pytest.raises(TooMany):
        burst_limiter.take("anna", plan(30))


def test_a_request_after_the_announced_wait_is_accepted() -> None:
    clock = Clock()
    burst_limiter = BurstLimiter(clock)
    for size in (1, 7, 60, 600):
        key_id = f"key_{size}"
        for _ in range(size):
            burst_limiter.take(key_id, plan(size))
        with pytest.raises(TooMany) as raised:
            burst_limiter.take(key_id, plan(size))
        assert raised.value.retry_after_s is not None
        clock.now += raised.value.retry_after_s
        burst_limiter.take(key_id, plan(size))


def test_an_idle_key_saves_up_no_more_than_the_requests_of_a_minute() -> None:
    clock = Clock()
    burst_limiter = BurstLimiter(clock)
    burst_limiter.take("anna", plan(2))
    clock.now += 86_400
    burst_limiter.take("anna", plan(2))
    burst_limiter.take("anna", plan(2))
    with pytest.raises(TooMany):
        burst_limiter.take("anna", plan(2))


def test_each_key_has_a_bucket_of_its_own() -> None:
    clock = Clock()
    burst_limiter = BurstLimiter(clock)
    for _ in range(2):
        burst_limiter.take("anna", plan(2))
    for _ in range(2):
        burst_limiter.take("bob", plan(2))
    for key_id in ("anna", "bob", "anna"):  # what one key takes fills no other key's bucket
        with pytest.raises(TooMany):
            burst_limiter.take(key_id, plan(2))

    clock.now += 30
    for key_id in ("anna", "bob"):
        burst_limiter.take(key_id, plan(2))
        with pytest.raises(TooMany):
            burst_limiter.take(key_id, plan(2))


def test_a_key_without_a_limit_is_never_refused_and_its_requests_count_for_nobody() -> None:
    burst_limiter = BurstLimiter(Clock())
    burst_limiter.take("anna", plan(2))
    for _ in range(1000):
        burst_limiter.take("carla", plan(None))
    burst_limiter.take("anna", plan(2))
    with pytest.raises(TooMany):
        burst_limiter.take("anna", plan(2))

    for _ in range(2):  # once its plan has a limit, its bucket is full
        burst_limiter.take("carla", plan(2))
    with pytest.raises(TooMany):
        burst_limiter.take("carla", plan(2))


def test_a_plan_with_zero_requests_refuses_all() -> None:
    with pytest.raises(TooMany):
        BurstLimiter(Clock()).take("anna", plan(0))
