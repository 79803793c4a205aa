"""A front end over a real catalogue, for tests that change models through the HTTP API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.catalogues import open_catalogue
from tests.support.http.front import Front, front


@asynccontextmanager
async def library(folder: Path) -> AsyncIterator[Front]:
    """A front end whose data directory is `folder`."""
    async with front(folder, catalogue=open_catalogue(folder)) as f:
        yield f


async def patch(f: Front, path: str, body: Any, key: str = "admin") -> Any:
    return await f.client.patch(path, json=body, headers=f.auth(key))
