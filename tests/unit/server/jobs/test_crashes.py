"""Which jobs and models an end of the process counts against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.jobs.crashes import FOR_JOBS, Crashes
from server.marks import FAULT, MARKS, Marks, note_end, note_stop

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass
class Restarts:
    """Processes over one data folder, one after another."""

    data_dir: Path
    now: datetime = NOON
    files: dict[str, str] = field(default_factory=dict)  # by model

    def start(self) -> Crashes:
        self.now += timedelta(seconds=10)
        crashes = Crashes(self.data_dir, lambda: self.now, lambda model: self.files.get(model, ""))
        crashes.judge()
        return crashes

    def end_in(self, action: str, model: str = "m", jobs: Sequence[str] = (), *, killed: bool = False) -> Crashes:
        """A process ends in this action by itself, or somebody kills it, and the next one starts."""
        Marks(self.data_dir / MARKS).device(0).begin(action, model, jobs)
        if not killed:
            note_end(self.data_dir / MARKS, "SIGSEGV")
        crashes = self.start()
        crashes.count()
        return crashes


@pytest.fixture
def restarts(tmp_path: Path) -> Restarts:
    return Restarts(tmp_path)


def aside(crashes: Crashes) -> list[str]:
    return [message.model for message in crashes.set_aside()]


def test_the_jobs_at_work_are_suspects_until_they_have_been_counted(restarts: Restarts) -> None:
    Marks(restarts.data_dir / MARKS).device(0).begin("step", "m", ["job_1", "job_2"])
    restarts.start()  # and ends before it has counted them
    crashes = restarts.start()

    assert dict(crashes.suspects) == {"job_1": "step", "job_2": "step"}
    crashes.count()
    assert not crashes.suspects
    assert not restarts.start().suspects


def test_a_planned_stop_makes_no_suspects(restarts: Restarts) -> None:
    Marks(restarts.data_dir / MARKS).device(0).begin("step", "m", ["job_1"])
    note_stop(restarts.data_dir / MARKS)

    assert not restarts.start().suspects


def test_a_model_whose_load_ended_three_processes_in_a_row_is_set_aside_for_ten_minutes(restarts: Restarts) -> None:
    assert aside(restarts.end_in("load")) == []
    assert aside(restarts.end_in("load")) == []
    crashes = restarts.end_in("load")

    (message,) = crashes.set_aside()
    assert (message.model, message.seconds) == ("m", 600)
    assert "the server process ended 3 times while it loaded it" in message.error.message
    restarts.now += timedelta(seconds=601)
    assert aside(restarts.start()) == []
    assert restarts.end_in("load").set_aside()[0].seconds == 1200, "tried again in vain"


def test_six_kills_by_somebody_set_a_model_aside_because_they_say_little_about_it(restarts: Restarts) -> None:
    for _ in range(5):
        assert aside(restarts.end_in("load", killed=True)) == []

    (message,) = restarts.end_in("load", killed=True).set_aside()
    assert (message.model, message.seconds) == ("m", 600)
    assert "the server process ended 6 times while it loaded it" in message.error.message


def test_kills_by_somebody_and_ends_of_its_own_count_together(restarts: Restarts) -> None:
    for killed in (True, False, True):
        assert aside(restarts.end_in("load", killed=killed)) == []
    assert aside(restarts.end_in("load")) == ["m"]

    restarts.end_in("step", "other", ["job_1"], killed=True)
    for job in ("job_1", "job_2"):
        assert aside(restarts.end_in("step", "other", [job])) == ["m"]
    assert aside(restarts.end_in("step", "other", ["job_3"])) == ["m", "other"]


def test_native_code_that_crashed_is_to_blame_also_when_the_supervisor_is_gone(restarts: Restarts) -> None:
    for _ in range(3):
        (restarts.data_dir / MARKS).mkdir(exist_ok=True)
        (restarts.data_dir / MARKS / FAULT).write_text("Current thread 0x00000001 (most recent call first):\n")
        crashes = restarts.end_in("load", killed=True)

    assert aside(crashes) == ["m"]


def test_a_load_that_goes_well_ends_the_row(restarts: Restarts) -> None:
    for _ in range(2):
        restarts.end_in("load").worked("m", "load")

    assert aside(restarts.end_in("load")) == []


@pytest.mark.parametrize("jobs", [["job_1"], ["job_1", "job_2", "job_3"]])
def test_one_poisonous_job_or_one_batch_does_not_set_its_model_aside(restarts: Restarts, jobs: list[str]) -> None:
    for _ in range(4):
        crashes = restarts.end_in("step", jobs=jobs)

    assert aside(crashes) == []


def test_a_model_that_ended_processes_at_three_jobs_that_ran_alone_is_set_aside(restarts: Restarts) -> None:
    for job in ("job_1", "job_1", "job_2", "job_3"):
        crashes = restarts.end_in("step", jobs=[job])

    assert aside(crashes) == ["m"]


def test_chats_count_against_their_model_because_they_are_not_run_again(restarts: Restarts) -> None:
    for n in range(3):
        crashes = restarts.end_in("step", jobs=[f"chat_{n}", "chat_x"])

    assert aside(crashes) == ["m"]
    crashes.worked("m", *FOR_JOBS)
    assert aside(crashes) == []


def test_other_files_or_an_admin_let_a_model_be_tried_again(restarts: Restarts) -> None:
    for _ in range(3):
        crashes = restarts.end_in("load")
    crashes.forget("m")
    assert aside(restarts.start()) == []

    for _ in range(3):
        restarts.end_in("load")
    restarts.files["m"] = "others"
    assert aside(restarts.start()) == []


def test_ends_are_forgotten_after_a_day_and_a_damaged_record_is_left_out(restarts: Restarts) -> None:
    for _ in range(3):
        restarts.end_in("load")
    restarts.now += timedelta(hours=25)
    assert not restarts.start().known

    (restarts.data_dir / "crashes.json").write_text('[{"at": "yesterday"}]')
    assert not restarts.start().known
