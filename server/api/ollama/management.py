"""What of Ollama's API this server does in another way: each address says which. Event loop only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from server.api.deps import KeyDep
from server.api.wire import errors
from server.errors import BadRequest

router = APIRouter(tags=["Ollama"])

INSTEAD: Mapping[tuple[str, str], str] = {
    ("POST", "/api/pull"): (
        "Models are pulled from the Hugging Face hub here: agentname pull OWNER/NAME, or POST /api/models/pull."
    ),
    ("POST", "/api/create"): (
        "Models are added to models.toml here: agentname add, or POST /api/models. No Modelfile is read."
    ),
    ("POST", "/api/copy"): (
        'A model gets a further name by its aliases here: PATCH /api/models/NAME with {"aliases": ["OTHER"]}.'
    ),
    ("DELETE", "/api/delete"): "Models are removed by agentname remove NAME, or DELETE /api/models/NAME here.",
    ("POST", "/api/push"): "Models cannot be pushed to a registry from here.",
}


def _refusal(text: str) -> Callable[..., Coroutine[Any, Any, Response]]:
    async def refuse(_: KeyDep) -> Response:
        raise BadRequest(text)

    return refuse


for (method, path), text in INSTEAD.items():
    router.add_api_route(
        path, _refusal(text), methods=[method], description=f"A 400 that says: {text}", responses=errors()
    )
