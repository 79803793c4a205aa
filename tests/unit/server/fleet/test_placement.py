"""Which device a job goes to, and what an idle device takes over: plain functions of what is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.fleet.job_times import JobTimes
from server.fleet.placement import DeviceView, Move, place, rebalance

GIB = 2**30
SECOND_EACH = JobTimes({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})


def device(usable: float = 10, free: float = 10, **values) -> DeviceView:
    return DeviceView(int(usable * GIB), int(free * GIB), **values)


def placed(model: str, need: float, *devices: DeviceView, times: JobTimes = SECOND_EACH) -> int | None:
    return place(model, int(need * GIB), devices, times)


def test_a_job_larger_than_every_device_has_no_place() -> None:
    assert placed("a", 11, device(), device(usable=8)) is None


def test_a_job_goes_where_its_model_is_though_another_device_has_more_room() -> None:
    home = device(free=1, models=frozenset("a"), jobs={"a": 2})
    assert placed("a", 4, device(), home) == 1


def test_of_two_copies_the_one_with_less_ahead_is_taken() -> None:
    busy, less = (device(models=frozenset("a"), jobs={"a": n}) for n in (9, 2))
    assert placed("a", 4, busy, less) == 1


def test_a_hot_model_gets_a_copy_on_a_device_that_has_nothing_to_do_once_the_wait_outweighs_the_load() -> None:
    def hot(n_jobs: int) -> DeviceView:
        return device(models=frozenset("a"), jobs={"a": n_jobs})

    assert placed("a", 4, hot(6), device()) == 0
    assert placed("a", 4, hot(7), device()) == 1  # twice the load of 3 s
    assert placed("a", 4, hot(7), device(jobs={"b": 1}, models=frozenset("b"))) == 0


def test_a_copy_never_pushes_another_model_out() -> None:
    full = device(free=1, idle_bytes=9 * GIB, models=frozenset("b"))
    assert placed("a", 4, device(models=frozenset("a"), jobs={"a": 50}), full) == 0


def test_a_model_that_is_nowhere_goes_where_it_fits_without_pushing_another_out() -> None:
    clearable = device(free=2, idle_bytes=8 * GIB, models=frozenset("b"))
    roomy = device(jobs={"b": 3}, models=frozenset("b"))
    assert placed("a", 4, clearable, roomy) == 1


def test_then_where_idle_models_can_leave_and_then_to_the_shortest_wait() -> None:
    full = device(free=0, jobs={"b": 1}, models=frozenset("b"))
    clearable = device(free=0, idle_bytes=9 * GIB, jobs={"b": 5}, models=frozenset("b"))
    assert placed("a", 4, full, clearable) == 1
    assert placed("a", 4, device(free=0, jobs={"b": 5}), full) == 1


def queue(model: str, n: int) -> list[tuple[str, str]]:
    return [(f"{model}{i}", model) for i in range(n)]


def moved(busy: DeviceView, waiting: list[tuple[str, str]], idle: DeviceView) -> list[str]:
    moves = rebalance([busy, idle], [waiting, []], {"a": 4 * GIB, "b": 4 * GIB}, SECOND_EACH)
    assert all(move == Move(move.job_id, 0, 1) for move in moves)
    return [move.job_id for move in moves]


def test_an_idle_device_with_the_model_takes_every_second_waiting_job() -> None:
    busy = device(models=frozenset("a"), jobs={"a": 7})
    assert moved(busy, queue("a", 6), device(models=frozenset("a"))) == ["a0", "a2", "a4"]


def test_an_idle_device_without_the_model_takes_jobs_over_only_when_the_wait_outweighs_the_load() -> None:
    assert moved(device(models=frozenset("a"), jobs={"a": 6}), queue("a", 5), device()) == []
    assert moved(device(models=frozenset("a"), jobs={"a": 20}), queue("a", 19), device()) == [
        f"a{i}" for i in range(0, 14, 2)
    ]


def test_a_device_with_work_takes_nothing_over() -> None:
    idle = device(models=frozenset("a"), jobs={"a": 1})
    assert moved(device(models=frozenset("a"), jobs={"a": 20}), queue("a", 19), idle) == []


def test_a_model_that_waits_for_memory_moves_to_where_idle_models_can_leave() -> None:
    busy = device(free=0, models=frozenset("a"), jobs={"a": 20, "b": 8})
    idle = device(free=0, idle_bytes=9 * GIB, models=frozenset("c"))
    assert moved(busy, queue("b", 8), idle)[0] == "b0"


models = st.sampled_from("abc")
views = st.builds(
    DeviceView,
    usable_bytes=st.integers(1, 20),
    free_bytes=st.integers(0, 20),
    idle_bytes=st.integers(0, 20),
    models=st.frozensets(models),
    jobs=st.dictionaries(models, st.integers(1, 30)),
)


@given(models, st.integers(0, 25), st.lists(views, min_size=1, max_size=4))
def test_a_job_that_fits_somewhere_always_gets_a_device_that_could_hold_it(
    model: str, need: int, devices: list[DeviceView]
) -> None:
    chosen = place(model, need, devices, SECOND_EACH)
    able = [i for i, it in enumerate(devices) if it.usable_bytes >= need]
    assert (chosen is None) == (not able)
    assert chosen is None or chosen in able


@given(st.lists(views, min_size=2, max_size=4), st.data())
def test_moves_take_each_job_once_from_where_it_waits_to_a_device_without_work(
    devices: list[DeviceView], data: st.DataObject
) -> None:
    waiting = [
        [(f"{i}/{m}/{n}", m) for m, count in it.jobs.items() for n in range(data.draw(st.integers(0, count)))]
        for i, it in enumerate(devices)
    ]
    moves = rebalance(devices, waiting, {"a": 3, "b": 6, "c": 9}, JobTimes())

    assert len({move.job_id for move in moves}) == len(moves)
    for move in moves:
        assert move.job_id in {job_id for job_id, _ in waiting[move.source]}
        assert devices[move.target].n_jobs == 0
        assert move.source != move.target


def test_merged_jobs_that_end_together_share_the_time_they_took() -> None:
    times = JobTimes()
    for _ in range(8):
        times.ended(0, "a", started_at=100.0, now=108.0)
    assert 0.5 < times.of_job("a") < 1.5  # eight in eight seconds; the first one counted them all, and fades

    assert times.of_job("never measured") == times.of_job("a")
    assert times.of_load("a") == 1.0


def test_a_model_bound_to_a_device_goes_there_and_nowhere_else_and_is_not_taken_over() -> None:
    other = device(barred=frozenset("a"))
    assert placed("a", 4, other, device(free=0, jobs={"b": 9}, models=frozenset("b"))) == 1
    assert placed("a", 4, other) is None
    busy = device(models=frozenset("a"), jobs={"a": 9})
    waiting = [[(str(i), "a") for i in range(9)], []]
    assert rebalance([busy, device()], waiting, {"a": GIB}, SECOND_EACH)
    assert not rebalance([busy, other], waiting, {"a": GIB}, SECOND_EACH)
