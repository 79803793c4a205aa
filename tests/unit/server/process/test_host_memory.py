"""How much host memory there is for models, and what of it other programs hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from server.memory.ledger import Ledger
from server.process.hardware import find_machines
from server.process.host_memory import REUSE_S, HostMemory

GIB = 2**30


class FakeSystem:
    """The part of psutil that is asked: a machine and our process on it. Sizes in GiB."""

    def __init__(self, total: float, available: float, private: float = 0.0, files: float = 0.0) -> None:
        self.total, self.available, self.private, self.files = total, available, private, files
        self.reads = 0

    def virtual_memory(self) -> SimpleNamespace:
        self.reads += 1
        return SimpleNamespace(total=int(self.total * GIB), available=int(self.available * GIB))

    def Process(self) -> FakeSystem:
        return self

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=int((self.private + self.files) * GIB), shared=int(self.files * GIB))

    def load_model(self, private: float = 0.0, mapped: float = 0.0) -> None:
        """Memory of its own leaves the available memory; pages of a mapped file can be dropped and stay available."""
        self.private += private
        self.available -= private
        self.files += mapped

    def others_take(self, size: float) -> None:
        self.available -= size


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += REUSE_S  # every reading is a new one
        return self.now


class Server:
    """A CPU device's ledger, fed as the engine feeds it."""

    def __init__(self, system: FakeSystem, root: Path, memory_budget: int | None = None) -> None:
        self.host = HostMemory(root=root, system=system, clock=Clock())
        (machine,) = find_machines("cpu", memory_budget, gpus=[], host_bytes=self.host.total_bytes)
        self.ledger = Ledger(name="cpu", capacity_bytes=machine.memory_bytes)
        self.observe()

    def observe(self) -> Ledger:
        self.ledger.observe(self.host.reading())
        return self.ledger


def container(root: Path, limit: float, used: float, files: float = 0.0) -> Path:
    """A machine whose cgroup (version 2) has this limit, this usage, and of that so much in files. Sizes in GiB."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
    (root / "sys/fs/cgroup/memory.max").write_text(f"{int(limit * GIB)}\n")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{int(used * GIB)}\n")
    (root / "sys/fs/cgroup/memory.stat").write_text(f"inactive_file {int(files * GIB)}\nactive_file 0\n")
    return root


def test_the_limit_of_a_container_bounds_the_memory_and_with_it_every_default_budget(tmp_path: Path) -> None:
    host = HostMemory(root=container(tmp_path, limit=10, used=1), system=FakeSystem(100, 90))
    gpus = find_machines("cpu", None, gpus=[], host_bytes=host.total_bytes)

    assert host.total_bytes == 10 * GIB
    assert host.available_bytes() == 9 * GIB
    assert [machine.memory_bytes for machine in gpus] == [6 * GIB]


def test_a_limit_above_the_machines_memory_is_none(tmp_path: Path) -> None:
    host = HostMemory(root=container(tmp_path, limit=200, used=1), system=FakeSystem(100, 90))

    assert (host.total_bytes, host.available_bytes()) == (100 * GIB, 90 * GIB)


def test_a_memory_budget_is_a_bound_that_the_container_may_lower_and_nothing_raises(tmp_path: Path) -> None:
    system = FakeSystem(100, 90)
    within, beyond = Server(system, tmp_path, 3 * GIB), Server(system, container(tmp_path, limit=10, used=1), 30 * GIB)

    assert within.ledger.capacity_bytes == 3 * GIB
    assert beyond.ledger.capacity_bytes == 10 * GIB


def test_what_other_programs_hold_is_not_free(tmp_path: Path) -> None:
    system = FakeSystem(total=100, available=95, private=1)
    server = Server(system, tmp_path)  # 60 of 100 GiB for models
    assert (server.ledger.others_bytes, server.ledger.free_bytes) == (0, 60 * GIB)

    system.others_take(30)  # the rest still holds the whole budget
    assert (server.observe().others_bytes, server.ledger.free_bytes) == (0, 60 * GIB)

    system.others_take(20)
    assert (server.observe().others_bytes, server.ledger.free_bytes) == (15 * GIB, 45 * GIB)


def test_other_processes_of_the_same_container_count_against_its_limit(tmp_path: Path) -> None:
    system = FakeSystem(total=100, available=95)
    server = Server(system, container(tmp_path, limit=10, used=0))
    container(tmp_path, limit=10, used=7)

    assert server.observe().free_bytes == 3 * GIB


def test_a_loaded_model_is_counted_once_whether_its_weights_are_mapped_or_not(tmp_path: Path) -> None:
    for mapped in (False, True):
        system = FakeSystem(total=100, available=50, private=2)
        server = Server(system, tmp_path)
        server.ledger.book("m", "weights", 20 * GIB)
        system.load_model(mapped=20) if mapped else system.load_model(private=20)

        assert (server.observe().others_bytes, server.ledger.free_bytes) == (10 * GIB, 30 * GIB)


def test_weights_read_ahead_and_mapped_do_not_count_against_the_limit_of_a_container(tmp_path: Path) -> None:
    system = FakeSystem(total=100, available=95)
    server = Server(system, container(tmp_path, limit=20, used=1))
    server.ledger.book("m", "weights", 5 * GIB)
    system.load_model(mapped=5)
    container(tmp_path, limit=20, used=6, files=5)

    assert (server.observe().others_bytes, server.ledger.free_bytes) == (0, 7 * GIB)


def test_memory_that_the_c_library_keeps_of_an_evicted_model_is_ours_and_has_not_leaked(tmp_path: Path) -> None:
    system = FakeSystem(total=100, available=50, private=2)
    server = Server(system, tmp_path)
    server.ledger.book("m", "weights", 20 * GIB)
    system.load_model(private=20)
    server.ledger.release("m")  # the process has grown by 20 GiB and does not shrink

    assert (server.observe().others_bytes, server.ledger.free_bytes) == (10 * GIB, 50 * GIB)
    reading = server.host.reading()
    assert reading is not None
    assert not reading.exact  # so the engine does not wait for the memory to come back


def test_the_interpreter_and_its_libraries_are_no_memory_for_models(tmp_path: Path) -> None:
    server = Server(FakeSystem(total=10, available=3, private=2), tmp_path)

    assert server.ledger.free_bytes == 3 * GIB  # not the 2 GiB that the process holds before any model


def test_a_system_that_does_not_tell_what_is_private_gives_no_reading(tmp_path: Path) -> None:
    system = FakeSystem(total=10, available=3)
    system.memory_info = lambda: SimpleNamespace(rss=GIB)  # type: ignore[method-assign]  # as on macOS

    assert HostMemory(root=tmp_path, system=system).reading() is None


def test_readings_are_reused_for_a_moment_because_every_decision_wants_one(tmp_path: Path) -> None:
    system, now = FakeSystem(total=10, available=3), 0.0
    host = HostMemory(root=tmp_path, system=system, clock=lambda: now)
    for _ in range(100):
        host.reading()
        host.available_bytes()
    assert system.reads == 1

    now = REUSE_S
    system.others_take(1)
    assert host.available_bytes() == 2 * GIB


def test_this_machine_gives_a_reading() -> None:
    host = HostMemory()
    reading = host.reading()

    assert 0 < host.available_bytes() <= host.total_bytes
    assert reading is None or reading.ours_bytes == 0
