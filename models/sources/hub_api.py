"""Asks the hub what a repository holds, and opens its files. In the pull's own process.

It goes through the session of huggingface_hub, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies apply. It makes the
requests itself, because the library keeps no part of an interrupted file and waits as long as the hub asks it to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from models.errors import FetchFailed
from models.sources.download import Body
from models.sources.hub_errors import explain
from models.sources.hub_id import COMMIT, HubId
from models.sources.retries import Interrupted, Pause, with_retries

CHUNK_BYTES = 1 << 20
MAX_PAGES = 1000  # of 1000 files each
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
BUSY = (408, 429, 500, 502, 503, 504)  # the same request may succeed later


@dataclass(frozen=True, slots=True)
class RepoFile:
    name: str  # path inside the repository
    n_bytes: int
    etag: str  # names its blob: the SHA-256 of a large file, git's hash of a small one
    sha256: str | None  # None for a file that is kept in git itself


class Hub:
    """One repository of the hub. Methods raise `FetchFailed` that names the cause: a missing token, no network …"""

    def __init__(self, wanted: HubId, *, pause: Pause = time.sleep) -> None:
        from huggingface_hub import constants

        self._wanted = wanted
        self._pause = pause
        self._endpoint = str(constants.ENDPOINT)

    def commit(self) -> str:
        """Returns the commit that the revision means now."""
        revision = self._wanted.revision or "main"
        if COMMIT.fullmatch(revision):
            return revision
        found = self._json(f"/api/models/{self._wanted.repo}/revision/{quote(revision, safe='')}")[0]
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise FetchFailed(f"the hub did not tell which commit {self._wanted} is")
        return commit

    def files(self, commit: str) -> list[RepoFile]:
        found: list[RepoFile] = []
        next_page = f"/api/models/{self._wanted.repo}/tree/{commit}?recursive=true"
        for _ in range(MAX_PAGES):
            page, following = self._json(next_page)
            try:
                found += [_repo_file(entry) for entry in page if entry["type"] == "file"]
            except (TypeError, KeyError) as error:
                raise FetchFailed(f"the hub's list of the files of {self._wanted.repo} cannot be read") from error
            if following is None:
                return found
            next_page = following
        raise FetchFailed(f"{self._wanted.repo} has more than {MAX_PAGES * 1000:,} files")

    @contextmanager
    def open(self, name: str, commit: str, have: int) -> Iterator[Body]:
        """Opens a file at the byte `have`. Raises `Interrupted` for an error that a retry may solve."""
        url = f"{self._endpoint}/{self._wanted.repo}/resolve/{commit}/{quote(name)}"
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._request(url, headers) as reply:
            if reply.status_code != 416:
                yield Body(have if reply.status_code == 206 else 0, reply.iter_raw(CHUNK_BYTES))
                return
        # The partial file is longer than the file: it is of no use.
        with self.open(name, commit, 0) as body:
            yield body

    def _json(self, path: str) -> tuple[Any, str | None]:
        """Returns the parsed reply and the address of its next page."""

        url = self._endpoint + path if path.startswith("/") else path  # a mirror's endpoint may have a path of its own

        def ask() -> tuple[Any, str | None]:
            with self._request(url, {}) as reply:
                reply.read()
                return reply.json(), reply.links.get("next", {}).get("url")

        try:
            return with_retries(ask, self._pause)
        except Interrupted as error:
            raise explain(self._wanted, error) from error
        except ValueError as error:
            raise FetchFailed(f"the hub's answer about {self._wanted.repo} cannot be read") from error

    @contextmanager
    def _request(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """Follows redirects. Only the hub gets the token: most files are on another host, behind a signed link."""
        import huggingface_hub.utils

        library: Any = huggingface_hub.utils  # Any, because it does not declare what it exports
        try:
            for _ in range(MAX_REDIRECTS):
                token = None if self._is_hub(url) else False
                full = {**library.build_hf_headers(token=token), **headers}
                with library.get_session().stream(
                    "GET", url, headers=full, follow_redirects=False, timeout=TIMEOUT_S
                ) as reply:
                    if reply.has_redirect_location:
                        url = urljoin(url, reply.headers["Location"])
                        continue
                    if reply.status_code in BUSY:
                        status = reply.status_code
                        raise Interrupted(f"HTTP {status}", status=status, retry_after_s=_retry_after(library, reply))
                    if reply.status_code != 416:
                        library.hf_raise_for_status(reply)
                    yield reply
                    return
            raise FetchFailed(f"the hub redirects more than {MAX_REDIRECTS} times")
        except Exception as error:
            if type(error).__module__.startswith("huggingface_hub"):
                raise explain(self._wanted, error) from error
            if type(error).__module__.startswith("httpx"):  # httpx or httpx2, depending on the library's version
                raise Interrupted(f"{type(error).__name__}: {error}") from error
            raise

    def _is_hub(self, url: str) -> bool:
        from huggingface_hub.constants import HF_URL_HOSTS  # those that the library itself sends the token to

        host = urlsplit(url)
        return host.netloc == urlsplit(self._endpoint).netloc or (
            host.scheme == "https" and host.hostname in HF_URL_HOSTS  # a mirror may lead there
        )


def _repo_file(entry: dict[str, Any]) -> RepoFile:
    large = entry.get("lfs")
    if large:
        return RepoFile(entry["path"], int(large["size"]), large["oid"], large["oid"])
    return RepoFile(entry["path"], int(entry["size"]), entry["oid"], None)


def _retry_after(library: Any, reply: Any) -> float | None:
    """Returns the seconds that the hub asks to wait, None when it does not say."""
    limit = library.parse_ratelimit_headers(reply.headers)
    if reply.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    asked = reply.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else None
