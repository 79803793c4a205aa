"""What tests of pictures and clips in requests over HTTP have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from pipelines.diffusion_interface import InputName, PipelineTask
from tests.fakes import FakeCatalogue, small_catalogue
from tests.support.http.front import Front, front
from tests.support.odd_files.case import encoded, sample

INPUTS: dict[InputName, str] = {"image": "image", "mask": "mask_image", "last_image": "last_image", "video": "video"}
JPEG = encoded(sample(size=(64, 48)), "JPEG")
PNG = encoded(sample(size=(64, 48)), "PNG")


def editing_catalogue() -> FakeCatalogue:
    """The small catalogue, whose models also take one picture, or a picture and a mask."""
    tasks = (
        PipelineTask("TextPipeline"),
        PipelineTask("ImagePipeline", {"image": "image"}, frozenset({"image"})),
        PipelineTask("MaskPipeline", {"image": "image", "mask": "mask_image"}, frozenset({"image", "mask"})),
    )
    specs = small_catalogue().specs()
    return FakeCatalogue(*(replace(spec, tasks=tasks) if spec.type == "image" else spec for spec in specs))


@asynccontextmanager
async def editing(folder: Path, **options: Any) -> AsyncIterator[Front]:
    async with front(folder, catalogue=editing_catalogue(), **options) as f:
        yield f


async def upload(f: Front, data: bytes, key: str = "enterprise", content_type: str = "image/png") -> httpx.Response:
    return await f.client.post("/api/files", content=data, headers=f.auth(key) | {"content-type": content_type})


async def uploaded(f: Front, data: bytes, key: str = "enterprise") -> str:
    """Sends a file, and returns its id."""
    reply = await upload(f, data, key)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["fileId"])


def files_on_disk(f: Front) -> list[str]:
    return sorted(path.name for path in (f.data_dir / "inputs").iterdir() if path.is_file())


def left_unfinished(f: Front) -> list[Path]:
    return list((f.data_dir / "inputs" / "unfinished").iterdir())
