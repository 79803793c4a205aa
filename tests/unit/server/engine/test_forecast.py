"""The policy played forward: jobs share their lane and the device, wait for room, and for loads."""

from __future__ import annotations

from scripts.simulation.eta_errors import eta_errors, mixed_jobs, small_jobs
from server.engine.forecast import Forecast, ForecastModel, Work


def model(**values: object) -> ForecastModel:
    known = {"n_bytes": 60, "load_s": 5.0, "max_running": 4, "slice_s": 20.0, "patience_s": 10.0, "since": -100.0}
    return ForecastModel(**(known | values))  # type: ignore[arg-type]  # fields of Prospect


def work(name: str, forwards: float, of: str = "m") -> Work:
    return Work(name, of, ((("s", forwards),),), key="k", charge_s=forwards)


def ends(running: list[Work], waiting: list[Work], row_s: float = 1.0, **models: ForecastModel) -> dict[str, float]:
    forecast = Forecast(models, 100, 0.5, lambda model, shape, rows: row_s, {})
    return {name: round(seconds, 3) for name, seconds in forecast.ends(running, waiting).items()}


def test_jobs_of_a_lane_advance_together_and_each_ends_when_its_forwards_are_run() -> None:
    assert ends([work("short", 5), work("long", 23)], [], m=model()) == {"short": 10, "long": 28}


def test_a_job_that_finds_no_room_starts_when_one_ends() -> None:
    assert ends([work("first", 5)], [work("next", 2)], m=model(max_running=1)) == {"first": 5, "next": 7}


def test_the_first_job_of_a_model_that_is_not_there_waits_for_its_load() -> None:
    assert ends([], [work("a", 1)], m=model(since=None)) == {"a": 6}


def test_the_others_go_on_while_the_files_of_a_model_are_read() -> None:
    models = {"m": model(n_bytes=40), "n": model(n_bytes=40, since=None, read_s=3.0)}

    assert ends([work("a", 9)], [work("b", 1, "n")], **models) == {"a": 3 + 5 + 6 + 1, "b": 3 + 5 + 2}


def test_a_model_leaves_room_for_a_row_of_those_beside_it() -> None:
    models = {"m": model(n_bytes=40), "n": model(n_bytes=40, since=None, row_bytes=30)}

    assert ends([work("a", 3)], [work("b", 1, "n")], **models) == {"a": 3, "b": 3 + 5 + 1}


def test_nobody_closes_doors_for_a_model_that_would_not_fit_once_they_are_through() -> None:
    models = {"m": model(n_bytes=50, slice_s=0.0), "p": model(n_bytes=50, pinned=True), "n": model(since=None)}

    told = ends([work("a", 30)], [work("next", 1), work("b", 1, "n")], row_s=1.0, **models)

    assert told == {"a": 31, "next": 2}


def test_stages_take_their_own_time_and_only_requests_at_the_same_one_share_a_forward() -> None:
    row_s = {("encode", 1): 4.0, ("encode", 2): 3.0, ("step", 1): 2.0, ("step", 2): 1.0}
    forecast = Forecast({"m": model()}, 100, 0.5, lambda _, shape, rows: row_s[shape, rows], {})
    both = tuple(Work(name, "m", ((("encode", 1), ("step", 2)),)) for name in ("a", "b"))
    assert forecast.ends(both, []) == {"a": 3 * 2 + 2 * 2, "b": 3 * 2 + 2 * 2}

    forecast = Forecast({"m": model()}, 100, 0.5, lambda _, shape, rows: row_s[shape, rows], {})
    apart = (Work("a", "m", ((("step", 1),),)), Work("b", "m", ((("encode", 1), ("step", 1)),)))
    assert forecast.ends(apart, []) == {"a": 4 + 2, "b": 4 + 2 + 2}


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
    at_submission, half_way, n = eta_errors(small_jobs(200), every_s=0.25)

    assert n == 200
    assert at_submission <= 0.25
    assert half_way <= 0.10


def test_over_two_hundred_mixed_jobs_the_estimates_prove_right() -> None:
    at_submission, half_way, n = eta_errors(mixed_jobs(200))

    assert n > 100
    assert at_submission <= 0.25
    assert half_way <= 0.10
