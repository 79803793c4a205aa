"""What people decide about models: load, unload, pin, keep-alive. Decided pins and keep-alives are in the store and outlive the process.

Event loop only. The engines act on their own threads: what was asked for shows in the next picture.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from models.spec import ModelSpec
from server.errors import Conflict, Unavailable, UnknownModel
from server.fleet.status import ModelSnapshot
from server.jobs.live_jobs import LiveJobs
from server.store import model_overrides as store
from server.store.database import Database
from server.store.model_overrides import ModelOverride

logger = logging.getLogger(__name__)


class ModelsEngine(Protocol):
    def check_fits(self, model: str, need_bytes: int) -> None: ...
    def load_model(self, model: str, need_bytes: int = 0) -> None: ...
    def unload_model(self, model: str) -> None: ...
    def pin(self, model: str, pinned: bool) -> None: ...
    def keep_alive(self, model: str, seconds: float | None) -> None: ...


class Catalogue(Protocol):
    def get(self, name: str, /) -> ModelSpec: ...
    def names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class ModelView:
    spec: ModelSpec
    live: ModelSnapshot | None  # None: not loaded, and nobody tries
    idle_unload_at: datetime | None
    pinned: bool
    keep_alive_s: float  # inf: for ever


class ModelOverrides:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        engine: ModelsEngine,
        live_jobs: LiveJobs,
        keep_alive_s: float,
    ) -> None:
        """`keep_alive_s`: of a model that neither its entry nor anybody gave one."""
        self._database = database
        self._catalogue = catalogue
        self._engine = engine
        self._live_jobs = live_jobs
        self._keep_alive_s = keep_alive_s
        self._model_overrides: dict[str, ModelOverride] = {}

    async def restore(self) -> None:
        """Before the engines start: tell them what was decided in earlier lives of this server."""
        self._model_overrides = await self._database.read(store.model_overrides)
        for model, decision in self._model_overrides.items():
            if decision.pinned is not None:
                self._engine.pin(model, decision.pinned)
            if decision.keep_alive_s is not None:
                self._engine.keep_alive(model, decision.keep_alive_s)

    async def load(self, name: str) -> None:
        """Ask for the model, or start its idle time anew. Raises UnknownModel, NeverFits, Conflict, Unavailable."""
        spec = self._spec(name)
        self.check_cooling(name)
        self._engine.check_fits(name, spec.weight_bytes)
        self._engine.load_model(name, spec.weight_bytes)
        logger.info("load asked for", extra={"model": name})

    async def unload(self, name: str) -> None:
        """Once its running jobs are done. Raises UnknownModel; Conflict for a pinned one."""
        if self._is_pinned(self._spec(name)):
            raise Conflict(f"{name} is pinned. Unpin it first.")
        self._engine.unload_model(name)
        logger.info("unload asked for", extra={"model": name})

    async def pin(self, name: str, pinned: bool) -> None:
        """Raises UnknownModel."""
        self._spec(name)
        await self._database.write(lambda conn: store.decide(conn, name, pinned=pinned))
        self._model_overrides[name] = replace(self._model_overrides.get(name, ModelOverride()), pinned=pinned)
        self._engine.pin(name, pinned)

    async def keep_alive(self, name: str, seconds: float | None) -> None:
        """None: as its entry or the setting says again. Raises UnknownModel."""
        self._spec(name)
        await self._database.write(lambda conn: store.decide(conn, name, keep_alive_s=seconds))
        self._model_overrides[name] = replace(self._model_overrides.get(name, ModelOverride()), keep_alive_s=seconds)
        self._engine.keep_alive(name, seconds)

    def check_cooling(self, name: str) -> None:
        """Raises `Unavailable` while a load that failed is not tried again."""
        snapshot = self._live_jobs.model(name)
        if snapshot is not None and snapshot.retry_in_s is not None:
            retry_s = max(1, math.ceil(snapshot.retry_in_s))
            raise Unavailable(
                f"The model {name} failed to load. It is tried again in {retry_s} s.", retry_after_s=retry_s
            )

    def view(self, spec: ModelSpec, live: ModelSnapshot | None, now: datetime) -> ModelView:
        decision = self._model_overrides.get(spec.name, ModelOverride())
        said_s = spec.keep_alive_s if spec.keep_alive_s is not None else self._keep_alive_s
        left_s = live.idle_unload_in_s if live else None
        return ModelView(
            spec,
            live,
            idle_unload_at=None if left_s is None else now + timedelta(seconds=left_s),
            pinned=self._is_pinned(spec),
            keep_alive_s=said_s if decision.keep_alive_s is None else decision.keep_alive_s,
        )

    def _is_pinned(self, spec: ModelSpec) -> bool:
        decided = self._model_overrides.get(spec.name, ModelOverride()).pinned
        return spec.pinned if decided is None else decided

    def _spec(self, name: str) -> ModelSpec:
        if name not in self._catalogue.names():
            near = difflib.get_close_matches(name, self._catalogue.names(), 1)
            raise UnknownModel(f"There is no such model here.{f' The nearest name is {near[0]}.' if near else ''}")
        return self._catalogue.get(name)
