"""Describes each model of the catalogue: specification, state on the devices, pin and keep-alive. Event loop only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.spec import ModelSpec
from server.fleet.status import ModelSnapshot
from server.jobs.limits import Catalogue
from server.jobs.live_jobs import LiveJobs
from server.service.model_overrides import ModelOverrides


@dataclass(frozen=True, slots=True)
class ModelView:
    spec: ModelSpec
    live: ModelSnapshot | None  # None: no device holds the model, is loading it or has failed to load it
    idle_unload_at: datetime | None
    pinned: bool
    keep_alive_s: float  # inf: never unloaded


class Models:
    def __init__(
        self,
        *,
        catalogue: Catalogue,
        live_jobs: LiveJobs,
        model_overrides: ModelOverrides,
        clock: Callable[[], datetime],
    ) -> None:
        self._catalogue = catalogue
        self._live_jobs = live_jobs
        self._model_overrides = model_overrides
        self._clock = clock

    def all(self) -> Sequence[ModelView]:
        live = {snapshot.status.model: snapshot for snapshot in self._live_jobs.models()}
        return [self._view(spec, live.get(spec.name)) for spec in self._catalogue.specs()]

    def one(self, name: str) -> ModelView:
        """Raises `models.errors.UnknownModel`."""
        spec = self._catalogue.get(name)
        return self._view(spec, self._live_jobs.model(spec.name))

    def _view(self, spec: ModelSpec, live: ModelSnapshot | None) -> ModelView:
        left_s = live.idle_unload_in_s if live else None
        return ModelView(
            spec,
            live,
            idle_unload_at=None if left_s is None else self._clock() + timedelta(seconds=left_s),
            pinned=self._model_overrides.is_pinned(spec),
            keep_alive_s=self._model_overrides.keep_alive_s(spec),
        )
