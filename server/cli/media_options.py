"""Parses the options of `run` that name pictures and clips: a file on this machine, or an id that the server knows.

An invalid value ends the command before anything is sent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.exit_codes import Exit
from server.cli.output import fail

if TYPE_CHECKING:
    from server.client.options import ControlOptions, IpAdapterOptions, Media, UpscaleOptions

FILE = "FILE"  # as the help shows it
ID = re.compile(r"(?:file_)?[0-9A-Za-z]{22}")  # of an uploaded file, or of an output


def media(option: str, value: str | None) -> Media | None:
    if value is None:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        return value if ID.fullmatch(value) else fail(f"{option} {value}: there is no such file.", Exit.WRONG_USE)
    if not os.access(path, os.R_OK):
        fail(f"{option} {value}: this file cannot be read.", Exit.WRONG_USE)
    return path


def several(option: str, values: list[str] | None) -> list[Media] | None:
    return [found for value in values or () if (found := media(option, value)) is not None] or None


def controls(values: list[str] | None) -> list[ControlOptions] | None:
    """Parses TYPE=FILE[:STRENGTH]."""
    return [_control(value) for value in values or ()] or None


def _control(value: str) -> ControlOptions:
    kind, equals, rest = value.partition("=")
    if not equals or not kind:
        fail(f"--control {value}: write TYPE=FILE, such as canny=edges.png.", Exit.WRONG_USE)
    file, strength = _with_number(rest)
    image = media("--control", file)
    assert image is not None
    return {"type": kind, "image": image} if strength is None else {"type": kind, "image": image, "strength": strength}


def ip_adapters(values: list[str] | None) -> list[IpAdapterOptions] | None:
    """Parses [NAME=]FILE[:STRENGTH]."""
    return [_ip_adapter(value) for value in values or ()] or None


def _ip_adapter(value: str) -> IpAdapterOptions:
    whole, strength = _with_number(value)
    model, equals, file = whole.partition("=")
    if not equals or Path(whole).expanduser().is_file():
        model, file = "", whole
    prompt: IpAdapterOptions = {}
    if (image := media("--ip-adapter", file)) is not None:
        prompt["image"] = image
    if model:
        prompt["model"] = model
    if strength is not None:
        prompt["strength"] = strength
    return prompt


def upscale(value: str | None) -> UpscaleOptions | None:
    """Parses MODEL[:SCALE]."""
    if value is None:
        return None
    model, scale = _with_number(value)
    return {"model": model} if scale is None else {"model": model, "scale": scale}


def _with_number(value: str) -> tuple[str, float | None]:
    """Splits NAME:NUMBER. A file whose own name ends like that is meant as it is."""
    name, colon, number = value.rpartition(":")
    if not colon or not name or Path(value).expanduser().is_file():
        return value, None
    try:
        return name, float(number)
    except ValueError:
        return value, None
