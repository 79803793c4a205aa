"""Saves tiny models as checkpoints, loads checkpoints on the CPU and renders an image with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.loading.load import load
from models.spec import ModelSpec
from pipelines.diffusion.lane import DiffusionLane
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import rendered, request
from tests.support.lanes.stock_families import FAMILIES, stable_diffusion
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer


def save_chat(folder: Path) -> None:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def save_stable_diffusion(data_dir: Path) -> ModelSpec:
    """Saves the model in the models folder of `data_dir` and returns its spec from a catalogue."""
    stable_diffusion().save_pretrained(data_dir / "models/sd")
    return open_catalogue(data_dir).get("sd")


def load_diffusion(spec: ModelSpec, **options: Any) -> DiffusionLane:
    lane = load(spec, device="cpu", **options)
    assert isinstance(lane, DiffusionLane)
    return lane


def render(lane: DiffusionLane, family: str = "sd15", **changes: Any) -> Any:
    """Renders a small request of the family and returns its frames."""
    return rendered(lane, [request(FAMILIES[family], "1", **changes)])["1"].frames


def load_and_render(spec: ModelSpec, family: str = "sd15", **changes: Any) -> Any:
    lane = load_diffusion(spec, merging="off")
    frames = render(lane, family, **changes)
    lane.close()
    return frames
