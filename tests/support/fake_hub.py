"""A model hub on this machine that answers as the real one does to huggingface_hub and to our own client.

It serves what a download needs: what a revision means, the list of files (in pages), and the files. Small files are
kept in git, named by git's hash, and come from the hub itself after a redirect to its cache. Large ones (LFS) are named
by their SHA-256 and come from a second host, behind a signed link, where no token may arrive. The hub can be told to
limit the rate of requests, to fail, to break a transfer off or to hold it, and to offer Xet.

`hub_contents` holds what it has, `fake_hub_http` answers the requests, `hub_repositories` has repositories in known
shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.fake_hub_http import CdnHandler, HubHandler
from tests.support.hub_contents import COMMIT, OTHER_TOKEN, TOKEN, Files, Hub

__all__ = ["COMMIT", "OTHER_TOKEN", "TOKEN", "Files", "Hub", "fake_hub"]


@contextmanager
def fake_hub(repos: dict[str, Files], gated: set[str] | None = None, private: set[str] | None = None) -> Iterator[Hub]:
    with ExitStack() as stack:
        main, cdn = (stack.enter_context(_listening()) for _ in range(2))
        # Another host name, as the real one has: an HTTP client compares names, not ports.
        hub = Hub(
            f"http://127.0.0.1:{main.server_port}",
            f"http://localhost:{cdn.server_port}",
            repos,
            gated or set(),
            private or set(),
        )
        main.RequestHandlerClass = _handler(HubHandler, hub)
        cdn.RequestHandlerClass = _handler(CdnHandler, hub)
        for server in (main, cdn):
            stack.enter_context(_serving(server.serve_forever, server.shutdown))
        yield hub


def _handler(cls: type[BaseHTTPRequestHandler], hub: Hub) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (cls,), {"hub": hub})


@contextmanager
def _listening() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    try:
        yield server
    finally:
        server.server_close()


@contextmanager
def _serving(serve: Callable[[float], None], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()
