"""Reads one model: of a models folder, or of an entry of models.toml. Any thread; no torch.

Whatever the files make the code raise is told as the reason why this model is refused, so that one bad model never
keeps the others from being read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models.checkpoint.as_loaded import as_loaded
from models.checkpoint.chat_checkpoint import check_has_template
from models.checkpoint.quantized_bytes import CPU_ONLY
from models.checkpoint.read_checkpoint import is_checkpoint, read_checkpoint, type_of
from models.errors import BadConfig, BadModel, Incomplete, SourceMissing
from models.files.safety import check_path
from models.load_options import check_load_options
from models.model_entry import ModelEntry
from models.names import slug
from models.reading.outcome import Outcome, Refusal, as_bad_model
from models.reading.tokenizer_trial import try_tokenizers
from models.request_defaults import check_defaults, with_sizes
from models.required_packages import check_packages
from models.sources import find, needs_fetching
from models.spec import LoadOptions, ModelSpec, ModelType

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What all models of a catalogue are read with. auto_dtype: that "auto" stands for."""

    cache_dir: Path
    auto_dtype: Literal["float32", "bfloat16"]

    def found(self, path: Path) -> Outcome:
        """Reads what lies in a models folder; its spec has no final name yet. Raises nothing."""
        spec: ModelSpec | None = None
        is_file = False
        try:
            if not is_checkpoint(path):
                return Outcome()
            is_file = path.is_file()
            str(path).encode()  # the libraries open only what UTF-8 can spell
            spec = self._read(path, slug(path.stem if is_file else path.name), str(path), "auto", None)
            self._check_packages(spec)
        except Exception as error:  # noqa: BLE001  # see the module's docstring
            return Outcome(None, Refusal.of(as_bad_model(error), _type_of(path)), is_file)
        try:
            check_has_template(spec)
        except BadModel as error:
            return Outcome(spec, Refusal.of(error, spec.type), is_file)
        return Outcome(spec, None, is_file)

    def declared(self, entry: ModelEntry, known: ModelSpec | None, toml_dir: Path, origin: str) -> Outcome:
        """Reads the model of an entry. known: what was found under that name before. origin: the name of the
        models.toml in `ModelSpec.origins`.

        Raises `BadConfig` for an entry that contradicts its checkpoint.
        """
        try:
            return Outcome(self._declared(entry, known, toml_dir, origin))
        except BadConfig as error:
            if not isinstance(error, SourceMissing):
                raise
            return Outcome(None, Refusal.of(error, entry.type))
        except Exception as error:  # noqa: BLE001  # see the module's docstring
            kind = entry.type or _type_of(self.local_path(entry, toml_dir))
            return Outcome(None, Refusal.of(as_bad_model(error), kind))

    def local_path(self, entry: ModelEntry, toml_dir: Path) -> Path | None:
        """Returns where the files of an entry are, or will be when its folder comes back."""
        if entry.source is None:
            return None
        try:
            found = find(entry.source, relative_to=toml_dir, cache_dir=self.cache_dir)
        except Exception:  # noqa: BLE001  # its reading tells
            found = None
        return found or toml_dir / Path(entry.source).expanduser()

    def _declared(self, entry: ModelEntry, known: ModelSpec | None, toml_dir: Path, origin: str) -> ModelSpec:
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
        return spec

    def _read_source(self, entry: ModelEntry, source: str, toml_dir: Path) -> ModelSpec:
        path = find(source, relative_to=toml_dir, cache_dir=self.cache_dir)
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
        path = find(source, relative_to=toml_dir, cache_dir=self.cache_dir)
        if path is None:
            raise BadModel(f"its {option} '{source}' is not downloaded; try: agentname pull {source}")
        check_path(path, weights=False)
        return path

    def _read(
        self, path: Path, name: str, source: str, dtype: str, base: Path | None, wanted: ModelType | None = None
    ) -> ModelSpec:
        spec = read_checkpoint(
            path,
            name=name,
            source=source,
            float_bytes=self._float_bytes(dtype),
            base=base,
            cache_dir=self.cache_dir,
            wanted=wanted,
        )
        try_tokenizers(path)
        return spec

    def _on_cpu(self, spec: ModelSpec) -> bool:
        return spec.device == "cpu" or (spec.device is None and self.auto_dtype == "float32")

    def _check_packages(self, spec: ModelSpec) -> None:
        folder = spec.base_path or spec.path
        if folder is not None and folder.is_dir():
            check_packages(folder, on_cpu=self._on_cpu(spec))

    def _float_bytes(self, dtype: str) -> int:
        return FLOAT_BYTES[self.auto_dtype if dtype == "auto" else dtype]


def _type_of(path: Path | None) -> ModelType | None:
    try:
        return None if path is None else type_of(path)
    except Exception:  # noqa: BLE001  # the model is refused anyhow, with a better reason
        return None
