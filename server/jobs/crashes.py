"""Judges unplanned ends of the process by the marks that it left: which jobs and which models were at work. Event loop.

A job that was at work is a suspect: it runs again alone, and fails when that has happened at all its attempts. A model
is set aside, as after a failed load, when the process has ended three times at work on it and not on one job alone:
while it was loaded, or run for three different stored jobs, or for chats, which are not run again. Ends by SIGKILL of
which the kernel is not the author count half, because they say little about the model. It is tried again after a time,
when its files change, and when an admin unloads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from models.files.whole_file import write_whole
from server.engine_status import LoadError
from server.job import unstored_type
from server.marks import MARKS, Marked, ended_by_itself, is_stopping, read_fault, read_marks, remove_marks
from server.protocol import SetAside

logger = logging.getLogger(__name__)

MOST_STACKS = 8_000  # characters of them in the log
MOST_ENDS = 3  # of a job, and of a model
KILLS_PER_END = 2  # as many kills by somebody count as one end of its own
REMEMBERED = timedelta(hours=24)
FIRST_ASIDE_S, LONGEST_ASIDE_S = 600.0, 6 * 3600.0  # each further end doubles the time
FOR_PROMPTS = ("prompt", "texts", "tokenizer")  # of the threads that read what models are asked
FOR_JOBS = ("step", "admit", "cancel")  # actions of the device thread for some of a model's jobs


@dataclass(frozen=True, slots=True)
class End:
    """One thing that was under way when the process ended."""

    at: str  # ISO 8601
    action: str
    model: str
    jobs: tuple[str, ...]
    files: str = ""  # of the model: other files, and the end is forgotten
    counted: bool = False  # against its jobs, in the store
    killed: bool = False  # by somebody, and not by the kernel for want of memory

    @property
    def of_model(self) -> str:
        """What to count the end as among those of its model; empty: it says nothing about the model."""
        if not self.jobs:
            return self.at
        if any(unstored_type(job) for job in self.jobs):
            return self.at
        return self.jobs[0] if len(self.jobs) == 1 else ""  # each of several jobs runs again alone, which will tell


class Crashes:
    def __init__(self, data_dir: Path, clock: Callable[[], datetime], files_of: Callable[[str], str]) -> None:
        """files_of: identifies the files of a model; an unknown model has none."""
        self._marks = data_dir / MARKS
        self._path = data_dir / "crashes.json"
        self._clock = clock
        self._files_of = files_of
        self._ends: list[End] = []

    def judge(self) -> None:
        """Record what the marks of the last process say about its end. Call it before this process makes marks."""
        now = self._clock()
        self._ends = [
            end
            for end in _read(self._path)
            if not end.counted
            or (datetime.fromisoformat(end.at) > now - REMEMBERED and end.files == self._files_of(end.model))
        ]
        if not is_stopping(self._marks):
            stacks, crashed = read_fault(self._marks)
            if stacks:
                logger.error("native code crashed in the last process", extra={"stacks": stacks[:MOST_STACKS]})
            found = [marked for marked in read_marks(self._marks) if marked.model or marked.jobs]
            found = [marked for marked in found if marked.thread == crashed] or found
            suspected = {job for end in self._ends for job in end.jobs}
            found = [marked for marked in found if suspected.intersection(marked.jobs)] or found
            killed = not crashed and not ended_by_itself(self._marks)
            for marked in found:
                self._ends.append(self._end(marked, now, alone=len(found) == 1, killed=killed))
                fields = {"action": marked.action, "model": marked.model, "jobs": list(marked.jobs), "killed": killed}
                logger.warning("the last process ended at work", extra=fields)
        self._save()
        remove_marks(self._marks)

    def _end(self, marked: Marked, now: datetime, *, alone: bool, killed: bool) -> End:
        # A thread that reads prompts beside a device at work is less likely to blame than the device.
        model = marked.model if alone or marked.action not in FOR_PROMPTS else ""
        return End(now.isoformat(), marked.action, model, marked.jobs, self._files_of(model), killed=killed)

    @property
    def known(self) -> bool:
        """Whether there are any."""
        return bool(self._ends)

    @property
    def suspects(self) -> Mapping[str, str]:
        """Id of each job that was at work when a process ended and for which that has not been counted → the action."""
        return {job: end.action for end in self._ends if not end.counted for job in end.jobs}

    def count(self) -> None:
        """The ends have been counted against their jobs in the store."""
        if any(not end.counted for end in self._ends):
            self._ends = [replace(end, counted=True) for end in self._ends]
            self._save()

    def set_aside(self) -> Sequence[SetAside]:
        """The models that must not be loaded for now."""
        found = []
        for model in dict.fromkeys(end.model for end in self._ends if end.model):
            ends = [end for end in self._ends if end.model == model and end.of_model]
            by_itself = {end.of_model for end in ends if not end.killed}
            n_kills = len({end.of_model for end in ends} - by_itself)
            weight = len(by_itself) + n_kills // KILLS_PER_END
            if weight < MOST_ENDS:
                continue
            n = len(by_itself) + n_kills
            seconds = min(FIRST_ASIDE_S * 2 ** (weight - MOST_ENDS), LONGEST_ASIDE_S)
            left_s = (datetime.fromisoformat(ends[-1].at) - self._clock()).total_seconds() + seconds
            if left_s > 0:
                error = _error(model, n, ends[-1].action, seconds)
                logger.error("model set aside", extra={"model": model, "ends": n, "retry_in_s": round(left_s)})
                found.append(SetAside(model, left_s, error))
        return found

    def forget(self, model: str) -> None:
        """An admin has asked for it to be tried again, or its files have changed."""
        self._keep(lambda end: end.model != model)

    def worked(self, model: str, *actions: str) -> None:
        """What ended the process before has gone well."""
        self._keep(lambda end: end.model != model or end.action not in actions)

    def _keep(self, which: Callable[[End], bool]) -> None:
        kept = [end for end in self._ends if which(end)]
        if len(kept) != len(self._ends):
            self._ends = kept
            self._save()

    def _save(self) -> None:
        if not self._ends and not self._path.exists():
            return
        try:
            write_whole(self._path, json.dumps([asdict(end) for end in self._ends], indent=1))
        except OSError:
            logger.exception("crashes not stored")  # they count in this process all the same


def _read(path: Path) -> list[End]:
    try:
        ends = [End(**{**fields, "jobs": tuple(fields["jobs"])}) for fields in json.loads(path.read_text())]
        return [end for end in ends if datetime.fromisoformat(end.at).tzinfo is not None]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError):
        logger.warning("crashes of earlier processes not readable", extra={"file": path.name})
        return []


def _error(model: str, n: int, action: str, seconds: float) -> LoadError:
    work = "worked with it" if action in (*FOR_JOBS, *FOR_PROMPTS) else "loaded it" if action == "load" else "moved it"
    message = (
        f"The model {model} is set aside: the server process ended {n} times while it {work}. It is tried again after "
        f"{seconds / 60:.0f} minutes, when its files change, or when an admin unloads it."
    )
    return LoadError(message, f"the last end of the process was in: {action}")
