"""Serves the web page at /: the static files of `server/page`, to anybody.

The files contain no data: the page fetches everything it shows from the API, with a key. Event loop only.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.errors import NotFound

router = APIRouter()

FOLDER = Path(__file__).parent.parent / "page"
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # the browser refuses innerHTML, so that user input stays text
    ]
)
HEADERS = {
    "cache-control": "no-cache",  # the browser revalidates by ETag, so that it sees a new version at once
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    mime_type: str
    body: bytes
    gzipped: bytes
    etag: str  # of the uncompressed body


@functools.cache
def read_page(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """Reads all files into memory once, by URL path. Only these are served: no path of a request reaches the disk."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in MIME_TYPES)
    return {_url_path(path.relative_to(folder).as_posix()): _asset(path) for path in files}


def _url_path(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(MIME_TYPES[path.suffix], body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:24])


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
@router.head("/page/{name:path}", include_in_schema=False)
@router.get("/page/{name:path}", include_in_schema=False)
async def page(request: Request) -> Response:
    asset: Asset | None = request.app.state.page.get(request.scope["path"])
    if asset is None:
        raise NotFound("There is nothing at this address.")
    gzipped = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{asset.etag}{"-gzip" if gzipped else ""}"'
    headers = {**HEADERS, "etag": etag, "content-type": asset.mime_type}
    if etag in [known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if gzipped:
        headers["content-encoding"] = "gzip"
    return Response(asset.gzipped if gzipped else asset.body, headers=headers)
