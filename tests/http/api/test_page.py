"""The page's files: public, small, cached by browsers, and safe against injected markup."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from server.api.page import FOLDER, read_page
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

MAX_BYTES = 150 * 1024  # of all files, compressed


async def test_the_page_opens_without_a_key_under_a_strict_policy(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.get("/")

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_every_file_is_served_and_their_total_size_is_limited(tmp_path: Path) -> None:
    sent = 0
    async with front(tmp_path) as f:
        for address, asset in read_page().items():
            async with f.client.stream("GET", address, headers={"accept-encoding": "gzip"}) as reply:
                raw = b"".join([chunk async for chunk in reply.aiter_raw()])
            assert (reply.status_code, reply.headers["content-encoding"]) == (200, "gzip")
            assert gzip.decompress(raw) == asset.body
            sent += len(raw)

    assert sent <= MAX_BYTES


async def test_a_cached_file_is_a_304(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = await f.client.get("/")
        again = await f.client.get("/", headers={"if-none-match": first.headers["etag"]})
        plain = await f.client.get("/", headers={"accept-encoding": "identity"})

    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert plain.headers["etag"] != first.headers["etag"]  # uncompressed bytes have another ETag
    assert "content-encoding" not in plain.headers


async def test_any_other_path_needs_a_key(tmp_path: Path) -> None:
    paths = [
        "/page/",
        "/page",
        "/page/nope.js",
        "/page/../store.db",
        "/page/%2e%2e/app.py",
        "/page/index.html",
        "/page/app.js/",
    ]
    async with front(tmp_path) as f:
        without = [await f.client.get(path) for path in paths]
        with_key = [await f.get(path) for path in paths]

    assert {reply.status_code for reply in without} == {401}
    assert {reply.status_code for reply in with_key} == {404}


def test_the_page_calls_no_other_server_and_inserts_no_markup() -> None:
    """The content security policy would prevent both; this test names the file."""
    for path in FOLDER.rglob("*.*"):
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        urls = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)) - {"http://www.w3.org"}
        assert not urls, path
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son[a-z]+=", text)
