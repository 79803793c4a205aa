"""What of Ollama's API this server does in another way: each address says which. Event loop only."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from server.api.deps import KeyDep
from server.api.wire import errors
from server.errors import BadRequest

router = APIRouter(tags=["Ollama"])

PULL = "Models are pulled from the Hugging Face hub here: agentname pull OWNER/NAME, or POST /api/models/pull."
CREATE = "Models are added to models.toml here: agentname add, or POST /api/models. No Modelfile is read."
COPY = 'A model gets a further name by its aliases: PATCH /api/models/NAME with {"aliases": ["OTHER"]}.'
DELETE = "Models are removed by agentname remove NAME, or DELETE /api/models/NAME."
PUSH = "Models cannot be pushed to a registry from here."


@router.post("/api/pull", responses=errors())
async def pull(_: KeyDep) -> Response:
    """Refused: says how models are pulled here."""
    raise BadRequest(PULL)


@router.post("/api/create", responses=errors())
async def create(_: KeyDep) -> Response:
    """Refused: says how models are added here."""
    raise BadRequest(CREATE)


@router.post("/api/copy", responses=errors())
async def copy(_: KeyDep) -> Response:
    """Refused: says how a model gets another name here."""
    raise BadRequest(COPY)


@router.delete("/api/delete", responses=errors())
async def delete(_: KeyDep) -> Response:
    """Refused: says how models are removed here."""
    raise BadRequest(DELETE)


@router.post("/api/push", responses=errors())
async def push(_: KeyDep) -> Response:
    """Refused: models are not pushed from here."""
    raise BadRequest(PUSH)
