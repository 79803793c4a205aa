"""Keeps the pictures and clips that jobs start from: takes files, finds those that a request names, lets them expire.

A key has each file once, whatever it is called and however it came. Event loop only; files are hashed, decoded and
written on threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from pipelines.diffusion_interface import MediaFile
from server.accounts.auth import ApiKey
from server.accounts.usage import Accounts
from server.errors import BadRequest, NotFound, Unavailable
from server.jobs.artifacts import Artifacts, new_id
from server.jobs.inputs.decoded import Refused
from server.jobs.inputs.decoder import Decoder
from server.jobs.inputs.folder import InputFolder, read_head, unlink, write
from server.jobs.inputs.media_types import EXTENSIONS, HEAD_BYTES, MAX_BYTES, TAKEN, media_type_of
from server.jobs.inputs.references import (
    FileId,
    OutputId,
    Reference,
    Remote,
    Sent,
    field_of,
    named_id,
    read_references,
    too_large,
    unknown,
)
from server.jobs.inputs.remote_files import RemoteFiles
from server.jobs.inputs.space import Space, check_space
from server.jobs.inputs.turns import Turns
from server.jobs.jobs import NO_SUCH_FILE
from server.store import input_files as store
from server.store import jobs as jobs_store
from server.store.database import Database
from server.store.input_files import InputFileRow

logger = logging.getLogger(__name__)

EITHER = ("control", "input_reference")  # places for pictures and clips alike; the second one is of OpenAI's videos
UNLISTED_FOR = timedelta(minutes=10)  # a file that came with a request is kept until the job is stored, or this long
OTHER_FORMAT = "{} names an output of the type {}, which cannot be an input: make it as png, webp, jpeg, mp4 or webm."


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that is not decoded yet."""

    content: bytes | Path
    sha256: str
    n_bytes: int
    mime_type: str


class InputFiles:
    def __init__(
        self,
        root: Path,
        *,
        database: Database,
        decoder: Decoder,
        accounts: Accounts,
        artifacts: Artifacts,
        clock: Callable[[], datetime],
        retention: timedelta,
        remote_files: RemoteFiles,
    ) -> None:
        """root: the data directory. retention: how long an uploaded file is kept."""
        self._database = database
        self._decoder = decoder
        self._accounts = accounts
        self._artifacts = artifacts
        self._clock = clock
        self._retention = retention
        self._remote_files = remote_files
        self._folder = InputFolder(root / "inputs")
        self._turns = Turns()

    async def add(self, key: ApiKey, data: bytes, *, listed: bool = True, place: str = "file") -> InputFileRow:
        """Checks a file and keeps it. listed: the client sent it by itself, and not with a request that uses it.

        Raises `BadRequest` with the place, `TooLarge`, `TooMany` and `Unavailable`; then nothing is kept.
        """
        if len(data) > MAX_BYTES:
            raise too_large(place)
        mime_type = media_type_of(data[:HEAD_BYTES])
        if mime_type is None:
            raise BadRequest(f"{place} must be {TAKEN}.", param=field_of(place))
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        return await self._keep(key, _Source(data, sha256, len(data), mime_type), listed, place)

    async def find(self, key: ApiKey, media: Mapping[str, str]) -> dict[str, InputFileRow]:
        """Returns the files that the texts of a request stand for, by the same places; keeps those that are new.

        Raises `BadRequest` that names the place, with one text for all files that the key does not have; and as `add`.
        """
        references = await asyncio.to_thread(read_references, media)
        self._remote_files.check([place for place, each in references.items() if isinstance(each, Remote)])
        found = {place: await self._find(key, reference, place) for place, reference in references.items()}
        for place, row in found.items():
            _check_kind(place, row)
        return found

    def media_file(self, row: InputFileRow, text: str = "") -> MediaFile:
        """What the lane needs to know of a file. text: by which a request named it."""
        came_with_request = text == row.id and not row.listed  # by a door that had the bytes
        return MediaFile(
            path=str(self._folder.path(row.file_name)),
            sha256=row.sha256,
            width=row.width,
            height=row.height,
            num_frames=row.num_frames,
            fps=row.fps,
            id="" if came_with_request else named_id(text),
        )

    async def get(self, key: ApiKey, file_id: str) -> tuple[InputFileRow, Path]:
        """A listed file. Raises the same `NotFound` for an unknown, foreign, expired and deleted file."""
        at = self._clock()
        row = (await self._database.read(lambda conn: store.get(conn, key.id, [file_id], at))).get(file_id)
        if row is None or not row.listed:
            raise NotFound(NO_SUCH_FILE)
        path = self._folder.path(row.file_name)
        if not path.is_file():
            raise NotFound(NO_SUCH_FILE)
        return row, path

    async def list(self, key: ApiKey, limit: int, cursor: str | None) -> tuple[Sequence[InputFileRow], str | None]:
        """A page of listed files, newest first, and the cursor of the next page. Raises `BadRequest` for a cursor."""
        at = self._clock()
        return await self._database.read(lambda conn: store.page(conn, key.id, at, limit, cursor))

    async def cursor_after(self, key: ApiKey, file_id: str) -> str | None:
        """The cursor of the page that begins after this listed file; None when there is no such file."""
        at = self._clock()
        return await self._database.read(lambda conn: store.cursor_after(conn, key.id, file_id, at))

    async def space(self, key: ApiKey) -> Space:
        used = await self._database.read(lambda conn: store.used_bytes(conn, key.id))
        return Space(used, self._accounts.plan_of(key).file_space)

    async def delete(self, key: ApiKey, file_id: str) -> None:
        """Deletes a listed file. While unfinished jobs use it, it stays on disk for them. Raises `NotFound`."""
        at = self._clock()

        def delete(conn: Connection) -> tuple[str | None, Sequence[str]]:
            return store.take_away(conn, key.id, file_id, at), store.forget_expired(conn, at)

        found, gone = await self._database.write(delete)
        await self._remove(gone)
        if found is None:
            raise NotFound(NO_SUCH_FILE)

    async def tidy(self) -> None:
        """Removes files that have expired and that no unfinished job uses."""
        at = self._clock()
        await self._remove(await self._database.write(lambda conn: store.forget_expired(conn, at)))

    async def sweep(self) -> int:
        """Removes files that the store does not know; returns their number. Call it at start, before any request."""
        known = await self._database.read(store.file_names)
        left_over = self._folder.unknown(known)
        await self._remove(left_over)
        return len(left_over)

    def close(self) -> None:
        self._decoder.close()

    async def _find(self, key: ApiKey, reference: Reference, place: str) -> InputFileRow:
        match reference:
            case FileId(file_id):
                at = self._clock()
                row = (await self._database.read(lambda conn: store.get(conn, key.id, [file_id], at))).get(file_id)
                if row is None or not self._folder.path(row.file_name).is_file():
                    raise unknown(place)
                return row
            case OutputId(output_id):
                return await self._keep(key, await self._output(key, output_id, place), False, place)
            case Sent(data):
                return await self.add(key, data, listed=False, place=place)
            case Remote(url):
                data = await asyncio.to_thread(self._remote_files.fetch, url, place)
                return await self.add(key, data, listed=False, place=place)

    async def _output(self, key: ApiKey, output_id: str, place: str) -> _Source:
        found = await self._database.read(lambda conn: jobs_store.get_output(conn, output_id))
        path = None if found is None or found[1] != key.id else self._artifacts.path(found[0].file_name)
        if found is None or path is None:
            raise unknown(place)
        output, _ = found
        mime_type = media_type_of(await asyncio.to_thread(read_head, path))
        if mime_type is None:  # a GIF, or a ZIP of frames
            raise BadRequest(OTHER_FORMAT.format(place, output.mime_type), param=field_of(place))
        return _Source(path, output.sha256, output.n_bytes, mime_type)

    async def _keep(self, key: ApiKey, source: _Source, listed: bool, place: str) -> InputFileRow:
        """Returns the key's file of these contents, after it was decoded if it is new."""
        expires_at = self._clock() + (self._retention if listed else UNLISTED_FOR)
        if (known := await self._renew(key, source.sha256, listed, expires_at)) is not None:
            return known
        check_space(await self.space(key), 1, place)
        async with self._turns.turn_of(key.id):
            if (known := await self._renew(key, source.sha256, listed, expires_at)) is not None:
                return known  # it was sent more than once at the same time
            return await self._decode(key, source, listed, place, expires_at)

    async def _renew(self, key: ApiKey, sha256: str, listed: bool, expires_at: datetime) -> InputFileRow | None:
        """Returns None when there is no such file. One that is gone from the disk is forgotten."""
        same = await self._database.read(lambda conn: store.same(conn, key.id, sha256))
        if same is None:
            return None
        if not self._folder.path(same.file_name).is_file():
            await self._database.write(lambda conn: store.forget(conn, same.id))
            return None
        at = self._clock()
        return await self._database.write(lambda conn: store.renew(conn, key.id, sha256, listed, at, expires_at))

    async def _decode(
        self, key: ApiKey, source: _Source, listed: bool, place: str, expires_at: datetime
    ) -> InputFileRow:
        name, content = new_id(), source.content
        sent, made = self._folder.unfinished(f"{name}.sent"), self._folder.unfinished(f"{name}.made")
        try:
            if isinstance(content, bytes):
                await asyncio.to_thread(write, sent, content)
                content = sent
            decoded = await self._decoder.decode(source.mime_type, content, made)
            file_name = f"{name}.{EXTENSIONS[decoded.mime_type]}"
            kept_bytes = await asyncio.to_thread(self._folder.finish, made, file_name)
            row = InputFileRow(
                id=f"file_{name}",
                key_id=key.id,
                sha256=source.sha256,
                mime_type=source.mime_type,
                n_bytes=source.n_bytes,
                kept_bytes=kept_bytes,
                file_name=file_name,
                width=decoded.width,
                height=decoded.height,
                num_frames=decoded.num_frames,
                fps=decoded.fps,
                warnings=list(decoded.warnings),
                listed=listed,
                created_at=self._clock(),
                expires_at=expires_at,
            )
            return await self._store(row, self._accounts.plan_of(key).file_space, place)
        except Refused as refused:
            raise BadRequest(f"{place} must be {refused}.", param=field_of(place)) from refused
        except OSError as error:
            logger.exception("input file not written")
            raise Unavailable("The file cannot be written at the moment.", retry_after_s=5) from error
        finally:
            await asyncio.to_thread(unlink, sent, made)

    async def _store(self, row: InputFileRow, limit: int | None, place: str) -> InputFileRow:
        """Stores a decoded file, and removes it when it cannot be stored."""

        def add(conn: Connection) -> None:
            check_space(Space(store.used_bytes(conn, row.key_id), limit), row.kept_bytes, place)
            store.add(conn, row)

        try:
            await self._database.write(add)
        except Exception:  # not when this is canceled: the row may have been stored
            await self._remove([row.file_name])
            raise
        return row

    async def _remove(self, file_names: Sequence[str]) -> None:
        if file_names:
            await asyncio.to_thread(self._folder.remove, file_names)


def _check_kind(place: str, row: InputFileRow) -> None:
    """Raises `BadRequest` for a clip in the place of a picture, or the other way round. Models may follow both."""
    is_clip = row.fps is not None
    if place == "video" and not is_clip:
        raise BadRequest("video must be a clip, and not a picture.", param="video")
    if is_clip and place != "video" and not place.startswith(EITHER):
        raise BadRequest(f"{place} must be a picture, and not a clip.", param=field_of(place))
