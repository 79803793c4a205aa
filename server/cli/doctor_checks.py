"""The checks of `agentname doctor`: everything a server needs, each with its finding and a fix. Any thread.

The checks change nothing. What could crash the process, such as a driver or a broken wheel, runs in a child process.
This file is apart from the command in `doctor.py` because its imports are heavy.
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

MIN_FREE_BYTES = 2 * 2**30  # of disk, for a day of results and the weights that ship with the program
PROBE_TIMEOUT_S = 120.0  # enough to import torch from a cold disk
TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "cuda_build": torch.version.cuda, "devices": devices}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool | None  # None: not an error, but worth a note
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
        probe = subprocess.run([python, "-c", TORCH_PROBE], capture_output=True, timeout=PROBE_TIMEOUT_S, text=True)
        torch = json.loads(probe.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return Finding("torch", False, "cannot be imported", "make clean install, or pip install torch==2.13.0")
    found = f"{torch['version']}, {', '.join(torch['devices']) or 'cpu only'}"
    if device.startswith("cuda") and not torch["devices"]:
        fix = "check the driver with nvidia-smi" if torch["cuda_build"] else "install the CUDA build of torch"
        return Finding("torch", False, f"{found}, but device={device}", f"{fix}, or set device=auto")
    if torch["cuda_build"] and not torch["devices"]:
        return Finding("torch", None, found, "a CUDA build that sees no GPU: check the driver with nvidia-smi")
    return Finding("torch", True, found)


def _ffmpeg() -> Finding:
    fix = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to a working ffmpeg"
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        probe = subprocess.run([get_ffmpeg_exe(), "-version"], capture_output=True, timeout=PROBE_TIMEOUT_S, text=True)
    except (ImportError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return Finding("ffmpeg", False, str(error).splitlines()[0], fix)
    return Finding("ffmpeg", probe.returncode == 0, probe.stdout.partition(" Copyright")[0] or "does not run", fix)


def _folder(check: str, path: Path) -> Finding:
    """Checks that a folder is writable and has space. One that does not exist yet is created at the first start, so
    that its nearest existing parent is checked.
    """
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(check, False, f"{existing} is not writable", f"chown or chmod it, or choose another {check}")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return Finding(check, False, f"{existing}: {error.strerror}", f"choose another {check}")
    free = shutil.disk_usage(existing).free
    fix = f"free some space: {size(MIN_FREE_BYTES)} at least"
    return Finding(check, free >= MIN_FREE_BYTES, f"{path}, {size(free)} free", fix)


def _store(url: str) -> Finding:
    from server.store.opening import StoreUnusable, check

    try:
        return Finding("job store", True, check(url))
    except StoreUnusable as error:
        return Finding("job store", False, str(error), "restore a backup, or move the file away to start anew")


def _models(settings: Settings) -> Finding:
    from models.catalogue import Catalogue
    from models.errors import ModelsError

    fix = "make models, or see models.toml in the data directory"
    try:
        catalogue = Catalogue.open(
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            models_dirs=settings.models_dirs,
            auto_dtype="float32",  # changes sizes only, which are not checked here
            defaults=settings.default_models,
        )
    except ModelsError as error:
        return Finding("models", False, str(error), fix)
    specs = catalogue.specs()
    missing = [spec.name for spec in specs if spec.path is None]
    found = [", ".join(spec.name for spec in specs) or "none"]
    found += [f"not downloaded yet: {', '.join(missing)}"] if missing else []
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
        return Finding("port", False, problem, "stop the program that listens there, or set another port")
    return Finding("port", None, f"a server of this data directory runs on {host}:{port}")
