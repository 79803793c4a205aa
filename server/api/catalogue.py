"""Shows, adds, changes, removes and pulls models while the server runs. Event loop only.

Every key may read the catalogue; changes need an admin key.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.catalogue_reader import RefusedModel
from models.check import name_of
from server.api.deps import KeyDep, LibraryDep, ServiceDep
from server.api.model_control import ChangeModel, apply_overrides, optional_body
from server.api.model_details import ModelDetailsReply, details_json
from server.api.models import model_json, refused_json
from server.api.schemas import read_body, read_object
from server.api.strict_fields import Strict
from server.api.wire import JsonObject, Reply, errors, json_body
from server.library.pulls import Pull, Pulls

router = APIRouter()

Entry = dict[str, Any]
ENTRY = "a table as in models.toml"


class ModelEntry(Strict):
    """The fields of a model's entry in models.toml.

    Only types are checked here. The catalogue checks the values, so that models.toml and the API accept the same ones.
    """

    type: str | None = Field(None, description="one of image, video, chat, embedding, adapter")
    revision: str | None = Field(None, description="a branch, tag or commit")
    aliases: list[str] | None = Field(None, description="a list of names")
    default: bool | None = Field(None, description="true or false")
    dtype: str | None = Field(None, description="one of auto, float32, bfloat16, float16")
    device: str | None = Field(None, description="a device like cpu or cuda:0")
    pinned: bool | None = Field(None, description="true or false")
    keep_alive_s: float | None = Field(None, description="a number of seconds")
    max_running: int | None = Field(None, ge=1, description="a whole number from 1")
    control_types: list[str] | None = Field(
        None, description="a list of the kinds of maps that a ControlNet follows, such as canny"
    )
    scale: int | None = Field(None, ge=1, description="the factor by which an upscaler enlarges, a whole number from 1")
    defaults: Entry | None = Field(None, description=ENTRY)
    limits: Entry | None = Field(None, description=ENTRY)
    sizes: Entry | None = Field(None, description=ENTRY)
    call: Entry | None = Field(None, description=ENTRY)
    load: Entry | None = Field(None, description=ENTRY)


Source = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\x00-\x1f]+$",
        description="a folder, a file, owner/name, https://…#sha256=… or wheel:…",
    ),
]
NewName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="1 to 64 of a-z, 0-9, '.', '_' and '-'")
]


class NewModel(ModelEntry):
    source: Source
    name: NewName | None = None


class ChangedModel(ModelEntry, ChangeModel):
    pinned: bool | None = Field(None, description="true or false")
    source: Source | None = None


class PullReply(Reply):
    id: str
    source: str
    model: str
    state: str
    doing: str
    doneBytes: int
    totalBytes: int
    needBytes: int
    freeBytes: int | None
    revision: str | None
    note: str | None
    error: str | None


class PullsReply(Reply):
    pulls: list[PullReply]


class RemovedReply(Reply):
    name: str
    removed: bool


async def _pulls(request: Request) -> Pulls:
    pulls: Pulls = request.app.state.pulls
    return pulls


PullsDep = Annotated[Pulls, Depends(_pulls)]
ADDING = errors(409, 413)


@router.post("/api/models/pull", responses={200: {"model": PullReply}, **ADDING}, openapi_extra=json_body(NewModel))
async def pull(request: Request, pulls: PullsDep, key: KeyDep) -> Response:
    """Starts to download a model and returns at once; the model joins the catalogue when the pull has completed.
    Needs an admin key.
    """
    key.require("admin")
    body = read_body(NewModel, read_object(await request.body()))
    return JSONResponse(_pull_json(pulls.start(_with_revision(body), _name(body), _entry(body))))


@router.get("/api/models/pulls", responses={200: {"model": PullsReply}, **errors()})
async def list_pulls(pulls: PullsDep, key: KeyDep) -> Response:
    """Lists the pulls, newest first. Needs an admin key."""
    key.require("admin")
    return JSONResponse({"pulls": [_pull_json(pull) for pull in pulls.all()]})


@router.get("/api/models/pulls/{pull_id}", responses={200: {"model": PullReply}, **errors(404)})
async def get_pull(pull_id: str, pulls: PullsDep, key: KeyDep) -> Response:
    """Returns the state and the progress of one pull. Needs an admin key."""
    key.require("admin")
    return JSONResponse(_pull_json(pulls.get(pull_id)))


@router.post("/api/models/pulls/{pull_id}/cancel", responses={200: {"model": PullReply}, **errors(404)})
async def cancel_pull(pull_id: str, pulls: PullsDep, key: KeyDep) -> Response:
    """Cancels a pull; a later pull of the same source continues the download. Needs an admin key."""
    key.require("admin")
    return JSONResponse(_pull_json(pulls.cancel(pull_id)))


@router.post("/api/models", responses={200: {"model": ModelDetailsReply}, **ADDING}, openapi_extra=json_body(NewModel))
async def add(request: Request, service: ServiceDep, library: LibraryDep, key: KeyDep) -> Response:
    """Adds a model whose files are on the server's machine. One whose files are not all there yet is `incomplete`, and
    is served once they are. Needs an admin key.
    """
    key.require("admin")
    body = read_body(NewModel, read_object(await request.body()))
    added = await library.add(_name(body), {"source": body.source, **_entry(body)}, may_be_incomplete=True)
    if isinstance(added, RefusedModel):
        return JSONResponse(refused_json(added, admin=True))
    return JSONResponse(details_json(service.models.one(added.name), admin=True))


@router.get("/api/models/{name}", responses={200: {"model": ModelDetailsReply}, **errors(404)})
async def show(name: str, service: ServiceDep, library: LibraryDep, key: KeyDep) -> Response:
    """Returns all values of a model, each with its origin: models.toml, the checkpoint or a default. After a failed
    load, `failure` says why; its `detail`, with the library's own error, is for admin keys. Of a model that cannot be
    served, returns `state` (incomplete or failed), `reason` and what is `missing`.
    """
    if (refused := library.refused().get(name)) is not None:
        return JSONResponse(refused_json(refused, admin="admin" in key.scopes))
    view = service.models.one(library.get(name).name)
    return JSONResponse(details_json(view, admin="admin" in key.scopes))


@router.patch(
    "/api/models/{name}",
    responses={200: {"model": ModelDetailsReply}, **errors(404, 413)},
    openapi_extra=json_body(ChangedModel),
)
async def change(name: str, request: Request, service: ServiceDep, library: LibraryDep, key: KeyDep) -> Response:
    """Changes a model. `keepAlive` and `pinned` are stored by the server; all other fields are written to models.toml,
    where null removes a field, so that the checkpoint's own value applies again. Needs an admin key.
    """
    key.require("admin")
    raw = await optional_body(request)
    body = read_body(ChangedModel, raw)
    spec = library.get(name)
    await apply_overrides(spec.name, body, service)
    entry = {key: raw[key] for key in raw if key not in ChangeModel.model_fields}
    if entry.pop("default", None):
        spec = await library.make_default(spec.name)
    if entry:
        spec = await library.change(spec.name, entry)
    view = service.models.one(spec.name)
    return JSONResponse({**model_json(view, service), **details_json(view, admin=True)})


@router.delete("/api/models/{name}", responses={200: {"model": RemovedReply}, **errors(404, 409)})
async def remove(name: str, library: LibraryDep, key: KeyDep) -> Response:
    """Removes a model from the catalogue and keeps its files. Its running jobs finish, its waiting jobs fail. Needs an
    admin key.
    """
    key.require("admin")
    await library.remove(name)
    return JSONResponse({"name": name, "removed": True})


def _entry(body: ModelEntry) -> Entry:
    return body.model_dump(exclude_none=True, exclude={"source", "name"})


def _name(body: NewModel) -> str:
    """Returns the requested name, or one derived from the last part of the source."""
    return name_of(body.source) if body.name is None else body.name


def _with_revision(body: NewModel) -> str:
    if body.revision is None:
        return body.source
    repo, colon, file = body.source.partition(":")
    return f"{repo}@{body.revision}{colon}{file}"


def _pull_json(pull: Pull) -> JsonObject:
    return {
        "id": pull.id,
        "source": pull.source,
        "model": pull.name,
        "state": pull.state,
        "doing": pull.doing,
        "doneBytes": pull.done_bytes,
        "totalBytes": pull.total_bytes,
        "needBytes": pull.need_bytes,
        "freeBytes": pull.free_bytes,
        "revision": pull.revision,
        "note": pull.note,
        "error": pull.error,
        "createdAt": pull.created_at,
        "finishedAt": pull.finished_at,
    }
