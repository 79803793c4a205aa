"""Collects models from models.toml entries and folders; a later model of the same name replaces an earlier one.

Any thread; no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models.checkpoint.as_loaded import as_loaded
from models.checkpoint.chat_checkpoint import check_has_template
from models.checkpoint.quantized_bytes import CPU_ONLY
from models.checkpoint.read_checkpoint import is_checkpoint, read_checkpoint, type_of
from models.errors import BadConfig, BadModel, Incomplete, ModelsError, SourceMissing
from models.files.leftovers import files_in
from models.files.safety import check_path
from models.load_options import check_load_options
from models.model_entry import ModelEntry, read_entries
from models.names import slug, unused_name
from models.request_defaults import check_defaults, with_sizes
from models.required_packages import check_packages
from models.sources import find, needs_fetching
from models.spec import LoadOptions, ModelSpec, ModelType

logger = logging.getLogger(__name__)

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class RefusedModel:
    """A folder or entry that looks like a model but cannot be served."""

    name: str
    reason: str
    state: Literal["failed", "incomplete"] = "failed"
    missing: tuple[str, ...] = ()  # of an incomplete one: "unet: the weights"
    path: Path | None = None  # of its folder or file, which may be away
    type: ModelType | None = None  # None: not known


class CatalogueReader:
    def __init__(self, cache_dir: Path, auto_dtype: Literal["float32", "bfloat16"]) -> None:
        self._cache_dir = cache_dir
        self._auto_dtype = auto_dtype
        self.specs: dict[str, ModelSpec] = {}
        self.refused: list[RefusedModel] = []
        self._without_template: dict[str, ModelSpec] = {}  # refused, unless an entry gives them one
        self._sources: set[str] = set()  # the paths that were found in models folders

    def add_toml(self, toml: Path, origin: str) -> None:
        """`origin` is the name of this file in `ModelSpec.origins`."""
        for entry in read_entries(toml) if toml.is_file() else ():
            try:
                self._add_entry(entry, toml.parent, origin)
            except (BadModel, SourceMissing) as error:
                self._refuse(entry.name, self._local_path(entry, toml.parent), error, entry.type)
            except BadConfig as error:
                raise BadConfig(f"{toml}: {error.message}") from error

    def _add_entry(self, entry: ModelEntry, toml_dir: Path, origin: str) -> None:
        known = self.specs.pop(entry.name, None)  # popped, so that the entry read last is also the last in order
        known = self._without_template.pop(entry.name, known)
        if entry.source is None:
            if known is None:
                raise BadModel("its entry has no source, and no model of that name was found")
            spec = known
        else:
            spec = self._read_source(entry, entry.source, toml_dir)
        if entry.type not in (None, spec.type) and not (entry.type == "adapter" and spec.adapter is not None):
            raise BadConfig(f"model '{entry.name}' is declared as {entry.type}, its checkpoint is {spec.type}")
        spec = with_sizes(entry.apply_to(spec, origin), entry, origin)
        if spec.load.quantization == CPU_ONLY and not self._on_cpu(spec):
            spec = replace(spec, load=replace(spec.load, quantization=None))
        if spec.load.vae is not None:
            spec = replace(spec, vae_path=self._find_part("vae", spec.load.vae, toml_dir))
        embeddings = tuple(self._find_part("embedding", source, toml_dir) for source in spec.load.embeddings)
        spec = as_loaded(replace(spec, embedding_paths=embeddings), self._float_bytes(spec.dtype))
        check_defaults(spec, entry)
        if spec.adapter == "upscaler" and not spec.scale:
            raise BadModel("its tensors do not tell the factor by which it enlarges: set scale in its entry")
        check_load_options(spec, on_cpu=self._on_cpu(spec))
        self._check_packages(spec)
        self.specs[entry.name] = spec
        self.refused = [refused for refused in self.refused if refused.name != entry.name]

    def _read_source(self, entry: ModelEntry, source: str, toml_dir: Path) -> ModelSpec:
        path = find(source, relative_to=toml_dir, cache_dir=self._cache_dir)
        options = LoadOptions(**entry.load)
        base = self._find_part("base", options.base, toml_dir) if options.base is not None else None
        if path is not None:
            return self._read(path, entry.name, source, entry.dtype, base, entry.type)
        if not needs_fetching(source):
            raise BadModel(f"its source '{source}' does not exist")
        if entry.type is None:
            # Not an error of the entry: it may be a pulled model whose files are gone, on a disk that is away.
            raise Incomplete(f"is not downloaded; try: agentname pull {source}", missing=("all files",))
        return ModelSpec(name=entry.name, type=entry.type, path=None, source=source)

    def _find_part(self, option: str, source: str, toml_dir: Path) -> Path:
        """Returns the path that a load option names. Raises `BadModel` when it is not downloaded or not safe."""
        path = find(source, relative_to=toml_dir, cache_dir=self._cache_dir)
        if path is None:
            raise BadModel(f"its {option} '{source}' is not downloaded; try: agentname pull {source}")
        check_path(path, weights=False)
        return path

    def add_folder(self, root: Path) -> None:
        """Adds every checkpoint directly below `root`, or `root` itself when it is one."""
        for path in _checkpoints_in(root):
            if str(path) in self._sources:  # a models folder that is named twice
                continue
            self._sources.add(str(path))
            name = unused_name(path, {*self.specs, *(refused.name for refused in self.refused)})
            try:
                spec = self._read(path, name, str(path), "auto", None)
                self._check_packages(spec)
                self._without_template[name] = spec
                check_has_template(spec)
                self.specs[name] = self._without_template.pop(name)
            except BadModel as error:
                self._refuse(name, path, error)

    def _on_cpu(self, spec: ModelSpec) -> bool:
        return spec.device == "cpu" or (spec.device is None and self._auto_dtype == "float32")

    def _check_packages(self, spec: ModelSpec) -> None:
        folder = spec.base_path or spec.path
        if folder is not None and folder.is_dir():
            check_packages(folder, on_cpu=self._on_cpu(spec))

    def _float_bytes(self, dtype: str) -> int:
        return FLOAT_BYTES[self._auto_dtype if dtype == "auto" else dtype]

    def _read(
        self, path: Path, name: str, source: str, dtype: str, base: Path | None, wanted: ModelType | None = None
    ) -> ModelSpec:
        float_bytes = self._float_bytes(dtype)
        try:
            return read_checkpoint(
                path,
                name=name,
                source=source,
                float_bytes=float_bytes,
                base=base,
                cache_dir=self._cache_dir,
                wanted=wanted,
            )
        except OSError as error:
            raise BadModel(f"its files cannot be read ({error.strerror})", detail=str(error)) from error

    def _local_path(self, entry: ModelEntry, toml_dir: Path) -> Path | None:
        """Returns where the files of a refused entry are, or will be when its folder comes back."""
        if entry.source is None:
            return None
        try:
            found = find(entry.source, relative_to=toml_dir, cache_dir=self._cache_dir)
        except ModelsError:
            found = None
        return found or toml_dir / Path(entry.source).expanduser()

    def _refuse(self, name: str, path: Path | None, error: ModelsError, type_: ModelType | None = None) -> None:
        missing = error.missing if isinstance(error, Incomplete) else ()
        state: Literal["failed", "incomplete"] = "incomplete" if isinstance(error, Incomplete) else "failed"
        kind = type_ or (None if path is None else type_of(path))
        self.refused.append(RefusedModel(name, error.message, state, missing, path, kind))
        logger.warning("model refused", extra={"model": name, "reason": error.message, "detail": error.detail})


def _checkpoints_in(root: Path) -> Iterator[Path]:
    """Yields `root` if it is a checkpoint, else the folders and files directly below it that are, sorted by name.

    Those whose name can be taken as it is come first, so that no later folder takes the name of an earlier one.
    """
    if not root.is_dir():
        return
    if is_checkpoint(root):
        yield root
        return
    found = [path for path in files_in(root, "*") if is_checkpoint(path)]
    yield from sorted(found, key=lambda path: slug(path.stem if path.is_file() else path.name) != path.name)
