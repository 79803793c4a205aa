"""Downloads repositories of the model hub: "owner/name", "owner/name@revision", "owner/name:folder/x.gguf".

The order of a download: what does the revision mean, what does the repository hold, which of it is read, does it fit on
the disk, the small files, can a model with these configs be served at all, the weights. The hub's own cache is used in
place: what another program left there counts, whatever it is. Runs in the pull's own process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from models.errors import BadModel, FetchFailed, Incomplete
from models.sources.disk_space import require_space
from models.sources.download import download, size_of
from models.sources.fetched import Fetched
from models.sources.hub_api import Hub, RepoFile
from models.sources.hub_cache import Snapshot, cache_folder, find_in_cache, snapshot_of
from models.sources.hub_errors import explain, is_offline
from models.sources.hub_files import (
    Selection,
    component_class,
    files_to_read,
    is_split,
    is_weight_index,
    lay_out,
    single_file,
)
from models.sources.hub_id import HubId, stays_inside
from models.sources.progress import ProgressCallback, SizeCallback, no_size
from models.sources.retries import Pause

# Raises `BadModel` for a folder of configs that could not be served whatever its weights hold.
ConfigCheck: TypeAlias = Callable[[Path], None]


def fetch_from_hub(
    wanted: HubId,
    report: ProgressCallback,
    *,
    announce: SizeCallback = no_size,
    check: ConfigCheck = lambda _: None,
    pause: Pause = time.sleep,
) -> Fetched:
    """Raises `FetchFailed` that names the cause (a missing token, no space …), or `BadModel` before any weights."""
    hub = Hub(wanted, pause=pause)
    report(f"asking the hub for {wanted.repo}", 0, 0)
    try:
        commit = hub.commit()
        files = hub.files(commit)
    except FetchFailed as error:
        if (path := find_in_cache(wanted)) is None or (snapshot := snapshot_of(wanted)) is None:
            raise
        reason = "HF_HUB_OFFLINE is set" if is_offline() else error.message
        note = f"{reason}; the complete copy in the hub's cache was taken"
        return Fetched(path, str(wanted), snapshot.commit, component_class(path), note)
    snapshot = Snapshot(wanted.repo, commit)
    try:
        found = _Download(hub, wanted, snapshot, files, report, pause).run(announce, check)
        snapshot.save_ref(wanted.revision or "main")
    except OSError as error:
        raise explain(wanted, error) from error
    return found


@dataclass(frozen=True, slots=True)
class Offer:
    """What a download of a repository would fetch."""

    commit: str
    file: str | None  # the one file that is the model; None for a folder
    weights: Mapping[str, int]  # file → bytes
    need_bytes: int  # that are not on this machine yet
    configs: Path  # a folder with the configs, which were downloaded


def look_up(wanted: HubId, *, check: ConfigCheck, pause: Pause = time.sleep) -> Offer:
    """Asks the hub and downloads the configs alone. Raises as `fetch_from_hub`."""
    hub = Hub(wanted, pause=pause)
    commit = hub.commit()
    snapshot = Snapshot(wanted.repo, commit)
    try:
        return _Download(hub, wanted, snapshot, hub.files(commit), lambda *_: None, pause).look_up(check)
    except OSError as error:
        raise explain(wanted, error) from error


class _Download:
    """One run through the steps of a download; a later run goes on where an earlier one ended."""

    def __init__(
        self,
        hub: Hub,
        wanted: HubId,
        snapshot: Snapshot,
        files: Iterable[RepoFile],
        report: ProgressCallback,
        pause: Pause,
    ) -> None:
        self._hub = hub
        self._wanted = wanted
        self._snapshot = snapshot
        self._files: Mapping[str, RepoFile] = {file.name: file for file in files}
        if unsafe := next((name for name in self._files if not stays_inside(name)), None):
            raise BadModel("the repository has a file whose name leaves its folder", detail=repr(unsafe))
        self._report = report
        self._pause = pause

    def run(self, announce: SizeCallback, check: ConfigCheck) -> Fetched:
        wanted, snapshot = self._wanted, self._snapshot
        if self._is_here():
            return Fetched(snapshot.folder, str(wanted), snapshot.commit, component_class(snapshot.folder))
        selection, file = self._select()
        absent = [self._files[name] for name in selection.files if not self._has(name)]
        need_bytes = sum(item.n_bytes - self._partial_bytes(item) for item in absent)
        require_space(wanted.repo, need_bytes, cache_folder(), "the hub's cache", announce)

        total = sum(self._files[name].n_bytes for name in selection.files)
        done = total - sum(item.n_bytes for item in absent)
        configs = [item for item in absent if item.name in selection.configs]
        done = self._fetch(configs, done, total)
        component = component_class(snapshot.folder) if file is None else None
        if file is None and component is None:
            self._check(selection, check)
        self._fetch([item for item in absent if item not in configs], done, total)
        source = str(wanted if file is None else HubId(wanted.repo, wanted.revision, file))
        return Fetched(snapshot.folder / (file or ""), source, snapshot.commit, component)

    def look_up(self, check: ConfigCheck) -> Offer:
        selection, file = self._select()
        absent = [self._files[name] for name in selection.files if not self._has(name)]
        self._fetch([item for item in absent if item.name in selection.configs], 0, 0)
        if file is None:
            self._check(selection, check)
        weights = {name: self._files[name].n_bytes for name in selection.weights}
        need_bytes = sum(item.n_bytes - self._partial_bytes(item) for item in absent)
        return Offer(self._snapshot.commit, file, weights, need_bytes, self._snapshot.folder)

    def _check(self, selection: Selection, check: ConfigCheck) -> None:
        """Shows the configs to `check`, in a folder where nothing else is."""
        with tempfile.TemporaryDirectory() as view:
            self._link_into(Path(view), (name for name in selection.configs if not is_weight_index(name)))
            check(Path(view))

    def _is_here(self) -> bool:
        """Returns whether the cache has a complete folder, be it with another variant than would be downloaded."""
        try:
            selection = files_to_read(self._snapshot.folder) if self._wanted.file is None else None
        except (BadModel, OSError):
            return False
        return selection is not None and all(name in self._files and self._has(name) for name in selection.files)

    def _select(self) -> tuple[Selection, str | None]:
        """Returns the files to read, and the one file that is the model when it is not a folder."""
        repo, file = self._wanted.repo, self._wanted.file
        if file is not None and file not in self._files:
            raise FetchFailed(f"{repo} has no file {file}")
        if file is None:
            if (selection := self._select_in_folder()) is not None:
                return selection, None
            file = single_file(repo, {name: item.n_bytes for name, item in self._files.items()})
        if is_split(file):
            raise BadModel(f"{file} is one part of a split GGUF, which cannot be read: choose a file that is whole")
        return Selection(weights=(file,)), file

    def _select_in_folder(self) -> Selection | None:
        repo = self._wanted.repo
        with tempfile.TemporaryDirectory() as folder:
            try:
                lay_out(self._files, Path(folder), self._fetch_early)
                return files_to_read(Path(folder))
            except Incomplete as error:
                raise BadModel(f"{repo} on the hub {error.message}", detail=error.detail) from error
            except BadModel as error:
                raise BadModel(f"{repo} {error.message}", detail=error.detail) from error

    def _fetch_early(self, name: str) -> Path:
        """Downloads a file that tells which others are needed."""
        if not self._has(name):
            self._fetch_one(self._files[name], 0, 0)
        return self._snapshot.folder / name

    def _has(self, name: str) -> bool:
        return self._snapshot.has(name, self._files[name].n_bytes)

    def _partial_bytes(self, file: RepoFile) -> int:
        blob = self._snapshot.blob(file.etag)
        if size_of(blob) == file.n_bytes:
            return file.n_bytes
        return min(size_of(blob.with_name(f"{blob.name}.part")), file.n_bytes)

    def _fetch(self, files: Iterable[RepoFile], done: int, total: int) -> int:
        """Downloads the files and returns how many bytes of `total` are done then."""
        for file in files:
            if not self._has(file.name):  # it may have come meanwhile, to decide what else is needed
                self._fetch_one(file, done, total)
            done += file.n_bytes
        return done

    def _fetch_one(self, file: RepoFile, before: int, total: int) -> None:
        """Downloads a file to its place among the cache's blobs, unless its blob is there, and links to it."""
        blob = self._snapshot.blob(file.etag)
        if size_of(blob) != file.n_bytes:
            download(
                partial(self._hub.open, file.name, self._snapshot.commit),
                blob,
                n_bytes=file.n_bytes,
                sha256=file.sha256,
                git_hash=file.etag,
                name=file.name,
                report=lambda doing, done, _: self._report(doing, before + done, total),
                pause=self._pause,
            )
        self._snapshot.link(file.name, file.etag)

    def _link_into(self, folder: Path, names: Iterable[str]) -> None:
        """Links these files of the snapshot into a folder where nothing else is: no weights, no pickles."""
        for name in names:
            link = folder / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((self._snapshot.folder / name).absolute())
