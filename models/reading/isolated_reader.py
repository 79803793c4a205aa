"""Reads models in child processes, two at a time, so that a file which ends or occupies its reader harms itself alone.

A model gets little time at first. One that needs more is read again by a child that has the full time, while the
others go on. What was read is remembered by the names, sizes, times and inodes of its files. Any thread.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from models.chat_template import TEMPLATE
from models.check import CheckReport
from models.errors import BadConfig
from models.isolation.child import MAX_REPLY_BYTES, Ended, TookTooLong
from models.isolation.children import Children, Closed
from models.reading.codec import decode, encode
from models.reading.model_reader import Declared
from models.reading.outcome import Outcome, Refusal, readable
from models.reading.remembered import Remembered
from models.spec import ModelSpec
from pipelines.child_process import READER

AT_ONCE = 2  # models
QUICK_CPU_S, QUICK_WALL_S = 2.0, 10.0  # of a first reading
WALL_S = 60.0  # of another; the child itself bounds its processor time
TOO_LONG = (f"code -{signal.SIGPROF.value}", f"code -{signal.SIGALRM.value}")  # the signals of its own limits
WATCH_S = 20.0  # for a look at the names and times in all folders


class IsolatedReader:
    """A `ModelReader`."""

    def __init__(
        self,
        cache_dir: Path,
        auto_dtype: str,
        memory: Path | None = None,
        *,
        quick_s: tuple[float, float] = (QUICK_CPU_S, QUICK_WALL_S),
        wall_s: float = WALL_S,
    ) -> None:
        """memory: the file that remembers what was read across starts.

        quick_s: processor and wall time of a first reading. wall_s: of a second one.
        """
        command = [sys.executable, "-m", "models.reading.worker", str(cache_dir), auto_dtype]
        self._children = Children(lambda: command, READER)
        self._quick_s, self._wall_s = quick_s, wall_s
        self._quick = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reading")
        self._patient = ThreadPoolExecutor(1, thread_name_prefix="reading-slowly")
        self._lock = threading.Lock()  # for what follows
        self._memory = None if memory is None else Remembered(memory, auto_dtype)
        self._kept: dict[str, dict[str, Any]] = {} if self._memory is None else self._memory.load()
        self._has_news = False
        self._states: Any = None  # of the last look at all places
        self._n_changes = 0  # of them
        self._seen: dict[str, int] = {}  # path → the changes before it was read or found unchanged
        # False: the last catalogue got some outcomes of before, or none, because their reading was still going on.
        self.is_settled = True
        self._is_behind = False  # of the catalogue that is being read
        self._under_way: dict[str, Future[Outcome]] = {}

    def found(self, paths: Sequence[Path], until: float) -> Sequence[Outcome | None]:
        # What is known only needs a look, and does not wait for what is new.
        unchanged = {path: self._kept_outcome(path) for path in paths if self._is_unchanged(path)}
        order = sorted(
            (path for path in paths if unchanged.get(path) is None), key=lambda path: str(path) not in self._kept
        )
        futures = {
            path: self._begin(str(path), partial(self._read_found, path), partial(self._given_up, path))
            for path in order
        }
        outcomes = unchanged | dict(zip(order, self._results([futures[path] for path in order], until), strict=True))
        return [self._kept_outcome(path) if outcomes[path] is None else outcomes[path] for path in paths]

    def declared(self, entries: Sequence[Declared], until: float) -> Sequence[Outcome | None]:
        futures = [
            self._begin(
                f"[{each.entry.name}] {each}",
                partial(self._read_declared, each),
                lambda reason: Outcome(None, Refusal(reason)),
            )
            for each in entries
        ]
        return self._results(futures, until)

    def done(self) -> None:
        self.is_settled, self._is_behind = not self._is_behind, False
        with self._lock:
            if self._memory is None or not self._has_news:
                return
            self._has_news, kept = False, dict(self._kept)
        self._memory.save(kept)

    def states(self, places: Sequence[Path]) -> list[str]:
        """Returns a digest of the names, sizes and times in each place. Raises OSError when that takes too long."""
        try:
            states = self._children.ask(
                {"do": "state", "places": [str(place) for place in places]},
                WATCH_S,
                partial(_read_states, n=len(places)),
                max_bytes=MAX_REPLY_BYTES + 256 * len(places),
            )
        except (Ended, Closed) as error:
            raise OSError("the folders of the models cannot be looked at") from error
        with self._lock:
            if states != self._states:
                self._states, self._n_changes = states, self._n_changes + 1
        return states

    def check(self, path: Path, report: CheckReport) -> CheckReport:
        """As `models.check.check_local`."""
        try:
            return self._children.ask({"do": "check", "task": encode((path, report))}, self._wall_s, _read_report)
        except Ended as ended:
            return replace(report, state="refused", reason=_reason(ended))
        except Closed as closed:
            raise OSError("the server is stopping") from closed

    def close(self) -> None:
        """Ends all children. Idempotent."""
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._patient.shutdown(wait=False, cancel_futures=True)
        self._children.close()

    def _begin(
        self, key: str, read: Callable[[Mapping[str, float], float], Outcome], given_up: Callable[[str], Outcome]
    ) -> Future[Outcome]:
        """Starts a reading, unless it is under way.

        read: gets the limits for the child and the wall time; raises `Ended` when the child did not survive it.
        given_up: makes the outcome of a reading that no child survived, from the reason.
        """
        with self._lock:
            future = self._under_way.get(key)
            if future is not None:
                return future
            future = self._under_way[key] = Future()

        def attempt(limits: Mapping[str, float], wall_s: float, *, is_last: bool) -> None:
            try:
                try:
                    outcome = read(limits, wall_s)
                except Ended as ended:
                    if not is_last and ended.doing != TEMPLATE:  # which has had the time that it may take
                        self._patient.submit(attempt, {}, self._wall_s, is_last=True)
                        return
                    outcome = given_up(_reason(ended))
                future.set_result(outcome)
            except BaseException as error:  # noqa: BLE001  # whoever waits is told
                future.set_exception(error)
            with self._lock:
                del self._under_way[key]

        cpu_s, wall_s = self._quick_s
        self._quick.submit(attempt, {"cpu_s": cpu_s}, wall_s, is_last=False)
        return future

    def _read_found(self, path: Path, limits: Mapping[str, float], wall_s: float) -> Outcome:
        kept, n_changes = self._kept.get(str(path)), self._n_changes
        question = {"do": "found", "path": str(path), "known": None, **limits}
        if kept is not None:
            is_same = self._children.ask(question | {"known": kept["stamps"]}, wall_s, _is_same)
            if is_same and (outcome := self._kept_outcome(path)) is not None:
                self._seen[str(path)] = n_changes
                return outcome
        stamps, encoded, outcome = self._children.ask(question, wall_s, _read_found)
        self._keep(path, stamps, encoded)
        self._seen[str(path)] = n_changes
        return outcome

    def _read_declared(self, declared: Declared, limits: Mapping[str, float], wall_s: float) -> Outcome:
        task = encode((declared.entry, declared.known, declared.toml_dir, declared.origin))
        outcome = self._children.ask({"do": "declared", "task": task, **limits}, wall_s, _read_declared)
        if isinstance(outcome, BadConfig):
            raise outcome
        return outcome

    def _results(self, futures: Sequence[Future[Outcome]], until: float) -> Sequence[Outcome | None]:
        wait(futures, timeout=max(0.0, min(until - time.monotonic(), threading.TIMEOUT_MAX)))
        outcomes = [future.result() if future.done() else None for future in futures]
        self._is_behind |= None in outcomes
        return outcomes

    def _is_unchanged(self, path: Path) -> bool:
        """Whether nothing has changed in any place since it was looked at: then the rest of a catalogue comes sooner.

        A change that the next look at all places finds is followed by another catalogue.
        """
        return self._n_changes > 0 and self._seen.get(str(path)) == self._n_changes and str(path) in self._kept

    def _kept_outcome(self, path: Path) -> Outcome | None:
        """Returns what was read of it before, so that a slow look does not take a model away."""
        kept = self._kept.get(str(path))
        return None if kept is None else _outcome(kept["outcome"])

    def _given_up(self, path: Path, reason: str) -> Outcome:
        outcome = Outcome(None, Refusal(reason), is_file=path.suffix in (".safetensors", ".gguf"))
        try:
            stamps = self._children.ask({"do": "stamp", "path": str(path)}, WATCH_S, _read_stamps)
        except Ended:  # it is tried again at the next reading
            return outcome
        self._keep(path, stamps, encode(outcome))
        return outcome

    def _keep(self, path: Path, stamps: dict[str, str] | None, outcome: Any) -> None:
        """stamps: of all places that the outcome depends on; None: it is not kept."""
        with self._lock:
            before = self._kept.pop(str(path), None)
            if stamps is not None:
                self._kept[str(path)] = {"stamps": stamps, "outcome": outcome}
            self._has_news |= before != self._kept.get(str(path))


def _outcome(encoded: Any) -> Outcome | None:
    """Returns None for anything else: another version may have written it."""
    try:
        return _read_outcome(encoded)
    except (ValueError, TypeError, LookupError):
        return None


# What follows reads the answers of the child, and raises LookupError, TypeError or ValueError for anything else.


def _read_outcome(encoded: Any) -> Outcome:
    outcome = decode(encoded)
    if (
        isinstance(outcome, Outcome)
        and isinstance(outcome.spec, ModelSpec | None)
        and isinstance(outcome.refusal, Refusal | None)
    ):
        return outcome
    raise ValueError("no outcome")


def _read_found(answer: Any) -> tuple[dict[str, str] | None, Any, Outcome]:
    return _read_stamps(answer["stamps"]), answer["outcome"], _read_outcome(answer["outcome"])


def _is_same(answer: Any) -> bool:
    return bool(answer == {"same": True})


def _read_declared(answer: Any) -> Outcome | BadConfig:
    return BadConfig(readable(answer["bad_config"])) if "bad_config" in answer else _read_outcome(answer["outcome"])


def _read_stamps(answer: Any) -> dict[str, str] | None:
    if answer is not None and not all(isinstance(stamp, str) for stamp in answer.values()):
        raise TypeError("no stamps")
    return None if answer is None else dict(answer)


def _read_states(answer: Any, n: int) -> list[str]:
    if len(answer) != n:
        raise ValueError("not one for each place")
    return [str(state) for state in answer]


def _read_report(answer: Any) -> CheckReport:
    report = decode(answer)
    if not isinstance(report, CheckReport):
        raise TypeError("no report")
    return report


def _reason(ended: Ended) -> str:
    what = readable(ended.doing) or "its files"
    if isinstance(ended, TookTooLong) or str(ended).endswith(TOO_LONG):
        return f"reading {what} takes too long"
    return f"reading {what} ended the process that reads models"
