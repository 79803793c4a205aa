"""Placement: the device chosen for a job, and the waiting jobs that an idle device takes over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.fleet.job_times import JobTimes
from server.fleet.placement import DeviceView, Move, choose_device, rebalance

GIB = 2**30
ONE_SECOND_JOBS = JobTimes({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})


def device(usable: float = 10, free: float = 10, **values) -> DeviceView:
    return DeviceView(int(usable * GIB), int(free * GIB), **values)


def chosen(model: str, need: float, *devices: DeviceView, times: JobTimes = ONE_SECOND_JOBS) -> int | None:
    return choose_device(model, int(need * GIB), devices, times)


def test_a_job_larger_than_every_device_gets_no_device() -> None:
    assert chosen("a", 11, device(), device(usable=8)) is None


def test_a_job_goes_to_the_device_with_its_model_although_another_has_more_free_memory() -> None:
    with_model = device(free=1, models=frozenset("a"), jobs={"a": 2})
    assert chosen("a", 4, device(), with_model) == 1


def test_of_two_copies_the_one_with_the_shorter_queue_is_chosen() -> None:
    long_queue, short_queue = (device(models=frozenset("a"), jobs={"a": n}) for n in (9, 2))
    assert chosen("a", 4, long_queue, short_queue) == 1


def test_a_busy_model_gets_a_copy_on_an_idle_device_once_its_queue_outweighs_the_load() -> None:
    def busy(n_jobs: int) -> DeviceView:
        return device(models=frozenset("a"), jobs={"a": n_jobs})

    assert chosen("a", 4, busy(6), device()) == 0
    assert chosen("a", 4, busy(7), device()) == 1  # twice the load of 3 s
    assert chosen("a", 4, busy(7), device(jobs={"b": 1}, models=frozenset("b"))) == 0


def test_a_second_copy_never_evicts_another_model() -> None:
    full = device(free=1, evictable_bytes=9 * GIB, models=frozenset("b"))
    assert chosen("a", 4, device(models=frozenset("a"), jobs={"a": 50}), full) == 0


def test_a_model_that_no_device_has_goes_where_it_fits_without_an_eviction() -> None:
    evictable = device(free=2, evictable_bytes=8 * GIB, models=frozenset("b"))
    free = device(jobs={"b": 3}, models=frozenset("b"))
    assert chosen("a", 4, evictable, free) == 1


def test_without_free_memory_a_job_goes_where_idle_models_can_be_evicted_else_to_the_shortest_queue() -> None:
    full = device(free=0, jobs={"b": 1}, models=frozenset("b"))
    evictable = device(free=0, evictable_bytes=9 * GIB, jobs={"b": 5}, models=frozenset("b"))
    assert chosen("a", 4, full, evictable) == 1
    assert chosen("a", 4, device(free=0, jobs={"b": 5}), full) == 1


def queue(model: str, n: int) -> list[tuple[str, str]]:
    return [(f"{model}{i}", model) for i in range(n)]


def jobs_moved(busy: DeviceView, waiting: list[tuple[str, str]], idle: DeviceView) -> list[str]:
    moves = rebalance([busy, idle], [waiting, []], {"a": 4 * GIB, "b": 4 * GIB}, ONE_SECOND_JOBS)
    assert all(move == Move(move.job_id, 0, 1) for move in moves)
    return [move.job_id for move in moves]


def test_an_idle_device_with_the_model_takes_every_second_waiting_job() -> None:
    busy = device(models=frozenset("a"), jobs={"a": 7})
    assert jobs_moved(busy, queue("a", 6), device(models=frozenset("a"))) == ["a0", "a2", "a4"]


def test_an_idle_device_without_the_model_takes_jobs_only_when_the_queue_outweighs_the_load() -> None:
    assert jobs_moved(device(models=frozenset("a"), jobs={"a": 6}), queue("a", 5), device()) == []
    assert jobs_moved(device(models=frozenset("a"), jobs={"a": 20}), queue("a", 19), device()) == [
        f"a{i}" for i in range(0, 14, 2)
    ]


def test_a_device_with_jobs_takes_none_over() -> None:
    idle = device(models=frozenset("a"), jobs={"a": 1})
    assert jobs_moved(device(models=frozenset("a"), jobs={"a": 20}), queue("a", 19), idle) == []


def test_jobs_that_wait_for_memory_move_to_where_idle_models_can_be_evicted() -> None:
    busy = device(free=0, models=frozenset("a"), jobs={"a": 20, "b": 8})
    idle = device(free=0, evictable_bytes=9 * GIB, models=frozenset("c"))
    assert jobs_moved(busy, queue("b", 8), idle)[0] == "b0"


models = st.sampled_from("abc")
views = st.builds(
    DeviceView,
    usable_bytes=st.integers(1, 20),
    free_bytes=st.integers(0, 20),
    evictable_bytes=st.integers(0, 20),
    models=st.frozensets(models),
    jobs=st.dictionaries(models, st.integers(1, 30)),
)


@given(models, st.integers(0, 25), st.lists(views, min_size=1, max_size=4))
def test_a_job_that_fits_somewhere_always_gets_a_device_that_could_hold_it(
    model: str, need: int, devices: list[DeviceView]
) -> None:
    index = choose_device(model, need, devices, ONE_SECOND_JOBS)
    able = [i for i, view in enumerate(devices) if view.usable_bytes >= need]
    assert (index is None) == (not able)
    assert index is None or index in able


@given(st.lists(views, min_size=2, max_size=4), st.data())
def test_each_move_takes_a_waiting_job_once_to_a_device_without_jobs(
    devices: list[DeviceView], data: st.DataObject
) -> None:
    waiting = [
        [(f"{i}/{m}/{n}", m) for m, count in view.jobs.items() for n in range(data.draw(st.integers(0, count)))]
        for i, view in enumerate(devices)
    ]
    moves = rebalance(devices, waiting, {"a": 3, "b": 6, "c": 9}, JobTimes())

    assert len({move.job_id for move in moves}) == len(moves)
    for move in moves:
        assert move.job_id in {job_id for job_id, _ in waiting[move.source]}
        assert devices[move.target].n_jobs == 0
        assert move.source != move.target


def test_batched_jobs_that_end_together_share_the_time_they_took() -> None:
    times = JobTimes()
    for _ in range(8):
        times.add_job(0, "a", started_at=100.0, now=108.0)
    assert 0.5 < times.job_s("a") < 1.5  # 8 jobs in 8 seconds; the first counted all 8 s, which fades

    assert times.job_s("never measured") == times.job_s("a")
    assert times.load_s("a") == 1.0


def test_a_model_bound_to_one_device_is_neither_placed_on_nor_moved_to_another() -> None:
    other = device(excluded_models=frozenset("a"))
    assert chosen("a", 4, other, device(free=0, jobs={"b": 9}, models=frozenset("b"))) == 1
    assert chosen("a", 4, other) is None
    busy = device(models=frozenset("a"), jobs={"a": 9})
    waiting = [[(str(i), "a") for i in range(9)], []]
    assert rebalance([busy, device()], waiting, {"a": GIB}, ONE_SECOND_JOBS)
    assert not rebalance([busy, other], waiting, {"a": GIB}, ONE_SECOND_JOBS)
