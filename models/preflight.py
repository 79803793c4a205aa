"""May this folder be opened at all? Reads its configs before any library does; refuses what would run code. No torch.

A config can name code: `auto_map`, a pipeline class with a module of its own, a library in model_index.json, a .py beside a
component. The libraries refuse most of it most of the time (CVE-2026-4372, GHSA-4prv-5hj7-c2xr and others were the rest), so
we do not leave it to them. Pickled weights are refused by what is in the files, whatever they are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from models.errors import BadModel
from models.files import parse_json, read_safetensors_header, weight_files
from models.fingerprint import fingerprint
from models.gguf_header import read_gguf_header

MAX_CONFIG_BYTES = 4 << 20  # the largest config seen is 40 KiB; chat templates inside reach 100 KiB
FORBIDDEN_KEYS = frozenset({"custom_pipeline", "trust_remote_code", "custom_code", "_custom_pipeline"})
ATTENTION_KEYS = frozenset({"_attn_implementation", "_attn_implementation_internal", "attn_implementation"})
ATTENTIONS = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", None})
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_config(path: Path) -> dict[str, object]:
    """The object in a JSON config. Raises `BadModel` for anything else, and for a file too large to be one."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadModel(f"{path.name} is too large to be a config", detail=str(path))
    parsed = parse_json(path.read_bytes(), path.name)
    if not isinstance(parsed, dict):
        raise BadModel(f"{path.name} is not a JSON object", detail=str(path))
    return parsed


def components(model_index: dict[str, object]) -> dict[str, tuple[str, str]]:
    """Name → (library, class) of each component that a model_index.json lists; those given as null are left out."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in model_index.items():
        match value:
            case [str(library), str(cls)]:
                _check_component(name, library, cls)
                found[name] = (library, cls)
            case [None, None]:
                continue
            case [_, _]:
                raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    return found


def _check_component(name: str, library: str, cls: str) -> None:
    if not name.isidentifier() or not cls.isidentifier():
        raise BadModel(f"model_index.json: component '{name[:80]}' is malformed")
    # Real checkpoints name diffusers' own pipeline folders too: ["stable_diffusion", "StableDiffusionSafetyChecker"].
    if library not in ("diffusers", "transformers") and library not in pipeline_folders():
        raise BadModel(
            f"model_index.json: component '{name}' wants code from another library than diffusers or transformers"
        )


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise `BadModel` unless a checkpoint folder is configs and safetensors alone, as far as the libraries will read it.

    weights False: configs alone are enough, as for a folder that lends them to a single file.
    """
    model_index: dict[str, object] = {}
    parts = [folder]
    if (folder / "model_index.json").is_file():
        model_index = read_config(folder / "model_index.json")
        if not isinstance(model_index.get("_class_name"), str):
            raise BadModel("model_index.json names a pipeline with code of its own")
        parts = [folder / name for name in components(model_index) if (folder / name).is_dir()]
        _check_keys(model_index, folder / "model_index.json", native=True)
    for part in parts:
        _check_part(part, is_component=part != folder)
        _refuse_pickled(part)
    if weights and not any(weight_files(part) for part in parts):
        raise BadModel("has no safetensors weights under the names its library looks for")


def check_path(path: Path, *, weights: bool = True) -> None:
    """Raise `BadModel` unless it is a folder as `check_folder` wants it, or a weight file whose header is in order.

    What passed is not read again as long as none of its files was touched: a swap would pay for it each time.
    """
    _check_path(path, weights, fingerprint(path))


@lru_cache(maxsize=1024)
def _check_path(path: Path, weights: bool, _: str) -> None:
    if path.is_dir():
        check_folder(path, weights=weights)
    elif path.suffix == ".gguf":
        read_gguf_header(path)
    else:
        read_safetensors_header(path)


def _check_part(part: Path, *, is_component: bool) -> None:
    if is_component and any(part.glob("*.py")):
        raise BadModel(
            f"component '{part.name}' carries code of its own"
        )  # diffusers offers to run <component>/<library>.py
    configs = [path for path in sorted(part.glob("*.json")) if "config" in path.name]
    native = any(_is_native(read_config(path)) for path in configs if path.name == "config.json")
    for path in configs:
        _check_keys(read_config(path), path, native=native)
    for path in weight_files(part):
        read_safetensors_header(path)


def _check_keys(config: dict[str, object], path: Path, *, native: bool) -> None:
    for key, value in _walk(config):
        if key in FORBIDDEN_KEYS and value not in (None, False):
            raise BadModel(f"{path.name} asks to run code of its own ({key})", detail=str(path))
        # Many checkpoints keep auto_map from before transformers knew them; their native class is then what runs.
        if key == "auto_map" and value and not native:
            raise BadModel(f"{path.name} asks to run code of its own (auto_map)", detail=str(path))
        if key in ATTENTION_KEYS and (isinstance(value, (dict, list)) or value not in ATTENTIONS):
            raise BadModel(f"{path.name} names an attention implementation we do not know", detail=str(path))


def _walk(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _is_native(config: dict[str, object]) -> bool:
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type.replace("-", "_") in transformers_models()


def _refuse_pickled(part: Path) -> None:
    """Pickles beside safetensors are never opened; where they are all there is, nothing could be."""
    pickled = next((path for pattern in PICKLED for path in sorted(part.glob(pattern))), None)
    if pickled is not None and not weight_files(part):
        raise BadModel(f"has weights only as pickle ({pickled.name}); convert them to safetensors", detail=str(part))


@lru_cache(maxsize=1)
def pipeline_folders() -> frozenset[str]:
    """The package names below diffusers.pipelines, those that have since moved to its folder of deprecated ones included."""
    return _folders_below("diffusers", "pipelines") | _folders_below("diffusers", "pipelines/deprecated")


@lru_cache(maxsize=1)
def transformers_models() -> frozenset[str]:
    """The model types that transformers has code of its own for (its folder names below models)."""
    return _folders_below("transformers", "models")


def _folders_below(package: str, folder: str) -> frozenset[str]:
    root = package_folder(package) / folder
    return frozenset(path.name for path in root.iterdir() if (path / "__init__.py").is_file())


def package_folder(package: str) -> Path:
    """Where an installed package lies, found without importing it: importing these two takes seconds and torch."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent
