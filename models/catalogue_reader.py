"""Collects models from models.toml entries and folders; a later model of the same name replaces an earlier one.

Any thread; no torch. Folders and entries are read by a `ModelReader`; here they get their names and their order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from models.errors import BadConfig
from models.files.leftovers import is_leftover
from models.model_entry import read_entries
from models.names import slug, unused_name
from models.reading.model_reader import Declared, DirectReader, ModelReader
from models.reading.outcome import Outcome, Refusal
from models.reading.read_model import ModelReading
from models.spec import ModelSpec, ModelType

logger = logging.getLogger(__name__)

MAX_IN_FOLDER = 20_000  # files and folders of a models folder that are looked at
STILL_READ = Refusal("is still being read", "incomplete")


@dataclass(frozen=True, slots=True)
class RefusedModel:
    """A folder or entry that looks like a model but cannot be served."""

    name: str
    reason: str
    state: Literal["failed", "incomplete"] = "failed"
    missing: tuple[str, ...] = ()  # of an incomplete one: "unet: the weights"
    path: Path | None = None  # of its folder or file, which may be away
    type: ModelType | None = None  # None: not known
    detail: str = ""  # for the log

    @property
    def is_still_read(self) -> bool:
        """Whether its reading goes on: it may be served soon."""
        return self.reason == STILL_READ.reason


class CatalogueReader:
    def __init__(self, reading: ModelReading, reader: ModelReader | None = None, until: float = 0.0) -> None:
        """reader: reads strangers' files; None: this process does. until: a time of `time.monotonic` after which models
        that are still being read are left out, with that reason.
        """
        self._reading = reading
        self._reader: ModelReader = reader or DirectReader(reading)
        self._until = until
        self.specs: dict[str, ModelSpec] = {}
        self.refused: list[RefusedModel] = []
        self._names: set[str] = set()  # of all specs and refused
        self._without_template: dict[str, ModelSpec] = {}  # refused, unless an entry gives them one

    @property
    def still_read(self) -> frozenset[str]:
        """The names of the models whose reading goes on."""
        return frozenset(refused.name for refused in self.refused if refused.is_still_read)

    def add_toml(self, toml: Path, origin: str, *, is_ours: bool = False) -> None:
        """`origin` is the name of this file in `ModelSpec.origins`. is_ours: this process reads its models.

        Raises `BadConfig`.
        """
        entries = [
            Declared(entry, self.specs.get(entry.name, self._without_template.get(entry.name)), toml.parent, origin)
            for entry in (read_entries(toml) if toml.is_file() else ())
        ]
        reader = DirectReader(self._reading) if is_ours else self._reader
        try:
            outcomes = reader.declared(entries, self._until)
        except BadConfig as error:
            raise BadConfig(f"{toml}: {error.message}") from error
        for each, outcome in zip(entries, outcomes, strict=True):
            self._add_entry(each, outcome)

    def _add_entry(self, declared: Declared, outcome: Outcome | None) -> None:
        name = declared.entry.name
        self.specs.pop(name, None)  # popped, so that the entry read last is also the last in order
        self._without_template.pop(name, None)
        if outcome is not None and outcome.spec is not None:
            self.specs[name] = outcome.spec
            self._names.add(name)
            self.refused = [refused for refused in self.refused if refused.name != name]
            return
        refusal = STILL_READ if outcome is None or outcome.refusal is None else outcome.refusal
        path = self._reading.local_path(declared.entry, declared.toml_dir)
        self._refuse(name, path, replace(refusal, type=refusal.type or declared.entry.type))

    def add_folders(self, roots: Sequence[Path]) -> None:
        """Adds every checkpoint directly below the roots, or a root itself when it is one."""
        roots = [root for root in dict.fromkeys(roots) if os.path.isdir(root)]
        themselves = zip(roots, self._reader.found(roots, self._until), strict=True)
        listed = [[root] if itself is not None and itself.is_model else _listed(root) for root, itself in themselves]
        paths = list(dict.fromkeys(path for each in listed for path in each))
        outcomes = dict(zip(paths, self._reader.found(paths, self._until), strict=True))
        for each in listed:  # of each root in turn, those first whose name can be taken as it is
            for path in sorted(each, key=lambda path: not _is_name(path, outcomes.get(path))):
                if path in outcomes:  # a root may lie in another one
                    self._add_found(path, outcomes.pop(path))

    def _add_found(self, path: Path, outcome: Outcome | None) -> None:
        if outcome is not None and not outcome.is_model:
            return
        name = unused_name(path, self._names)
        if outcome is None:
            self._refuse(name, path, STILL_READ)
        elif outcome.refusal is not None:
            self._refuse(name, path, outcome.refusal)
            if outcome.spec is not None:
                self._without_template[name] = replace(outcome.spec, name=name)
        elif outcome.spec is not None:
            self.specs[name] = replace(outcome.spec, name=name)
            self._names.add(name)

    def _refuse(self, name: str, path: Path | None, why: Refusal) -> None:
        self._names.add(name)
        self.refused.append(RefusedModel(name, why.reason, why.state, why.missing, path, why.type, why.detail))


def _listed(root: Path) -> list[Path]:
    """Returns what lies in a models folder, sorted by name, without left-overs. Nothing is opened."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in islice(entries, MAX_IN_FOLDER + 1)]
    except OSError:  # its own reading has told, or it is just being removed
        return []
    if len(names) > MAX_IN_FOLDER:
        logger.warning("a models folder holds too much: not all of it is read", extra={"most": MAX_IN_FOLDER})
    return sorted(root / name for name in names[:MAX_IN_FOLDER] if not is_leftover(name))


def _is_name(path: Path, outcome: Outcome | None) -> bool:
    text = path.stem if outcome is not None and outcome.is_file else path.name
    return slug(text) == text
