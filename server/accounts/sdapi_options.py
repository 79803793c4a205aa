"""Stores what each API key set through AUTOMATIC1111's options; they apply to that key alone. Event loop only."""

from __future__ import annotations

from typing import Any

from server.accounts.auth import ApiKey
from server.store import sdapi_options
from server.store.database import Database


class SdapiOptions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, key: ApiKey) -> dict[str, Any]:
        return await self._database.read(lambda conn: sdapi_options.chosen(conn, key.id))

    async def add(self, key: ApiKey, options: dict[str, Any]) -> None:
        """Add `options` to those of `key`; options that were set before and are not given stay."""
        await self._database.write(lambda conn: sdapi_options.choose(conn, key.id, options))
