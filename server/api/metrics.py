"""GET /metrics for Prometheus, and the counting of requests by the template of their route."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.deps import KeyDep, ServiceDep
from server.api.wire import errors
from server.service.service import Service

router = APIRouter()

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **errors()})
async def metrics(service: ServiceDep, key: KeyDep) -> Response:
    key.require("admin")
    return Response(service.metrics.text(), headers={"content-type": EXPOSITION})


class Counted:
    """Outermost, so that what the door turns away is counted too."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Only routes and methods of ours: names that strangers make up must not become series.
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._service.metrics.http.labels(method, route, str(message["status"])).inc()
                self._service.metrics.http_s.labels(method, route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, noting)


METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
