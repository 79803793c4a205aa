"""What routes are given: the service and the caller's key. No request passes without a key but to the addresses listed here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Path
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.accounts.auth import ApiKey, Authenticator
from server.accounts.quotas import rate_limit_headers
from server.errors import NotFound, ServerError, Unauthorized
from server.http.guard import REPLY_HEADERS
from server.jobs.submission import Allowance
from server.service.service import NO_SUCH_JOB, Service
from server.store.usage import Kind

PUBLIC = frozenset({"/healthz", "/readyz"})
BASIC = "/sdapi/"  # its clients can send nothing but Basic authentication
LINKED = re.compile(r"/api/files/([0-9A-Za-z]{22})")  # opens to a signed link, too
JOB_ID = re.compile(r"job_[0-9]{1,12}_[0-9A-Za-z]{22}")


class KeyRequired:
    """Outside the router: an address nobody thought of is closed, whether a route, a mount or nothing is behind it.

    It compares the very path that the router will match, never an URL put together from headers.
    """

    def __init__(
        self, app: ASGIApp, *, authenticator: Authenticator, service: Service, public: Collection[str] = PUBLIC
    ) -> None:
        self._app = app
        self._public = frozenset(public)
        self._authenticator = authenticator
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._public:
            scope["state"]["key"] = None if self._has_link(scope) else await self._identify(scope)
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> ApiKey:
        said = Headers(scope=scope).getlist("authorization")
        if len(said) > 1:
            raise Unauthorized
        key = await self._authenticator.identify(said[0] if said else None, basic=scope["path"].startswith(BASIC))
        key.require("use")
        return key

    def _has_link(self, scope: Scope) -> bool:
        match = LINKED.fullmatch(scope["path"])
        if match is None or not scope["query_string"]:
            return False
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8, separator="&")
        expires, signature = query.get("expires", []), query.get("signature", [])
        return len(expires) == len(signature) == 1 and self._service.link_opens(match[1], expires[0], signature[0])


# Async though nothing waits in them: the framework sends plain functions to a thread pool.


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _key(request: Request) -> ApiKey:
    key: ApiKey | None = request.state.key
    if key is None:
        raise Unauthorized
    return key


async def _key_or_link(request: Request) -> ApiKey | None:
    key: ApiKey | None = request.state.key
    return key


async def _job_id(job_id: Annotated[str, Path()]) -> str:
    """Anything else never was a job: the store is not asked."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(NO_SUCH_JOB)
    return job_id


ServiceDep = Annotated[Service, Depends(_service)]
KeyDep = Annotated[ApiKey, Depends(_key)]
KeyOrLink = Annotated[ApiKey | None, Depends(_key_or_link)]  # None: the request came by a valid signed link
JobId = Annotated[str, Depends(_job_id)]


def allowance_headers(service: Service, allowance: Allowance) -> dict[str, str]:
    return rate_limit_headers(allowance.kind, allowance.limit, allowance.used, service.clock())


@asynccontextmanager
async def counted(request: Request, service: Service, key: ApiKey, kinds: list[Kind]) -> AsyncIterator[None]:
    """Puts the key's allowance on the reply of a request that fails; on success the route knows better. `kinds[-1]` counts."""
    try:
        yield
    except ServerError as error:
        if error.status != 502:  # the store may be what is unavailable
            request.scope["state"][REPLY_HEADERS] = allowance_headers(service, await service.allowance(key, kinds[-1]))
        raise
