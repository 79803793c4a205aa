"""Dependencies of the routes: the service, the caller's API key, and the middleware that asks for that key.

Only the paths listed here are open to requests without a key. Event loop only.
"""

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
from server.accounts.usage import Allowance
from server.errors import NotFound, ServerError, Unauthorized
from server.http.guard import RELEASE_BODY, REPLY_HEADERS
from server.jobs.jobs import NO_SUCH_JOB
from server.library.library import Library
from server.service.service import Service
from server.store.usage import Kind

PUBLIC = frozenset({"/healthz", "/readyz"})
BARE_KEYS = ("x-api-key", "api-key")  # headers of Anthropic's and Azure's clients, which hold the key and nothing else
BASIC = ("/sdapi/", "/controlnet/")  # clients of AUTOMATIC1111's API can only send Basic authentication
# Many clients of Ollama's API take only an address, whose user information becomes Basic authentication.
OLLAMA_PATHS = frozenset(
    f"/api/{name}"
    for name in (
        "chat", "generate", "embed", "embeddings", "tags", "show", "ps", "version", "pull", "push", "create", "copy",
        "delete",
    )
)  # fmt: skip
LINKED = re.compile(r"/api/files/([0-9A-Za-z]{22})")  # a signed link replaces the key
JOB_ID = re.compile(r"job_[0-9]{1,12}_[0-9A-Za-z]{22}")


class KeyRequired:
    """Middleware that rejects requests without a valid key before they reach the router.

    A path is closed by default, whether it leads to a route, to a mount or nowhere. The path that is compared is the
    one the router will match, not a URL built from headers.
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
        headers = Headers(scope=scope)
        key = await self._authenticator.identify(
            _only(headers, "authorization"),
            bare_key=next((value for name in BARE_KEYS if (value := _only(headers, name)) is not None), None),
            basic=scope["path"].startswith(BASIC) or scope["path"] in OLLAMA_PATHS,
        )
        key.require("use")
        return key

    def _has_link(self, scope: Scope) -> bool:
        match = LINKED.fullmatch(scope["path"])
        if match is None or not scope["query_string"]:
            return False
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8, separator="&")
        except ValueError:  # more fields than that
            return False
        expires, signature = query.get("expires", []), query.get("signature", [])
        return len(expires) == len(signature) == 1 and self._service.jobs.link_opens(match[1], expires[0], signature[0])


def _only(headers: Headers, name: str) -> str | None:
    """Returns the value of a header. Raises `Unauthorized` for several that differ."""
    values = set(headers.getlist(name))
    if len(values) > 1:
        raise Unauthorized
    return values.pop() if values else None


# These are coroutines although they await nothing, because FastAPI runs plain functions on a thread pool.


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
    """Rejects malformed ids without a query to the store."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(NO_SUCH_JOB)
    return job_id


ServiceDep = Annotated[Service, Depends(_service)]
KeyDep = Annotated[ApiKey, Depends(_key)]
KeyOrLink = Annotated[ApiKey | None, Depends(_key_or_link)]  # None: the request has a valid signed link instead
JobId = Annotated[str, Depends(_job_id)]


def allowance_headers(service: Service, allowance: Allowance) -> dict[str, str]:
    return rate_limit_headers(allowance.kind, allowance.limit, allowance.used, service.clock())


@asynccontextmanager
async def allowance_on_error(request: Request, service: Service, key: ApiKey, kinds: list[Kind]) -> AsyncIterator[None]:
    """Adds the rate limit headers for `kinds[-1]` to the reply of a request that fails; on success the route adds them.

    `kinds` is a list, so that the route can append a kind once it has parsed the body.
    """
    try:
        yield
    except ServerError as error:
        if error.status != 502:  # a 502 can mean that the store itself is unavailable
            request.scope["state"][REPLY_HEADERS] = allowance_headers(
                service, await service.accounts.allowance(key, kinds[-1])
            )
        raise


def release_body(request: Request) -> None:
    """Gives the memory that large bodies share back. For a route that waits, and does not hold its body any more."""
    request.scope["state"][RELEASE_BODY]()


async def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


LibraryDep = Annotated[Library, Depends(_library)]
