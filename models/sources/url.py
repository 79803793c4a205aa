"""Fetches a file from a web address, pinned by its checksum: "https://host/model.safetensors#sha256=…".

An admin names the address, but the server opens it. So only public addresses are connected to, and exactly the address
that was checked, because a second look-up of the name may give another one. Redirects are checked again. Runs in the
pull's own process.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from models.errors import BadConfig, FetchFailed
from models.sources.addresses import all_may_be_opened
from models.sources.disk_space import require_space
from models.sources.download import Body, download
from models.sources.progress import ProgressCallback, SizeCallback, no_size
from models.sources.retries import Interrupted

MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+ -]{0,120}\.(safetensors|gguf)")


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    sha256: str
    file_name: str


def parse_address(source: str) -> Address:
    """Raises `BadConfig` unless `source` is the web address of a model file with its SHA-256."""
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise BadConfig(f"source '{source[:100]}' is not a valid web address") from error
    checksum = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
    if checksum is None:
        raise BadConfig("a source that is a web address must end in #sha256= and the 64 digits of the file's checksum")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
        raise BadConfig("a source that is a web address must begin with https:// and must not name a user")
    name = unquote(parts.path).rsplit("/", 1)[-1]
    if not FILE_NAME.fullmatch(name):
        raise BadConfig("a source that is a web address must name a .safetensors or .gguf file")
    return Address(parts._replace(fragment="").geturl(), checksum[1].lower(), name)


def cached_file(address: Address, cache_dir: Path) -> Path:
    return cache_dir / "models" / f"url-{address.sha256[:16]}" / address.file_name


def fetch_url(
    address: Address,
    cache_dir: Path,
    report: ProgressCallback,
    *,
    private: bool = False,
    announce: SizeCallback = no_size,
) -> Path:
    """private: also allows http, and addresses of this machine and its network."""
    target = cached_file(address, cache_dir)
    opener = partial(_open, address.url, private=private)

    def on_size(need_bytes: int) -> None:
        require_space(target.name, need_bytes, target.parent, "the server's cache", announce)

    download(opener, target, n_bytes=None, sha256=address.sha256, report=report, on_size=on_size)
    return target


@contextmanager
def _open(url: str, have: int, *, private: bool) -> Iterator[Body]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "agentname"}
    if have:
        headers["Range"] = f"bytes={have}-"
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        connection = _connect(parts, private)
        try:
            connection.request(
                "GET", parts._replace(scheme="", netloc="", fragment="").geturl() or "/", headers=headers
            )
            reply = connection.getresponse()
            if reply.status in (301, 302, 303, 307, 308):
                url = urljoin(url, reply.headers.get("Location", ""))
                continue
            yield _body(reply, have)
            return
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
    raise FetchFailed(f"the address redirects more than {MAX_REDIRECTS} times")


def _body(reply: http.client.HTTPResponse, have: int) -> Body:
    if reply.status == 416 and have:  # no bytes are left to send; the checksum decides whether the file is right
        return Body(have, iter(()))
    if reply.status in (401, 403):
        raise FetchFailed(f"the address requires authentication (HTTP {reply.status})")
    if reply.status >= 500 or reply.status == 429:
        asked = reply.headers.get("Retry-After", "")
        wait_s = float(asked) if asked.isdecimal() else None
        raise Interrupted(f"HTTP {reply.status}", status=reply.status, retry_after_s=wait_s)
    if reply.status not in (200, 206):
        raise FetchFailed(f"the address answered HTTP {reply.status}")
    begins = have if reply.status == 206 else 0
    length = reply.headers.get("Content-Length", "")
    ends = begins + int(length) if length.isdecimal() else None
    return Body(begins, iter(partial(reply.read, CHUNK_BYTES), b""), ends)


def _connect(parts: SplitResult, private: bool) -> http.client.HTTPConnection:
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise FetchFailed("the address redirects to something that is not a web address")
    if parts.scheme != "https" and not private:
        raise FetchFailed("only https addresses are fetched")
    host = parts.hostname
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Interrupted(f"{host} cannot be found: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not private and not all_may_be_opened(addresses):
        raise FetchFailed(f"{host} is not a public address; the setting pull_private_urls would allow it")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = _PinnedConnection(host, port, addresses[0], context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    return connection


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to the address that was checked, and verifies the certificate for the host name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), TIMEOUT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
