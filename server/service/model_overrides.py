"""Carries out what people request of models: load, unload, pin, keep-alive.

Event loop only. Pins and keep-alives are stored and outlive the process. The engines act on their own threads, and
their next status shows the effect.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from models.errors import StillRead
from models.errors import UnknownModel as NoSuchModel
from models.spec import ModelSpec
from server.errors import BadRequest, Conflict, ModelStillRead, UnknownModel
from server.fleet.engine_port import Engine
from server.jobs.crashes import Crashes
from server.jobs.limits import Catalogue, MemoryRequirements, check_cooldown, nearest_name
from server.jobs.live_jobs import LiveJobs
from server.protocol import KeepAlive, LoadModel, Pin, UnloadModel
from server.store import model_overrides as store
from server.store.database import Database
from server.store.model_overrides import ModelOverride

logger = logging.getLogger(__name__)


class ModelOverrides:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        engine: Engine,
        live_jobs: LiveJobs,
        requirements: MemoryRequirements,
        keep_alive_s: float,
        crashes: Crashes,
    ) -> None:
        """keep_alive_s: of models that have a keep-alive neither in their catalogue entry nor as an override."""
        self._database = database
        self._catalogue = catalogue
        self._engine = engine
        self._live_jobs = live_jobs
        self._requirements = requirements
        self._keep_alive_s = keep_alive_s
        self._crashes = crashes
        self._overrides: dict[str, ModelOverride] = {}

    async def restore(self) -> None:
        """Sends the stored pins and keep-alives to the engines. Call it before the engines start."""
        self._overrides = await self._database.read(store.model_overrides)
        for model, override in self._overrides.items():
            if override.pinned is not None:
                self._engine.send(Pin(model, override.pinned))
            if override.keep_alive_s is not None:
                self._engine.send(KeepAlive(model, override.keep_alive_s))

    async def load(self, name: str) -> None:
        """Loads the model; the idle time of a loaded model starts anew.

        Raises UnknownModel, NeverFits, Conflict, Unavailable.
        """
        spec = self._lane_spec(name)
        check_cooldown(self._live_jobs, spec.name)
        need_bytes = self._requirements.of(spec)
        self._engine.check_fits(spec.name, need_bytes)
        self._engine.send(LoadModel(spec.name, need_bytes))
        logger.info("model load requested", extra={"model": spec.name})

    async def unload(self, name: str) -> None:
        """Evicts the model once its running jobs are done; one that was set aside may be loaded again.

        Raises UnknownModel; Conflict for a pinned model.
        """
        spec = self._lane_spec(name)
        if self.is_pinned(spec):
            raise Conflict(f"{spec.name} is pinned. Unpin it first.")
        self._crashes.forget(spec.name)
        self._engine.send(UnloadModel(spec.name))
        logger.info("model unload requested", extra={"model": spec.name})

    async def pin(self, name: str, pinned: bool) -> None:
        """Pins or unpins the model. Raises UnknownModel; BadRequest for an adapter."""
        name = self._lane_spec(name).name
        await self._database.write(lambda conn: store.decide(conn, name, pinned=pinned))
        self._overrides[name] = replace(self._overrides.get(name, ModelOverride()), pinned=pinned)
        self._engine.send(Pin(name, pinned))

    async def keep_alive(self, name: str, seconds: float | None) -> None:
        """Sets the keep-alive; None removes the override. Raises UnknownModel."""
        name = self._spec(name).name
        await self._database.write(lambda conn: store.decide(conn, name, keep_alive_s=seconds))
        self._overrides[name] = replace(self._overrides.get(name, ModelOverride()), keep_alive_s=seconds)
        self._engine.send(KeepAlive(name, seconds))

    def is_pinned(self, spec: ModelSpec) -> bool:
        override = self._overrides.get(spec.name, ModelOverride()).pinned
        return spec.pinned if override is None else override

    def keep_alive_s(self, spec: ModelSpec) -> float:
        override = self._overrides.get(spec.name, ModelOverride()).keep_alive_s
        default = self._keep_alive_s if spec.keep_alive_s is None else spec.keep_alive_s
        return default if override is None else override

    def _lane_spec(self, name: str) -> ModelSpec:
        spec = self._spec(name)
        if spec.type == "adapter":
            raise BadRequest(
                f"{spec.name} is an adapter: requests borrow it, and it leaves after its keep-alive. It cannot be "
                "loaded, unloaded or pinned by itself."
            )
        return spec

    def _spec(self, name: str) -> ModelSpec:
        try:
            return self._catalogue.get(name)
        except StillRead as error:
            raise ModelStillRead(error.message) from None
        except NoSuchModel:
            raise UnknownModel(f"There is no such model here.{nearest_name(name, self._catalogue)}") from None
