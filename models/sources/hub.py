"""Finds and downloads repositories of the model hub: "owner/name", "owner/name@revision", "owner/name:folder/x.gguf".

It goes through huggingface_hub, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE apply, and the hub's own cache is
used in place. Downloads run in the pull's own process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from models.errors import BadModel, FetchFailed
from models.sources.download import Body, Interrupted, download
from models.sources.progress import ProgressCallback

HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(@(?P<revision>[\w.-]+))?"
    r"(:(?P<file>[\w./ +-]+\.(safetensors|gguf)))?"
)
# Configs, weights and tokenizers in the layouts that the libraries read; never code or pickles.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
TOP_WEIGHTS = re.compile(r"[^/]+\.safetensors")  # next to a model_index.json: the same weights again, as one file
RESUMABLE_BYTES = 8 << 20  # larger files we download ourselves, because the library cannot resume after a kill
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HubId:
    repo: str
    revision: str | None
    file: str | None


def hub_id(source: str) -> HubId | None:
    """Returns None for a text that is not the name of a repository or of a file in one."""
    match = HUB_ID.fullmatch(source)
    if match is None:
        return None
    file = match["file"]
    if file is not None and (file.startswith("/") or ".." in PurePosixPath(file).parts):
        return None
    return HubId(match["repo"], match["revision"], file)


def find_in_cache(wanted: HubId) -> Path | None:
    """Returns the path of the snapshot folder, or of the one file in it, if the cache has all of it."""
    from huggingface_hub import hf_hub_download, snapshot_download  # takes 0.3 s, so only when a hub id is named
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if wanted.file is not None:
            return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_files_only=True))
        return Path(
            snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=HUB_FILES, local_files_only=True)
        )
    except (LocalEntryNotFoundError, OSError):
        return None


def fetch_from_hub(wanted: HubId, report: ProgressCallback) -> Path:
    """Raises `FetchFailed` that names the cause: a missing token, a gated repository, no network …"""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    report(f"asking the hub for {wanted.repo}", 0, 0)
    try:
        files = _files(wanted)
        total = sum(file.file_size for file in files)
        done = sum(file.file_size for file in files if not file.will_download)
        for file in files:
            if file.will_download and file.file_size >= RESUMABLE_BYTES:
                _fetch_blob(wanted.repo, file, _offset_progress(report, done, total))
            elif file.will_download:
                report(f"downloading {file.filename}", done, total)
                hf_hub_download(wanted.repo, file.filename, revision=file.commit_hash)
            if file.will_download:
                done += file.file_size
        if wanted.file is not None:
            return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
        names = [file.filename for file in files]
        return Path(snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=names))
    except HFValidationError as error:
        raise FetchFailed(f"{wanted.repo} is not the name of a hub repository", detail=str(error)) from error
    except ValueError as error:  # the library refuses such a name
        raise BadModel("the repository has a file whose name leaves its folder", detail=str(error)) from error
    except OSError as error:  # every error of the library and of its HTTP client is one
        raise _fetch_failed(wanted, error) from error


def _offset_progress(report: ProgressCallback, before: int, total: int) -> ProgressCallback:
    """Returns a callback for one file that reports in bytes of all files."""

    def report_file(doing: str, done: int, _: int) -> None:
        report(doing, before + done, total)

    return report_file


def _files(wanted: HubId) -> list[Any]:
    """Lists the files to download.

    Refuses names that would leave the snapshot folder, because the library would not.
    """
    from huggingface_hub import snapshot_download

    patterns = HUB_FILES if wanted.file is None else [wanted.file]
    files = snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=patterns, dry_run=True)
    names = {file.filename for file in files}
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
            raise BadModel("the repository has a file whose name leaves its folder", detail=repr(name))
    if "model_index.json" in names:
        files = [file for file in files if not TOP_WEIGHTS.fullmatch(file.filename)]
    if not any(file.filename.endswith((".safetensors", ".gguf")) for file in files):
        raise FetchFailed(
            f"{wanted.repo} has no safetensors weights"
            if wanted.file is None
            else f"{wanted.repo} has no file {wanted.file}"
        )
    return [*files]


def _fetch_blob(repo: str, file: Any, report: ProgressCallback) -> None:
    """Downloads the file to its place in the hub's cache, where the library finds it and only adds links."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    found = get_hf_file_metadata(hf_hub_url(repo, file.filename, revision=file.commit_hash))
    etag = found.etag or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return  # no checksum to name the blob with: the library downloads this file itself
    blob = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / etag

    def report_name(doing: str, done: int, total: int) -> None:
        report(doing.replace(etag, file.filename), done, total)

    download(
        lambda have: _open(found.location, have, hub_url=hf_hub_url(repo, file.filename, revision=file.commit_hash)),
        blob,
        n_bytes=file.file_size,
        sha256=etag if len(etag) == 64 else None,
        report=report_name,
    )


@contextmanager
def _open(url: str, have: int, *, hub_url: str) -> Iterator[Body]:
    import huggingface_hub.utils

    hub: Any = huggingface_hub.utils  # Any, because it does not declare what it exports

    # Only the hub itself gets the token. Most files are on another host, behind a signed link.
    headers = hub.build_hf_headers() if _host(url) == _host(hub_url) else hub.build_hf_headers(token=False)
    if have:
        headers["Range"] = f"bytes={have}-"
    headers["Accept-Encoding"] = "identity"
    try:
        with hub.get_session().stream("GET", url, headers=headers, follow_redirects=False) as reply:
            if reply.status_code >= 500 or reply.status_code == 429:
                raise Interrupted(f"HTTP {reply.status_code}")
            if reply.status_code not in (200, 206):
                raise FetchFailed(f"the hub answered {reply.status_code} for a file")
            yield Body(have if reply.status_code == 206 else 0, reply.iter_raw(CHUNK_BYTES))
    except Exception as error:
        if type(error).__module__.startswith("httpx"):  # httpx or httpx2, depending on the library's version
            raise Interrupted(str(error)) from error
        raise


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _fetch_failed(wanted: HubId, error: OSError) -> FetchFailed:
    from huggingface_hub import errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError | errors.DryRunError) and isinstance(
        error.__cause__, OSError
    ):
        error = error.__cause__  # these two hide the error that explains the failure
    repo, detail = wanted.repo, f"{type(error).__name__}: {error}"
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return FetchFailed(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN", detail=detail)
        return FetchFailed(
            f"{repo} is gated and the account of HF_TOKEN has no access: accept its terms on the hub",
            detail=detail,
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchFailed(f"{repo} has no revision {wanted.revision}", detail=detail)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "is private: set HF_TOKEN" if get_token() is None else "the account of HF_TOKEN has no access to it"
        return FetchFailed(f"{repo} is not on the hub, or {hint}", detail=detail)
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FetchFailed(f"{repo} has no file {wanted.file}", detail=detail)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return FetchFailed(
            f"the hub refused HF_TOKEN for {repo}" if get_token() else f"{repo} needs a token: set HF_TOKEN",
            detail=detail,
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or _is_offline():
        return FetchFailed(f"{repo} is not on this machine and HF_HUB_OFFLINE forbids downloads", detail=detail)
    if status is not None:
        return FetchFailed(f"the hub answered {status} for {repo}", detail=detail)
    if error.errno is not None:  # a full disk, a cache without write permission
        return FetchFailed(f"{repo} could not be written: {error.strerror}", detail=detail)
    return FetchFailed(f"the model hub cannot be reached; {repo} was not downloaded", detail=detail)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
