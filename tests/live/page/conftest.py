"""Fixtures of the page's tests: one server, model hub and Chromium for all, a signed-in page for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.families import FAMILIES
from tests.support.checkpoints import chat_folder, safetensors_bytes, stable_diffusion_folder, write_json
from tests.support.fake_hub import Hub, fake_hub
from tests.support.http.browser import CHROMIUM, FLAGS, SIZES, TIMEOUT_MS, sign_in
from tests.support.http.live_server import LiveServer
from tests.support.lanes.tiny_adapters import controlnet_for
from tests.support.tiny_upscaler import save_upscaler

WEIGHT_BYTES = 8 << 20
HEADER = json.dumps({"w": {"dtype": "F16", "shape": [WEIGHT_BYTES // 2], "data_offsets": [0, WEIGHT_BYTES]}}).encode()
WEIGHT_FILE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(WEIGHT_BYTES)
LORA_FILE = safetensors_bytes({"unet.down.lora_A.weight": ("F16", [4, 2], 16)})

# Checkpoints with random weights, which take pictures.
PAINTER, ANIMATOR, CONTROLNET, UPSCALER = "little-painter", "little-animator", "little-canny", "little-upscaler"


@pytest.fixture(scope="package")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Holds "owner/phone" and "owner/desktop": language models whose 8 MiB of weights are all zero."""
    folder = chat_folder(tmp_path_factory.mktemp("upstream"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.safetensors": WEIGHT_FILE}
    with fake_hub({f"owner/{size}": files for size in SIZES}) as hub:
        yield hub


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[LiveServer]:
    """A server with every built-in model loaded, two LoRAs, small checkpoints that take pictures, and a checkpoint per
    screen size that cannot be loaded.
    """
    folder = tmp_path_factory.mktemp("page")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    for size in SIZES:  # one per size, because the server waits before it loads a failed model again
        encoder = {"text_encoder": ["transformers", "CLIPTextModel"]}
        checkpoint = stable_diffusion_folder(folder / f"data/models/old-master-{size}", **encoder)
        write_json(checkpoint / "text_encoder/config.json", {"num_hidden_layers": 12})
        (checkpoint / "text_encoder/model.safetensors").write_bytes(LORA_FILE)
    save_checkpoints_that_take_pictures(folder / "data/models")
    (folder / "data/loras").mkdir()
    for name in ("ink", "wash"):
        (folder / f"data/loras/{name}.safetensors").write_bytes(LORA_FILE)
    live = LiveServer(folder / "data", env).start().wait_read()
    jobs = [live.submit(prompt="A forest", type=kind, steps=2) for kind in ("image", "video")]
    assert live.post("/api/chat", {"message": "Hi", "max_tokens": 2}).status == 200
    assert [live.wait(job)["status"] for job in jobs] == ["completed"] * 2
    yield live
    assert live.stop() == 0


def save_checkpoints_that_take_pictures(folder: Path) -> None:
    painter = FAMILIES["StableDiffusionPipeline"].build()
    painter.save_pretrained(folder / PAINTER)
    controlnet_for(painter).save_pretrained(folder / CONTROLNET)
    FAMILIES["LTXConditionPipeline"].save(folder / ANIMATOR)
    save_upscaler(folder / f"{UPSCALER}.safetensors", scale=2)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def console_errors() -> list[str]:
    """Errors and warnings of the browser's console, and uncaught exceptions. `page` fails a test that leaves any."""
    return []


@pytest.fixture
def page(browser: Browser, server: LiveServer, size: str, console_errors: list[str]) -> Iterator[Page]:
    """The page in a window of this size, signed in with the server's first key."""
    context = browser.new_context(
        viewport=SIZES[size],  # type: ignore[arg-type]  # a width and a height
        base_url=f"http://localhost:{server.port}",
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("console", lambda message: message.type in ("error", "warning") and console_errors.append(message.text))
    page.on("pageerror", lambda error: console_errors.append(str(error)))
    page.goto("/")
    sign_in(page, server.key)
    yield page
    context.close()
    assert not console_errors
