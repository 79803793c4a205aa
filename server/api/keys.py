"""/api/me: the plan, scopes and daily usage of the caller's key. /api/keys: admins list, create and revoke keys.

Event loop only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.quotas import Plan, seconds_to_reset
from server.accounts.usage import Account
from server.api.deps import KeyDep, ServiceDep
from server.api.schemas import read_body, read_object
from server.api.strict_fields import PRINTABLE, Strict
from server.api.wire import JsonObject, Reply, errors, json_body, timestamp
from server.errors import BadRequest, NotFound
from server.store.usage import KINDS, Kind

router = APIRouter()

KEY_ID = re.compile(r"key_[0-9A-Za-z]{22}")


class NewKey(Strict):
    name: str = Field(
        min_length=1,
        max_length=100,
        pattern=PRINTABLE,
        description="1 to 100 printable characters, not only white space",
    )
    plan: str = Field(min_length=1, max_length=64, description="the name of a plan, as GET /api/keys lists them")
    scopes: list[Literal["use", "admin"]] | None = Field(
        None, min_length=1, max_length=2, description='a list of "use", "admin" or both; ["use"] when left out'
    )


class Allowed(Reply):
    used: int
    limit: int | None


class KeyReply(Reply):
    id: str
    name: str
    hint: str
    plan: str
    scopes: list[str]
    createdAt: str
    revokedAt: str | None
    usage: dict[str, Allowed]


class NewKeyReply(KeyReply):
    key: str


class KeysReply(Reply):
    keys: list[KeyReply]
    plans: dict[str, dict[str, int | None]]


class MeReply(Reply):
    id: str
    name: str
    plan: str
    scopes: list[str]
    usage: dict[str, Allowed]
    resetsAt: str


@router.get("/api/me", responses={200: {"model": MeReply}, **errors()})
async def me(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the plan, the scopes and today's usage of the key that makes the request."""
    used, now = await service.accounts.used(key), service.clock()
    return JSONResponse(
        {
            "id": key.id,
            "name": key.name,
            "plan": key.plan,
            "scopes": sorted(key.scopes),
            "usage": _usage(used, service.accounts.plans.get(key.plan)),
            "resetsAt": _reset_at(now),
        }
    )


@router.get("/api/keys", responses={200: {"model": KeysReply}, **errors()})
async def list_keys(service: ServiceDep, key: KeyDep) -> Response:
    """Lists all keys with today's usage, and the plans. Needs an admin key."""
    key.require("admin")
    accounts = await service.accounts.list()
    plans = {name: {kind: plan.limit(kind) for kind in KINDS} for name, plan in service.accounts.plans.items()}
    return JSONResponse({"keys": [_key_json(account) for account in accounts], "plans": plans})


@router.post("/api/keys", responses={200: {"model": NewKeyReply}, **errors(409, 413)}, openapi_extra=json_body(NewKey))
async def create_key(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Creates a key. The reply is the only place that shows it: the server stores a hash. Needs an admin key."""
    key.require("admin")
    body = read_body(NewKey, read_object(await request.body()))
    if not body.name.isprintable():
        raise BadRequest("name must be 1 to 100 printable characters, not only white space.")
    account, text = await service.accounts.create(body.name.strip(), body.plan, body.scopes or ["use"])
    return JSONResponse({**_key_json(account), "key": text})


@router.delete("/api/keys/{key_id}", responses={200: {"model": KeyReply}, **errors(404)})
async def revoke_key(key_id: Annotated[str, Path()], service: ServiceDep, key: KeyDep) -> Response:
    """Revokes a key; the server refuses it within a second. Its jobs are canceled, its streams and replies end, its
    webhooks are not called, and its links open nothing. Revoking it again changes nothing. Needs an admin key.
    """
    key.require("admin")
    if not KEY_ID.fullmatch(key_id):
        raise NotFound("There is no such key.")
    account = await service.accounts.revoke(key_id)
    await service.revocations.end(key_id)
    return JSONResponse(_key_json(account))


def _key_json(account: Account) -> JsonObject:
    row = account.key
    return {
        "id": row.id,
        "name": row.name,
        "hint": row.hint,
        "plan": row.plan,
        "scopes": sorted(row.scopes),
        "createdAt": timestamp(row.created_at),
        "revokedAt": timestamp(row.revoked_at),
        "usage": _usage(account.used, account.plan),
    }


def _usage(used: Mapping[Kind, int], plan: Plan | None) -> dict[str, Any]:
    """Returns usage and limit per kind; a `limit` of null is unlimited. A plan that no longer exists allows nothing."""
    return {kind: {"used": used[kind], "limit": 0 if plan is None else plan.limit(kind)} for kind in KINDS}


def _reset_at(now: datetime) -> str | None:
    midnight = (now + timedelta(seconds=seconds_to_reset(now))).astimezone(UTC)
    return timestamp(midnight.replace(hour=0, minute=0, second=0, microsecond=0))
