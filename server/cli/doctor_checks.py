"""What `agentname doctor` looks at: everything a server needs, each with what was found and how to mend it.

Reads only. Anything that could take the process down (a driver, a broken wheel) is tried in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.client import AgentName, AgentNameError, url_of
from server.process.settings import Settings
from server.process.supervisor import listen
from server.units import size

LEAST_FREE_BYTES = 2 * 2**30  # of disk: a day of results and the weights that ship
PROBE_S = 120.0  # importing torch from a cold disk
TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "cuda_build": torch.version.cuda, "devices": devices}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool | None  # None: works, and worth knowing
    found: str
    fix: str = ""


def examine(settings: Settings, *, python: str = sys.executable) -> list[Finding]:
    checks: list[Callable[[], Finding]] = [
        _python,
        lambda: _torch(settings.device, python),
        _ffmpeg,
        lambda: _folder("data directory", settings.data_dir),
        lambda: _folder("cache directory", settings.cache_dir),
        lambda: _store(settings.store_url),
        lambda: _models(settings),
        lambda: _port(settings.host, settings.port, settings.data_dir),
    ]
    return [check() for check in checks]


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")


def _torch(device: str, python: str) -> Finding:
    try:
        ended = subprocess.run([python, "-c", TORCH_PROBE], capture_output=True, timeout=PROBE_S, text=True)
        seen = json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return Finding("torch", False, "cannot be imported", "make clean install, or pip install torch==2.13.0")
    found = f"{seen['version']}, {', '.join(seen['devices']) or 'cpu only'}"
    if device.startswith("cuda") and not seen["devices"]:
        fix = "check the driver with nvidia-smi" if seen["cuda_build"] else "install the CUDA build of torch"
        return Finding("torch", False, f"{found}, but device={device}", f"{fix}, or set device=auto")
    if seen["cuda_build"] and not seen["devices"]:
        return Finding("torch", None, found, "a CUDA build that sees no GPU: check the driver with nvidia-smi")
    return Finding("torch", True, found)


def _ffmpeg() -> Finding:
    fix = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to a working ffmpeg"
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        ended = subprocess.run([get_ffmpeg_exe(), "-version"], capture_output=True, timeout=PROBE_S, text=True)
    except (ImportError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return Finding("ffmpeg", False, str(error).splitlines()[0], fix)
    return Finding("ffmpeg", ended.returncode == 0, ended.stdout.partition(" Copyright")[0] or "does not run", fix)


def _folder(check: str, path: Path) -> Finding:
    """A folder that is not there yet is made at the first start: then its nearest parent counts."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(check, False, f"{there} cannot be written", f"chown or chmod it, or choose another {check}")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return Finding(check, False, f"{there}: {error.strerror}", f"choose another {check}")
    free = shutil.disk_usage(there).free
    fix = f"free some space: {size(LEAST_FREE_BYTES)} at least"
    return Finding(check, free >= LEAST_FREE_BYTES, f"{path}, {size(free)} free", fix)


def _store(url: str) -> Finding:
    from server.store.database import StoreUnusable, check

    try:
        return Finding("job store", True, check(url))
    except StoreUnusable as error:
        return Finding("job store", False, str(error), "restore a backup, or move the file away to begin anew")


def _models(settings: Settings) -> Finding:
    from models.catalogue import Catalogue
    from models.errors import ModelsError

    fix = "make models, or see models.toml in the data directory"
    try:
        catalogue = Catalogue.open(
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            models_dirs=settings.models_dirs,
            auto_dtype="float32",  # sizes differ by it, and nothing else that is looked at here
            defaults={"image": settings.default_image, "video": settings.default_video, "chat": settings.default_chat},
        )
    except ModelsError as error:
        return Finding("models", False, str(error), fix)
    specs = catalogue.specs()
    missing = [spec.name for spec in specs if spec.path is None]
    found = [", ".join(spec.name for spec in specs) or "none"]
    found += [f"not fetched yet: {', '.join(missing)}"] if missing else []
    found += [f"refused: {refused.name}: {refused.reason}" for refused in catalogue.refused]
    ok = False if catalogue.refused or not specs else None if missing else True
    return Finding("models", ok, "; ".join(found), fix)


def _port(host: str, port: int, data_dir: Path) -> Finding:
    try:
        listen(host, port).close()
        return Finding("port", True, f"{host}:{port} is free")
    except OSError as error:
        problem = f"{host}:{port}: {error.strerror}"
    try:
        with AgentName(url_of(host, port), data_dir=data_dir, retries=0) as client:
            client.models()
    except AgentNameError:
        return Finding("port", False, problem, "stop what listens there, or set another port")
    return Finding("port", None, f"a server of this data directory runs on {host}:{port}")
