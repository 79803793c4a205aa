"""Reports what a folder, file or hub id is and whether it can be served, without loading it: in a second, no torch.

Any thread. The command line and the API show the same report. It asks the code that the catalogue uses, so that what
passes here is offered there; everything beyond that is told as a note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from models.check_parts import Part, parts_of, stray_files
from models.checkpoint.chat_checkpoint import NO_TEMPLATE, check_has_template
from models.checkpoint.read_checkpoint import check_configs, read_checkpoint, type_of
from models.errors import BadModel, FetchFailed, Incomplete, ModelsError
from models.files.chat_templates import chat_templates
from models.files.json_files import read_config
from models.files.safetensors_header import read_safetensors_header
from models.lora_files import refusal
from models.names import slug
from models.offload_size import offloaded_device_bytes
from models.reading.outcome import as_bad_model
from models.reading.read_model import FLOAT_BYTES
from models.required_packages import check_packages
from models.sources import find
from models.sources.hub import look_up
from models.sources.hub_cache import snapshot_of
from models.sources.hub_id import HubId, hub_id
from models.spec import ModelSpec, ModelType

State: TypeAlias = Literal["ready", "incomplete", "refused", "not downloaded"]
Fits: TypeAlias = Literal["fits", "after others leave", "offloaded", "too large", "unknown"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    source: str
    name: str  # that the model would get
    state: State
    reason: str = ""  # why it cannot be served
    missing: tuple[str, ...] = ()
    type: ModelType | None = None
    pipeline: str | None = None  # class of diffusers, or the architecture of a language model
    dtype: str  # that it would be served in
    weight_bytes: int = 0  # on the device, at that dtype; 0: not known
    download_bytes: int = 0  # still to be fetched
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    device: DeviceMemory | None = None
    fits: Fits = "unknown"
    base: str | None = None  # the folder that lends a single file its configs and what it lacks
    detail: str = field(default="", repr=False)  # the text of a library; may hold paths

    @property
    def is_servable(self) -> bool:
        return self.state in ("ready", "not downloaded") and not self.reason and self.fits != "too large"

    def as_json(self) -> dict[str, Any]:
        found = {_camel(key): value for key, value in asdict(self).items() if key not in ("detail", "device", "parts")}
        device = self.device and {"name": self.device.name, "total": self.device.total_bytes,
                                  "free": self.device.free_bytes}  # fmt: skip
        parts = [{_camel(key): value for key, value in asdict(part).items()} for part in self.parts]
        return found | {"device": device, "parts": parts, "servable": self.is_servable}


def check_source(
    source: str,
    *,
    relative_to: Path,
    cache_dir: Path,
    auto_dtype: Literal["float32", "bfloat16"],
    device: DeviceMemory | None = None,
    check_here: Callable[[Path, CheckReport], CheckReport] | None = None,
) -> CheckReport:
    """Asks the hub only for a repository that is not in its cache, and downloads no weights. Raises nothing of ours.

    check_here: does what `check_local` does, perhaps in another process.
    """
    report = CheckReport(source=source, name=name_of(source), state="refused", dtype=auto_dtype, device=device)
    try:
        path = find(source, relative_to=relative_to, cache_dir=cache_dir)
        if path is None:
            return _not_here(source, report)
        return check_here(path, report) if check_here else check_local(path, report, auto_dtype, cache_dir)
    except ModelsError as error:
        return _refused(report, error)


def name_of(source: str) -> str:
    """Returns the name that a model of this source gets when none is given."""
    if (wanted := hub_id(source)) is not None:
        return slug(wanted.repo.partition("/")[2] if wanted.file is None else PurePosixPath(wanted.file).stem)
    last = PurePosixPath(source.split("#")[0].removeprefix("wheel:").split("==")[0]).name
    return slug(last.split("@")[0].split(":")[-1].removesuffix(".safetensors").removesuffix(".gguf"))


def check_local(
    path: Path, report: CheckReport, auto_dtype: Literal["float32", "bfloat16"], cache_dir: Path
) -> CheckReport:
    """Returns the report with what the files at `path` tell. Whatever they are, they only make it a refusal."""
    try:
        return _check_local(path, report, auto_dtype, cache_dir)
    except Exception as error:  # noqa: BLE001  # strangers' files may make the code fail anywhere
        return _refused(report, as_bad_model(error))


def _check_local(
    path: Path, report: CheckReport, auto_dtype: Literal["float32", "bfloat16"], cache_dir: Path
) -> CheckReport:
    report = replace(report, notes=tuple(stray_files(path)), type=type_of(path), pipeline=_class_of(path))
    try:
        spec = read_checkpoint(
            path, name=report.name, source=report.source, float_bytes=FLOAT_BYTES[auto_dtype], cache_dir=cache_dir
        )
        check_has_template(spec)
        if (configs := spec.base_path or path).is_dir():
            check_packages(configs, on_cpu=auto_dtype == "float32")
    except ModelsError as error:
        parts = tuple(parts_of(path, None, FLOAT_BYTES[auto_dtype])) if report.pipeline is not None else ()
        return _refused(replace(report, parts=parts), _known_kind(path, error))
    return replace(
        report,
        state="ready",
        type=spec.type,
        pipeline=spec.pipeline or report.pipeline,
        weight_bytes=spec.weight_bytes,
        parts=tuple(parts_of(path, spec.base_path, FLOAT_BYTES[auto_dtype])),
        notes=(*spec.notes, *report.notes),
        base=None if spec.base_path is None else str(spec.base_path),
        fits=_fits(spec, report.device, FLOAT_BYTES[auto_dtype]),
    )


def _refused(report: CheckReport, error: ModelsError) -> CheckReport:
    missing = error.missing if isinstance(error, Incomplete) else ()
    state: State = "incomplete" if isinstance(error, Incomplete) else "refused"
    return replace(report, state=state, reason=error.message, missing=missing, detail=error.detail)


def _known_kind(path: Path, error: ModelsError) -> ModelsError:
    """Returns a better reason for a file that is no model but belongs to one."""
    if path.suffix != ".safetensors" or isinstance(error, Incomplete):
        return error
    try:
        names = read_safetensors_header(path)
    except BadModel:
        return error
    if names and refusal(names) is None:
        return BadModel("is a LoRA, not a model: put it into the folder loras of the data directory")
    return error


def _not_here(source: str, report: CheckReport) -> CheckReport:
    wanted = hub_id(source)
    if wanted is None:
        return replace(report, state="not downloaded")
    try:
        offer = look_up(wanted, check=check_configs)
    except FetchFailed as error:
        return _partly_here(wanted, report, error)
    kind = type_of(offer.configs)
    class_name = None if offer.file is not None else _class_of(offer.configs)
    parts = [Part(name=file, cls="", files={file: n_bytes}, bytes=0) for file, n_bytes in offer.weights.items()]
    return replace(
        report,
        state="not downloaded",
        reason=NO_TEMPLATE if kind == "chat" and offer.file is None and not chat_templates(offer.configs) else "",
        type=kind,
        pipeline=class_name,
        download_bytes=offer.need_bytes,
        parts=tuple(parts),
    )


def _partly_here(wanted: HubId, report: CheckReport, error: FetchFailed) -> CheckReport:
    """Tells what the cache has of a repository when the hub cannot be asked."""
    snapshot = snapshot_of(wanted)
    if snapshot is not None and (snapshot.folder / "model_index.json").is_file():
        try:
            read_checkpoint(snapshot.folder, name=report.name, source=report.source, float_bytes=4)
        except Incomplete as incomplete:
            kind = replace(report, type=type_of(snapshot.folder), pipeline=_class_of(snapshot.folder))
            return _refused(kind, incomplete)
        except BadModel as bad:
            return _refused(report, bad)
    return replace(_refused(report, error), state="not downloaded")


def _class_of(path: Path) -> str | None:
    try:
        if (path / "model_index.json").is_file():
            return str(read_config(path / "model_index.json").get("_class_name"))
        if (path / "config.json").is_file():
            names = read_config(path / "config.json").get("architectures")
            return str(names[0]) if isinstance(names, list) and names else None
    except BadModel:
        pass
    return None


def _fits(spec: ModelSpec, device: DeviceMemory | None, float_bytes: int) -> Fits:
    """Judges by the weights alone: the memory of a step comes on top, and is learned when the model runs."""
    if device is None:
        return "unknown"
    if spec.weight_bytes <= device.free_bytes:
        return "fits"
    if spec.weight_bytes <= device.total_bytes:
        return "after others leave"
    can_offload = spec.is_diffusion and spec.path is not None and spec.path.is_dir()
    if can_offload and offloaded_device_bytes(Path(str(spec.path)), float_bytes) <= device.total_bytes:
        return "offloaded"
    return "too large"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
