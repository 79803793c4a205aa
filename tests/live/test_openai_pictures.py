"""Pictures and clips that OpenAI's clients send to be changed, by the real server with tiny random checkpoints."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from benchmarks.families import FAMILIES
from server.client import AgentName
from tests.support.http.client_programs import run_program
from tests.support.http.live_models import serving
from tests.support.http.live_server import LiveServer
from tests.support.http.picture_doors import picture

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),  # about OpenAI's own service
]

# Name → class and defaults: one that paints over masks, one that takes several pictures, one that changes clips.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "retoucher": ("StableDiffusionPipeline", {"steps": 2}),
    "follower": ("Flux2KleinPipeline", {"steps": 2}),
    "reviser": ("LTXConditionPipeline", {"steps": 2, "width": 64, "height": 32, "num_frames": 9, "fps": 8}),
}
PICTURE, MASK = picture(128, 64), picture(128, 64, hole=True)  # Flux 2 takes none below 64 pixels a side


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("openai-pictures")
    for name, (family, _) in MODELS.items():
        FAMILIES[family].save(folder / name)
    entries = [
        {"source": name, "name": name, "defaults": defaults, "call": dict(FAMILIES[family].call)}
        for name, (family, defaults) in MODELS.items()
    ]
    with serving(folder, entries) as live:
        yield live


def pixels(data: bytes | str) -> Any:
    content = base64.b64decode(data) if isinstance(data, str) else data
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("program", ["pictures_in.py", "pictures_in.mjs"])
def test_the_clients_change_pictures_and_clips(server: LiveServer, program: str) -> None:
    sent = [base64.b64encode(each).decode() for each in (PICTURE, MASK)]
    got = asyncio.run(run_program(program, f"http://127.0.0.1:{server.port}", server.key, *MODELS, *sent))

    if program.endswith(".py"):
        assert got["openai"]["edit size"] == "48x24"  # the proportions of 128x64, about as many pixels as 32x32
        assert set(got["videos"]["sizes"]) == {"64x32"}


def test_an_edit_with_a_mask_is_the_native_job_with_the_same_inputs(ai: openai.OpenAI, server: LiveServer) -> None:
    edit = ai.images.edit(
        image=PICTURE, mask=MASK, prompt="a hat", model="retoucher", extra_body={"seed": 7, "steps": 4}
    )
    alone = ai.images.edit(image=MASK, prompt="a hat", model="retoucher", extra_body={"seed": 7, "steps": 4})
    white = Image.new("L", (128, 64))
    white.paste(255, (0, 0, 64, 64))
    mask = io.BytesIO()
    white.save(mask, "PNG")
    with AgentName(f"http://127.0.0.1:{server.port}", server.key) as client:
        job = client.wait(
            client.generate(
                "a hat", model="retoucher", seed=7, steps=4, image=PICTURE, mask=mask.getvalue(), strength=1.0
            ).job_id
        )
        native = client.download(job.outputs[0])

    assert np.array_equal(pixels(edit.data[0].b64_json), pixels(native))
    assert job.params["pipeline"] == "StableDiffusionInpaintPipeline"
    assert pixels(alone.data[0].b64_json).shape == (24, 48, 3)  # its transparent half is its mask


def test_strength_decides_how_much_of_a_picture_is_left(ai: openai.OpenAI) -> None:
    def edited(**body: Any) -> Any:
        reply = ai.images.edit(
            image=PICTURE, prompt="night", model="retoucher", extra_body={"seed": 7, "steps": 8} | body
        )
        return pixels(reply.data[0].b64_json)

    usual, same, faithful = edited(), edited(strength=0.75), edited(input_fidelity="high")

    assert np.array_equal(usual, same)
    assert not np.array_equal(usual, faithful)
