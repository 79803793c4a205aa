"""Changes the model catalogue without a restart, and notices changes on disk. Event loop only.

Every change takes the same way: write models.toml, read all places again on a worker thread, replace the catalogue's
snapshot, and tell the engine which models are out of date. A change that the catalogue refuses is undone in
models.toml.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from models.catalogue import Catalogue
from models.catalogue_reader import RefusedModel
from models.catalogue_snapshot import Changes
from models.check import CheckReport, DeviceMemory, check_source
from models.errors import BadConfig, BadModel, ModelsError, StillRead
from models.model_entry import parse_entry
from models.models_toml import TomlFile
from models.sources import cached_revision
from models.spec import ModelSpec
from server.errors import BadRequest, Conflict, ModelStillRead, UnknownModel
from server.fleet.engine_port import Engine
from server.protocol import Forget, UnloadModel

logger = logging.getLogger(__name__)

ADDED_S = 90.0  # most seconds that a change waits for the model whose entry it is to be read


class Library:
    def __init__(
        self,
        *,
        catalogue: Catalogue,
        toml: Path,
        engine: Engine,
        cache_dir: Path,
        check_here: Callable[[Path, CheckReport], CheckReport] | None = None,
    ) -> None:
        """check_here: checks what lies on this machine, see `models.check.check_source`."""
        self._check_here = check_here
        self._catalogue = catalogue
        self._toml = TomlFile(toml)
        self._cache_dir = cache_dir
        self._engine = engine
        self._lock = asyncio.Lock()  # one change at a time, because each is a read, a write and a read

    def get(self, name: str) -> ModelSpec:
        try:
            return self._catalogue.get(name)
        except StillRead as error:
            raise ModelStillRead(error.message) from None
        except ModelsError as error:
            raise UnknownModel(error.message) from None

    def refused(self) -> Mapping[str, RefusedModel]:
        """By name, the models that cannot be served and have no served one of their name."""
        served = self._catalogue.names()
        return {refused.name: refused for refused in self._catalogue.refused if refused.name not in served}

    def places(self) -> set[Path]:
        """The files and folders of all models, also of those that cannot be served, because they may be mended."""
        found = {refused.path for refused in self._catalogue.refused}
        for spec in self._catalogue.specs():
            found |= {spec.path, spec.base_path, spec.vae_path, *spec.embedding_paths}
        return {path for path in found if path is not None}

    def declared(self) -> list[str]:
        """Names that are taken: of served models, and of entries in models.toml that are not served yet."""
        return [*self._catalogue.names(), *self._toml.names()]

    async def check(
        self, source: str, auto_dtype: Literal["float32", "bfloat16"], device: DeviceMemory | None
    ) -> CheckReport:
        """Tells what a source is and whether it can be served, and changes nothing."""
        return await asyncio.to_thread(
            check_source,
            source,
            relative_to=self._toml.path.parent,
            cache_dir=self._cache_dir,
            auto_dtype=auto_dtype,
            device=device,
            check_here=self._check_here,
        )

    async def add(
        self, name: str, entry: Mapping[str, Any], *, may_be_incomplete: bool = False
    ) -> ModelSpec | RefusedModel:
        """Add an entry to models.toml; one of a hub repository gets the commit that is in the hub's cache.

        may_be_incomplete: a model whose files are not all there yet is added, and served once they are. Raises
        `Conflict` for a taken name, `BadRequest` for an unusable entry.
        """
        if name in self.declared():
            raise Conflict(f"There is a model {name} already. Change it, or give this one another name.")
        entry = {"revision": await self._cached_revision(entry), **entry}
        await self._edit(name, lambda: self._toml.merge(name, entry), may_be_incomplete=may_be_incomplete)
        return self.refused().get(name) or self.get(name)

    def entry(self, name: str) -> Mapping[str, Any]:
        """The model's entry in models.toml; empty when it has none."""
        return self._toml.entry(name)

    async def update(self, name: str, values: Mapping[str, Any]) -> ModelSpec:
        """Merge `values` into an entry of models.toml, also of a model that is not served yet."""
        await self._edit(name, lambda: self._toml.merge(name, values))
        return self.get(name)

    async def change(self, name: str, values: Mapping[str, Any]) -> ModelSpec:
        """Merge `values` into the model's entry; None removes a key, and the checkpoint's own value applies again.

        A model that is not served can be changed too, if it is served with the change.
        """
        name = name if name in self.refused() else self.get(name).name
        if "source" in values:  # the pinned commit is one of the old source
            values = {"revision": await self._cached_revision(values), **values}
        await self._edit(name, lambda: self._toml.merge(name, values))
        return self.get(name)

    async def make_default(self, name: str) -> ModelSpec:
        spec = self.get(name)
        if spec.type == "adapter":
            raise BadRequest(f"{spec.name} is an adapter: none of them is a default.")
        others = [s.name for s in self._catalogue.specs() if s.type == spec.type and s.default and s.name != spec.name]

        def edit() -> None:
            for other in others:
                self._toml.merge(other, {"default": False})
            self._toml.merge(spec.name, {"default": True})

        await self._edit(spec.name, edit)
        return self.get(name)

    async def remove(self, name: str) -> None:
        """Remove a model from models.toml; its files stay. Raises `Conflict` for one that is not defined there."""
        name = name if name in self.refused() else self.get(name).name
        if not self._toml.has(name):
            raise Conflict(
                f"{name} is not in models.toml: it ships with the server, or its folder has to be taken away."
            )

        def edit() -> None:
            self._toml.drop(name)

        async with self._lock:
            await asyncio.to_thread(edit)
            await self._reload()

    async def refresh(self) -> Changes:
        """Read the catalogue from disk again. A models.toml that cannot be read changes nothing and is logged."""
        async with self._lock:
            try:
                return await self._reload()
            except ModelsError as error:
                logger.error("cannot read the catalogue, keeping the old one", extra={"reason": error.message})
                return Changes()

    async def _edit(self, name: str, edit: Callable[[], None], *, may_be_incomplete: bool = False) -> None:
        async with self._lock:
            before = await asyncio.to_thread(self._toml.text)
            try:
                await asyncio.to_thread(edit)
                parse_entry(name, self._toml.entry(name))
                await self._reload(must_have=name, may_be_incomplete=may_be_incomplete)
            except ModelsError as error:
                await asyncio.to_thread(self._toml.write, before)
                if not isinstance(error, BadConfig | BadModel):
                    raise
                raise BadRequest(error.message.removeprefix(f"{self._toml.path}: ").rstrip(".") + ".") from None

    async def _cached_revision(self, entry: Mapping[str, Any]) -> str | None:
        source, folder = entry.get("source"), self._toml.path.parent
        return await asyncio.to_thread(cached_revision, source, relative_to=folder) if source else None

    async def _reload(self, must_have: str | None = None, *, may_be_incomplete: bool = False) -> Changes:
        """Raises `BadModel` when the model `must_have` cannot be served."""
        deadline = time.monotonic() + ADDED_S
        reader = await asyncio.to_thread(self._catalogue.read)
        # Each reading waits a while itself.
        while must_have is not None and must_have in reader.still_read and time.monotonic() < deadline:
            reader = await asyncio.to_thread(self._catalogue.read)
        if must_have is not None and must_have not in reader.specs:
            refused = next((refused for refused in reader.refused if refused.name == must_have), None)
            if refused is None or not (may_be_incomplete and _is_partly_there(refused)):
                raise BadModel(f"{must_have}: {'it was not found' if refused is None else refused.reason}")
        changes = self._catalogue.apply(await asyncio.to_thread(self._catalogue.compare, reader))
        for name in changes.removed:
            self._engine.send(Forget(name))
        for name in changes.changed:
            self._engine.send(UnloadModel(name))  # running jobs finish on the weights they started with
        if changes:
            logger.info(
                "catalogue changed",
                extra={"added": changes.added, "changed": changes.changed, "removed": changes.removed},
            )
        return changes


def _is_partly_there(refused: RefusedModel) -> bool:
    return refused.state == "incomplete" and refused.path is not None and refused.path.exists()
