"""Lists the parts of a checkpoint that are read, and the files beside them that are not. Any thread; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.checkpoint.resident_bytes import ServedAs, component_bytes
from models.checkpoint.single_file import parts_in_file
from models.errors import BadModel
from models.files.json_files import read_config
from models.files.leftovers import files_in, is_leftover, unfinished_files
from models.files.model_index import components
from models.files.weight_files import find_weights, weight_files
from models.files.weight_header import tensors_of

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS = (*PICKLES, ".safetensors", ".gguf", ".msgpack", ".h5", ".onnx")  # that some program reads
MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Part:
    name: str  # of the component; "model" for a language model
    cls: str  # as the index lists it: "diffusers.AutoencoderKL"
    files: Mapping[str, int]  # weight file → bytes of the file
    bytes: int  # on the device; 0: not known
    dtypes: Mapping[str, int] = field(default_factory=dict)  # dtype in the files → tensors of it


def parts_of(path: Path, base: Path | None, float_bytes: int) -> Iterator[Part]:
    """Yields the parts of a folder, or of a single file with its base; of a broken one, those that can be read."""
    folder = base or path
    try:
        n_bytes = component_bytes(path, base, ServedAs(float_bytes))
    except (BadModel, OSError):
        n_bytes = {}
    if not (folder / "model_index.json").is_file():
        yield _part("model", "", [path] if path.is_file() else _files(path), n_bytes)
        return
    try:
        listed = components(read_config(folder / "model_index.json"))
    except BadModel:
        return
    in_file = parts_in_file(path, {name: cls for name, (_, cls) in listed.items()}) if base is not None else {}
    for name, (library, cls) in listed.items():
        files = [path] if name in in_file else _files(folder / name)
        yield _part(name, f"{library}.{cls}", files, n_bytes)


def _part(name: str, cls: str, files: list[Path], n_bytes: Mapping[str, int]) -> Part:
    dtypes: Counter[str] = Counter()
    for file in files:
        dtypes.update(tensor.dtype for tensor in tensors_of(file).values())
    return Part(name, cls, {file.name: file.stat().st_size for file in files}, n_bytes.get(name, 0), dict(dtypes))


def _files(folder: Path) -> list[Path]:
    try:
        return [file for file in weight_files(folder) if tensors_of(file)] if folder.is_dir() else []
    except (BadModel, OSError):
        return []


def stray_files(path: Path) -> Iterator[str]:
    """Yields a sentence for each kind of file in a checkpoint folder that is not read."""
    if not path.is_dir():
        return
    parts = [path, *_listed_folders(path)]
    read = {file for part in parts for file in _files(part)}
    unread = [
        file for part in parts for file in files_in(part, "*") if file.name.endswith(WEIGHTS) and file not in read
    ]
    names = [file.relative_to(path).as_posix() for file in unread]
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        yield f"Pickles are never opened: {_some(pickles)}."
    if others := [name for name in names if not name.endswith(PICKLES)]:
        yield f"Weights that are not read beside those that are: {_some(others)}."
    if stale := [part.name for part in parts if _has_both(part)]:
        yield f"A whole file and an index of shards lie side by side: {_some(stale)}."
    known = {part.name for part in parts}
    if len(parts) > 1 and (
        folders := [sub.name for sub in files_in(path, "*") if sub.is_dir() and sub.name not in known]
    ):
        yield f"Folders that the index does not list: {_some(folders)}."
    if unfinished := [name for part in parts for name in unfinished_files(part)]:
        yield f"Unfinished downloads: {_some(unfinished)}."
    if leftovers := [file.name for part in parts for file in part.iterdir() if is_leftover(file.name)]:
        yield f"Files of other programs are ignored: {_some(sorted(set(leftovers)))}."


def _listed_folders(path: Path) -> list[Path]:
    try:
        index = path / "model_index.json"
        names = components(read_config(index)) if index.is_file() else {}
    except BadModel:
        return []
    return [path / name for name in names if (path / name).is_dir()]


def _has_both(part: Path) -> bool:
    try:
        found = find_weights(part)
    except BadModel:
        return False
    if found is None:
        return False
    stem = found.file.name.split(".")[0]
    return (part / f"{stem}.safetensors").is_file() and (part / f"{stem}.safetensors.index.json").is_file()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
