"""Reads and fills the hub's own cache on this machine, in the layout that its library and other programs share.

  models--owner--name/blobs/ETAG                    a file, named by its SHA-256, a small one by git's hash of it
  models--owner--name/snapshots/COMMIT/FOLDER/FILE  a link to the blob
  models--owner--name/refs/REVISION                 the commit that a branch or tag meant when it was last downloaded

Looking into it needs neither the network nor the library, whose import takes 0.3 s. Whether a snapshot is complete is
judged from the files that are there: who wrote it, and how far they came, does not matter. Any thread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadModel
from models.sources.hub_files import files_to_read
from models.sources.hub_id import COMMIT, HubId


def cache_folder() -> Path:
    """Returns the folder that the library uses: HF_HUB_CACHE, else "hub" in HF_HOME, else in the user's cache."""
    user_cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    home = os.getenv("HF_HOME", os.path.join(user_cache, "huggingface"))
    folder = os.getenv("HF_HUB_CACHE", os.getenv("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub")))
    return Path(os.path.expandvars(os.path.expanduser(folder)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one commit of a repository, as far as they are in the cache."""

    repo: str
    commit: str

    @property
    def folder(self) -> Path:
        return repo_folder(self.repo) / "snapshots" / self.commit

    def has(self, name: str, n_bytes: int | None = None) -> bool:
        """Returns whether a file is there, and has `n_bytes` if that is given. A link to a missing blob is no file."""
        try:
            found = (self.folder / name).stat()
        except OSError:
            return False
        return n_bytes is None or found.st_size == n_bytes

    def blob(self, etag: str) -> Path:
        return repo_folder(self.repo) / "blobs" / etag

    def link(self, name: str, etag: str) -> None:
        """Makes the blob the file `name` of this snapshot, by a relative link, or by a move where links are not."""
        file, blob = self.folder / name, self.blob(etag)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        try:
            file.symlink_to(os.path.relpath(blob, file.parent))
        except OSError:  # a file system without links, or Windows without the right to make them
            shutil.move(blob, file)

    def save_ref(self, revision: str) -> None:
        """Records that `revision` means this commit. Writes nothing when it is recorded: the cache may be read-only."""
        ref = repo_folder(self.repo) / "refs" / revision
        if revision == self.commit or (ref.is_file() and ref.read_text(encoding="utf-8") == self.commit):
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        unfinished = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        unfinished.write_text(self.commit)
        unfinished.replace(ref)


def repo_folder(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshot_of(wanted: HubId) -> Snapshot | None:
    """Returns the snapshot of the revision as it was last downloaded, complete or not."""
    revision = wanted.revision or "main"
    if COMMIT.fullmatch(revision):
        return Snapshot(wanted.repo, revision)
    try:
        commit = (repo_folder(wanted.repo) / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Snapshot(wanted.repo, commit) if COMMIT.fullmatch(commit) else None


def find_in_cache(wanted: HubId, *, without_weights: Collection[str] = ()) -> Path | None:
    """Returns the path of the snapshot's folder, or of the one file in it, if all that a loader reads is there.

    without_weights: components that are not loaded from this folder.
    """
    snapshot = snapshot_of(wanted)
    if snapshot is None:
        return None
    if wanted.file is not None:
        return snapshot.folder / wanted.file if snapshot.has(wanted.file) else None
    try:
        selection = files_to_read(snapshot.folder, without_weights=without_weights)
    except (BadModel, OSError):
        return None
    return snapshot.folder if selection is not None else None
