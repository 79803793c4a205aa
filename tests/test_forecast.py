"""The policy played forward: jobs share their lane and the device, wait for room, and for loads."""

from __future__ import annotations

from scripts.simulation.foresight import errors, mixed_jobs, small_jobs
from server.forecast import Forecast, Prospect, Work


def model(**values: object) -> Prospect:
    known = {"n_bytes": 60, "load_s": 5.0, "max_running": 4, "slice_s": 20.0, "patience_s": 10.0, "since": -100.0}
    return Prospect(**(known | values))  # type: ignore[arg-type]  # fields of Prospect


def work(name: str, forwards: float, of: str = "m") -> Work:
    return Work(name, of, "s", (forwards,), key="k", charge_s=forwards)


def ends(running: list[Work], waiting: list[Work], row_s: float = 1.0, **models: Prospect) -> dict[str, float]:
    forecast = Forecast(models, 100, 0.5, lambda model, shape, rows: row_s, {})
    return {name: round(seconds, 3) for name, seconds in forecast.ends(running, waiting).items()}


def test_jobs_of_a_lane_advance_together_and_each_ends_when_its_forwards_are_run() -> None:
    assert ends([work("short", 5), work("long", 23)], [], m=model()) == {"short": 10, "long": 28}


def test_a_job_that_finds_no_room_starts_when_one_ends() -> None:
    assert ends([work("first", 5)], [work("next", 2)], m=model(max_running=1)) == {"first": 5, "next": 7}


def test_the_first_job_of_a_model_that_is_not_there_waits_for_its_load() -> None:
    assert ends([], [work("a", 1)], m=model(since=None)) == {"a": 6}


def test_two_lanes_share_the_device() -> None:
    assert ends([work("a", 4), work("b", 4, "n")], [], m=model(n_bytes=40), n=model(n_bytes=40)) == {"a": 8, "b": 8}


def test_a_model_that_does_not_fit_comes_when_the_busy_one_is_done() -> None:
    told = ends([work("a", 8)], [work("b", 1, "n")], m=model(), n=model(since=None))

    assert told == {"a": 8, "b": 14}


def test_a_model_that_lost_patience_comes_before_what_waits_for_the_one_in_its_way() -> None:
    told = ends([work("a", 30)], [work("late", 30), work("b", 1, "n")], m=model(max_running=1), n=model(since=None))

    assert told == {"a": 30, "b": 36, "late": 71}


def test_what_never_fits_has_no_end() -> None:
    assert ends([], [work("a", 1)], m=model(n_bytes=200, since=None)) == {}


def test_a_model_comes_only_when_those_in_its_way_have_left() -> None:
    models = {"m": model(), "n": model(since=None)}
    forecast = Forecast(models, 100, 0.5, lambda model, shape, rows: 1.0, {}, leave_s=2.0)

    assert forecast.ends([], [work("b", 1, "n")]) == {"b": 2 + 5 + 1}


def test_of_two_hundred_small_jobs_at_once_the_estimates_prove_right() -> None:
    at_submission, half_way, n = errors(small_jobs(200), every_s=0.25)

    assert n == 200
    assert at_submission <= 0.25
    assert half_way <= 0.10


def test_over_two_hundred_mixed_jobs_the_estimates_prove_right() -> None:
    at_submission, half_way, n = errors(mixed_jobs(200))

    assert n > 100
    assert at_submission <= 0.25
    assert half_way <= 0.10
