"""A repository of the model hub, through huggingface_hub: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold, its cache is used in place.

"owner/name", "owner/name@revision", and one file of it: "owner/name:folder/model.Q4_K_M.gguf".
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
from models.sources.report import Report

HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+))?(:(?P<file>[\w./ +-]+\.(safetensors|gguf)))?"
)
# Configs, weights and tokenizers of the layouts that the libraries read; never code or pickles.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
TOP_WEIGHTS = re.compile(r"[^/]+\.safetensors")  # beside a model_index.json: the same weights again, in one file
RESUMED_BYTES = 8 << 20  # from this size on we download the file ourselves: the library begins anew after a kill
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HubId:
    repo: str
    revision: str | None
    file: str | None


def hub_id(source: str) -> HubId | None:
    match = HUB_ID.fullmatch(source)
    if match is None:
        return None
    file = match["file"]
    if file is not None and (file.startswith("/") or ".." in PurePosixPath(file).parts):
        return None
    return HubId(match["repo"], match["revision"], file)


def find_in_cache(wanted: HubId) -> Path | None:
    """The snapshot folder, or the one file of it, if all of it is here."""
    from huggingface_hub import hf_hub_download, snapshot_download  # 0.3 s to import: only for who names a hub id
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if wanted.file is not None:
            return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_files_only=True))
        return Path(
            snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=HUB_FILES, local_files_only=True)
        )
    except (LocalEntryNotFoundError, OSError):
        return None


def fetch_from_hub(wanted: HubId, report: Report) -> Path:
    """Raises `FetchFailed`, which says whether a token is missing, the repository gated or the network gone."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    report(f"asking the hub for {wanted.repo}", 0, 0)
    try:
        files = _files(wanted)
        total = sum(file.file_size for file in files)
        done = sum(file.file_size for file in files if not file.will_download)
        for file in files:
            if file.will_download and file.file_size >= RESUMED_BYTES:
                _fetch_blob(wanted.repo, file, _part_of(report, done, total))
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
        raise FetchFailed(f"{wanted.repo} is no name of a hub repository", detail=str(error)) from error
    except ValueError as error:  # names that the library itself will not write
        raise BadModel("the repository has a file whose name leaves its folder", detail=str(error)) from error
    except OSError as error:  # the library's and the HTTP client's errors are all of this kind
        raise _explained(wanted, error) from error


def _part_of(report: Report, before: int, total: int) -> Report:
    """Of one file, told as bytes of all files."""

    def told(doing: str, done: int, _: int) -> None:
        report(doing, before + done, total)

    return told


def _files(wanted: HubId) -> list[Any]:
    """What has to be here. Names that would leave the snapshot folder are refused: the library writes what it is told."""
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


def _fetch_blob(repo: str, file: Any, report: Report) -> None:
    """Into the cache's own place for it, where the library finds it and only sets its links."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    found = get_hf_file_metadata(hf_hub_url(repo, file.filename, revision=file.commit_hash))
    etag = found.etag or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return  # no name that we could check: the library downloads it its own way
    blob = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / etag

    def named(doing: str, done: int, total: int) -> None:
        report(doing.replace(etag, file.filename), done, total)

    download(
        lambda have: _open(found.location, have, own=hf_hub_url(repo, file.filename, revision=file.commit_hash)),
        blob,
        n_bytes=file.file_size,
        sha256=etag if len(etag) == 64 else None,
        report=named,
    )


@contextmanager
def _open(url: str, have: int, *, own: str) -> Iterator[Body]:
    import huggingface_hub.utils

    hub: Any = huggingface_hub.utils  # it does not name what it exports

    # The token goes to the hub itself and nowhere else: most files lie on another host, behind a signed link.
    headers = hub.build_hf_headers() if _host(url) == _host(own) else hub.build_hf_headers(token=False)
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
        if type(error).__module__.startswith("httpx"):  # whichever of httpx and httpx2 the library came with
            raise Interrupted(str(error)) from error
        raise


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _explained(wanted: HubId, error: OSError) -> FetchFailed:
    from huggingface_hub import errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError | errors.DryRunError) and isinstance(
        error.__cause__, OSError
    ):
        error = error.__cause__  # "not in the cache" only tells what it did next
    repo, detail = wanted.repo, f"{type(error).__name__}: {error}"
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return FetchFailed(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN", detail=detail)
        return FetchFailed(
            f"{repo} is gated and the account of HF_TOKEN has not been let in: accept its terms on the hub",
            detail=detail,
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchFailed(f"{repo} has no revision {wanted.revision}", detail=detail)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "is private: set HF_TOKEN" if get_token() is None else "is not for the account of HF_TOKEN"
        return FetchFailed(f"{repo} is not on the hub, or {hint}", detail=detail)
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FetchFailed(f"{repo} has no file {wanted.file}", detail=detail)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return FetchFailed(
            f"the hub refused HF_TOKEN for {repo}" if get_token() else f"{repo} wants a token: set HF_TOKEN",
            detail=detail,
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or constants_offline():
        return FetchFailed(f"{repo} is not on this machine and HF_HUB_OFFLINE forbids to download it", detail=detail)
    if status is not None:
        return FetchFailed(f"the hub answered {status} for {repo}", detail=detail)
    if error.errno is not None:  # a disk that is full, a cache that may not be written
        return FetchFailed(f"{repo} could not be written: {error.strerror}", detail=detail)
    return FetchFailed(f"the model hub cannot be reached; {repo} was not downloaded", detail=detail)


def constants_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
