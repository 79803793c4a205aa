"""GET /metrics for Prometheus, and the middleware that counts requests by route template. Event loop only."""

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
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **errors()})
async def metrics(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the metrics in the Prometheus text format. Needs an admin key."""
    key.require("admin")
    return Response(service.metrics.text(), headers={"content-type": EXPOSITION})


class RequestMetrics:
    """Outermost middleware, so that requests that the guard rejects are counted too."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Only known routes and methods become labels: a client must not be able to create time series.
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._service.metrics.http.labels(method, route, str(message["status"])).inc()
                self._service.metrics.http_s.labels(method, route).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_and_count)
