"""Forecasts follow the policy: jobs share their lane and the device, wait for admission, and wait for loads."""

from __future__ import annotations

from scripts.simulation.eta_errors import eta_errors, mixed_jobs, small_jobs
from server.engine.forecast import Forecast, ForecastModel, RemainingWork


def model(**values: object) -> ForecastModel:
    defaults = {"n_bytes": 60, "load_s": 5.0, "max_running": 4, "slice_s": 20.0, "patience_s": 10.0, "since_s": -100.0}
    return ForecastModel(**(defaults | values))  # type: ignore[arg-type]  # fields of ForecastModel


def work(name: str, forwards: float, model_name: str = "m") -> RemainingWork:
    return RemainingWork(name, model_name, ((("s", forwards),),), key="k", charge_s=forwards)


def ends(
    running: list[RemainingWork], waiting: list[RemainingWork], s_per_row: float = 1.0, **models: ForecastModel
) -> dict[str, float]:
    """Returns the end of each job on a device of 100 bytes."""
    forecast = Forecast(models, 100, 0.5, lambda model, shape, rows: s_per_row, {})
    return {name: round(seconds, 3) for name, seconds in forecast.run(running, waiting).items()}


def test_jobs_of_a_lane_advance_together_and_each_ends_when_its_forwards_have_run() -> None:
    assert ends([work("short", 5), work("long", 23)], [], m=model()) == {"short": 10, "long": 28}


def test_a_job_whose_lane_is_full_starts_when_a_running_one_ends() -> None:
    assert ends([work("first", 5)], [work("next", 2)], m=model(max_running=1)) == {"first": 5, "next": 7}


def test_a_job_of_a_missing_model_waits_for_its_load() -> None:
    assert ends([], [work("a", 1)], m=model(since_s=None)) == {"a": 6}


def test_other_lanes_go_on_while_the_files_of_a_model_are_read() -> None:
    models = {"m": model(n_bytes=40), "n": model(n_bytes=40, since_s=None, read_s=3.0)}

    assert ends([work("a", 9)], [work("b", 1, "n")], **models) == {"a": 3 + 5 + 6 + 1, "b": 3 + 5 + 2}


def test_a_model_is_loaded_only_if_the_activations_of_a_row_fit_too() -> None:
    models = {"m": model(n_bytes=40), "n": model(n_bytes=40, since_s=None, row_bytes=30)}

    assert ends([work("a", 3)], [work("b", 1, "n")], **models) == {"a": 3, "b": 3 + 5 + 1}


def test_admission_is_not_closed_for_a_model_that_would_not_fit_even_then() -> None:
    models = {"m": model(n_bytes=50, slice_s=0.0), "p": model(n_bytes=50, pinned=True), "n": model(since_s=None)}

    assert ends([work("a", 30)], [work("next", 1), work("b", 1, "n")], **models) == {"a": 31, "next": 2}


def test_each_stage_takes_its_own_time_and_only_requests_at_the_same_stage_share_forwards() -> None:
    s_per_row = {("encode", 1): 4.0, ("encode", 2): 3.0, ("step", 1): 2.0, ("step", 2): 1.0}
    forecast = Forecast({"m": model()}, 100, 0.5, lambda _, shape, rows: s_per_row[shape, rows], {})
    same_stage = tuple(RemainingWork(name, "m", ((("encode", 1), ("step", 2)),)) for name in ("a", "b"))
    assert forecast.run(same_stage, []) == {"a": 3 * 2 + 2 * 2, "b": 3 * 2 + 2 * 2}

    forecast = Forecast({"m": model()}, 100, 0.5, lambda _, shape, rows: s_per_row[shape, rows], {})
    later, earlier = (
        RemainingWork("a", "m", ((("step", 1),),)),
        RemainingWork("b", "m", ((("encode", 1), ("step", 1)),)),
    )
    assert forecast.run((later, earlier), []) == {"a": 4 + 2, "b": 4 + 2 + 2}


def test_two_lanes_share_the_device() -> None:
    assert ends([work("a", 4), work("b", 4, "n")], [], m=model(n_bytes=40), n=model(n_bytes=40)) == {"a": 8, "b": 8}


def test_a_model_that_does_not_fit_is_loaded_when_the_busy_one_is_idle() -> None:
    models = {"m": model(), "n": model(since_s=None)}

    assert ends([work("a", 8)], [work("b", 1, "n")], **models) == {"a": 8, "b": 14}


def test_a_model_whose_patience_is_over_is_loaded_before_later_jobs_of_the_busy_model_start() -> None:
    models = {"m": model(max_running=1), "n": model(since_s=None)}

    predicted = ends([work("a", 30)], [work("late", 30), work("b", 1, "n")], **models)

    assert predicted == {"a": 30, "b": 36, "late": 71}


def test_a_job_that_never_fits_has_no_end() -> None:
    assert ends([], [work("a", 1)], m=model(n_bytes=200, since_s=None)) == {}


def test_a_load_waits_until_the_eviction_of_other_models_is_done() -> None:
    models = {"m": model(), "n": model(since_s=None)}
    forecast = Forecast(models, 100, 0.5, lambda model, shape, rows: 1.0, {}, eviction_s=2.0)

    assert forecast.run([], [work("b", 1, "n")]) == {"b": 2 + 5 + 1}


def test_the_etas_of_two_hundred_small_jobs_submitted_at_once_come_true() -> None:
    at_submission, half_way, n = eta_errors(small_jobs(200), every_s=0.25)

    assert n == 200
    assert at_submission <= 0.25
    assert half_way <= 0.10


def test_the_etas_of_two_hundred_mixed_jobs_come_true() -> None:
    at_submission, half_way, n = eta_errors(mixed_jobs(200))

    assert n > 100
    assert at_submission <= 0.25
    assert half_way <= 0.10
