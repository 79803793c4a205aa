"""The server's time follows small steps of the machine's clock at once, and jumps only when they last."""

from __future__ import annotations

from datetime import UTC, datetime

from server.process.steady_clock import SETTLED_S, SteadyClock


class Machine:
    """A clock that can be set, over a counter that cannot."""

    def __init__(self) -> None:
        self.counter = 1000.0
        self.offset = 1_800_000_000.0
        self.clock = SteadyClock(lambda: self.counter + self.offset, lambda: self.counter)

    def forward(self, seconds: float) -> None:
        self.counter += seconds

    def set_by(self, seconds: float) -> None:
        self.offset += seconds

    @property
    def off_s(self) -> float:
        """How far the server's time is from the machine's clock."""
        return self.clock().timestamp() - (self.counter + self.offset)


def test_it_tells_the_time_in_utc() -> None:
    machine = Machine()
    assert machine.clock() == datetime.fromtimestamp(1_800_001_000, UTC)


def test_a_small_step_is_followed_at_once() -> None:
    machine = Machine()
    machine.set_by(-20)
    assert machine.off_s == 0


def test_a_jump_forward_that_is_taken_back_is_never_seen() -> None:
    machine = Machine()
    machine.set_by(86_400)
    assert machine.off_s == -86_400
    machine.forward(120)
    assert machine.off_s == -86_400
    machine.set_by(-86_400)
    machine.forward(1)
    assert machine.off_s == 0


def test_time_goes_on_forward_through_a_jump_back() -> None:
    machine = Machine()
    before = machine.clock()
    machine.set_by(-7200)
    machine.forward(3)
    assert (machine.clock() - before).total_seconds() == 3


def test_a_jump_that_lasts_is_followed() -> None:
    machine = Machine()
    machine.set_by(3600)
    machine.clock()
    machine.forward(SETTLED_S - 1)
    assert machine.off_s == -3600
    machine.forward(2)
    assert machine.off_s == 0


def test_a_clock_that_keeps_jumping_is_not_followed() -> None:
    machine = Machine()
    for _ in range(10):
        machine.set_by(3600)
        machine.clock()
        machine.forward(SETTLED_S / 2)
    assert machine.off_s == -36_000
