"""Reads the units of AUTOMATIC1111's ControlNet extension: `alwayson_scripts.controlnet.args`. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from models.adapters.control_types import SPELLINGS, canonical_type
from models.spec import ModelSpec
from pipelines.diffusion_interface import AdapterKind
from server.api.schemas import read_body
from server.api.sdapi.schema import Tolerant
from server.errors import BadRequest

SCRIPT = "controlnet"
PLACE = "alwayson_scripts.controlnet.args"
MAX_UNITS = 4
CONTROL_KINDS: tuple[AdapterKind, ...] = ("controlnet", "t2i_adapter", "ip_adapter")
HASH = re.compile(r" \[[0-9a-f]{4,}\]$")  # the extension shows it after a model's name

# The extension's preprocessors that we have too, by its names and ours.
MODULES: Mapping[str, str] = {
    "none": "none",
    "canny": "canny",
    "invert (from white bg & black line)": "invert",
    "invert": "invert",
}
BALANCED = (None, 0, "Balanced")
WITHOUT_CHOICE = (None, -1, 0, False, "")
NO_TYPE = ("", "unknown")
CROPPED = (None, 1, "Crop and Resize", "Scale to Fit (Inner Fit)")


class Unit(Tolerant):
    """Fields that are not here change nothing in the picture, such as `low_vram` and `processor_res`."""

    enabled: bool | None = Field(None, description="true or false")
    image: str | dict[str, Any] | None = Field(None, description="a picture in base64")
    input_image: str | dict[str, Any] | None = Field(None, description="a picture in base64")
    module: str | None = Field(None, max_length=100, description="a name from GET /controlnet/module_list")
    model: str | None = Field(None, max_length=200, description="a name from GET /controlnet/model_list")
    union_control_type: str | None = Field(None, max_length=100, description="the kind of the map, such as Canny")
    weight: float | None = Field(None, ge=0, le=10, description="a number from 0 to 10")
    guidance_start: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    guidance_end: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    control_mode: int | str | None = Field(None, description="0 (Balanced), 1 or 2")
    resize_mode: int | str | None = Field(None, description="0, 1 or 2")
    mask: str | dict[str, Any] | None = Field(None, description="a picture in base64")
    mask_image: str | dict[str, Any] | None = Field(None, description="a picture in base64")
    threshold_a: float | None = Field(None, description="a number")
    threshold_b: float | None = Field(None, description="a number")


@dataclass(frozen=True, slots=True)
class ReadUnit:
    place: str  # as errors name it
    image: str | None  # in base64; None: the picture of img2img
    model: str
    kind: AdapterKind
    map_type: str | None  # for a ControlNet that follows several
    preprocessor: str | None
    strength: float
    start: float
    end: float


def read_units(
    scripts: Mapping[str, Any] | None, find: Callable[[str], ModelSpec]
) -> tuple[list[ReadUnit], frozenset[str]]:
    """Returns the units that are enabled, and the names of scripts and fields that are ignored. Raises `BadRequest`.

    find: returns the catalogue's entry for a name, or raises `UnknownModel`.
    """
    units, ignored = [], set()
    for script, content in (scripts or {}).items():
        if script.lower() == SCRIPT:
            for i, raw in enumerate(_arguments(content)):
                place = f"{PLACE}[{i}]"
                unit = _read(raw, place)
                if unit.enabled is not False and (unit.model or unit.image or unit.input_image):
                    units.append(_translate(unit, place, find))
                    ignored |= _ignored(unit)
        elif _asks_for_something(content):
            ignored.add(f"alwayson_scripts.{script}")
    if len(units) > MAX_UNITS:
        raise BadRequest(f"{PLACE}: at most {MAX_UNITS} units can be enabled.")
    return units, frozenset(ignored)


def _arguments(content: object) -> Sequence[object]:
    arguments = content.get("args", []) if isinstance(content, dict) else content
    if not isinstance(arguments, list):
        raise BadRequest(f"{PLACE} must be a list of objects.")
    return arguments


def _read(raw: object, place: str) -> Unit:
    if not isinstance(raw, dict):
        raise BadRequest(f"{place} must be an object.")
    try:
        return read_body(Unit, raw)
    except BadRequest as error:
        raise BadRequest(f"{place}.{error.message}") from None


def _translate(unit: Unit, place: str, find: Callable[[str], ModelSpec]) -> ReadUnit:
    name = HASH.sub("", unit.model or "")
    if name in ("", "None", "none"):
        raise BadRequest(f"{place}.model must be a name from GET /controlnet/model_list.")
    spec = find(name)
    if spec.adapter not in CONTROL_KINDS:
        raise BadRequest(f"{place}.model must be a name from GET /controlnet/model_list.")
    return ReadUnit(
        place=place,
        image=_picture(unit, place),
        model=spec.name,
        kind=spec.adapter,
        map_type=_map_type(unit, place),
        preprocessor=None if spec.adapter == "ip_adapter" else _preprocessor(unit.module, place),
        strength=1.0 if unit.weight is None else unit.weight,
        start=unit.guidance_start or 0.0,
        end=1.0 if unit.guidance_end is None else unit.guidance_end,
    )


def _map_type(unit: Unit, place: str) -> str | None:
    name = unit.union_control_type or ""
    if name.lower() in NO_TYPE:
        return None
    found = canonical_type(name)
    if found is None:
        raise BadRequest(f"{place}.union_control_type must be one of {', '.join(SPELLINGS)}.")
    return found


def _preprocessor(module: str | None, place: str) -> str:
    name = (module or "none").lower()
    if name not in MODULES:
        raise BadRequest(
            f"{place}.module must be one of {', '.join(MODULES)}. For another kind of map, send the map itself as "
            "the image, with the module none."
        )
    return MODULES[name]


def _picture(unit: Unit, place: str) -> str | None:
    """The picture of a unit, which some clients send as an object with a mask."""
    picture = unit.image or unit.input_image
    if isinstance(picture, dict):
        picture = picture.get("image")
        if not isinstance(picture, str):
            raise BadRequest(f"{place}.image must be a picture in base64.")
    return picture or None


def _ignored(unit: Unit) -> set[str]:
    thresholds = unit.module == "canny"
    fields = {
        "control_mode": unit.control_mode not in BALANCED,
        "resize_mode": unit.resize_mode not in CROPPED,
        "mask": bool(unit.mask or unit.mask_image),
        "threshold_a": thresholds and unit.threshold_a not in WITHOUT_CHOICE,
        "threshold_b": thresholds and unit.threshold_b not in WITHOUT_CHOICE,
    }
    return {f"{PLACE}.{name}" for name, is_ignored in fields.items() if is_ignored}


def _asks_for_something(content: object) -> bool:
    """Whether a script of another extension is switched on: clients name those that are not, with a false in front."""
    arguments = content.get("args") if isinstance(content, dict) else content
    return arguments not in (None, [], {}, [False], [None])
