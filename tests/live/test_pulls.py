"""Repositories as people find them are pulled through the real server, and then make what they are for.

The pipelines are tiny and real; beside them lie the files that the real repositories have beside theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.families import FAMILIES
from benchmarks.families.decoders import decoder
from tests.support.fake_hub import COMMIT, Hub, fake_hub
from tests.support.http.live_server import LiveServer
from tests.support.hub_repositories import Files, qwen3_gguf
from tests.support.lanes.tiny_chat import tiny_tokenizer

pytestmark = [pytest.mark.live, pytest.mark.slow]

SHARD_SIZE = "40KB"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def files_in(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pipeline(family: str, folder: Path, **options: Any) -> Files:
    FAMILIES[family].build().save_pretrained(folder, **options)
    return files_in(folder)


def sd15(folder: Path) -> Files:
    """Every weight once more as a variant and as a pickle, and the whole checkpoint as single files at the root."""
    files = pipeline("StableDiffusionPipeline", folder)
    weights = {name: data for name, data in files.items() if name.endswith(".safetensors")}
    others = {name.replace(".safetensors", suffix): b"junk" for name in weights for suffix in (".bin", ".fp16.bin")}
    variants = {name.replace(".safetensors", ".fp16.safetensors"): b"junk" for name in weights}
    return files | others | variants | {"v1-5-pruned.safetensors": b"junk", "v1-5-pruned.ckpt": b"junk"}


def sdxl_fp16(folder: Path) -> Files:
    """Only half precision, beside the exports of other frameworks."""
    files = pipeline("StableDiffusionXLPipeline", folder, variant="fp16")
    return files | {f"unet/{name}": b"junk" for name in ("model.onnx", "model.onnx_data", "openvino_model.bin")}


def flux(folder: Path) -> Files:
    """In shards, beside the same weights in the layout of their makers."""
    files = pipeline("FluxPipeline", folder, max_shard_size=SHARD_SIZE)
    assert "transformer/diffusion_pytorch_model.safetensors.index.json" in files
    return files | {"flux1-dev.safetensors": b"junk", "ae.safetensors": b"junk", "dev_grid.jpg": b"junk"}


def wan(folder: Path) -> Files:
    return pipeline("WanPipeline", folder, max_shard_size=SHARD_SIZE) | {"assets/logo.png": b"junk"}


def qwen3(folder: Path) -> Files:
    decoder("Qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return files_in(folder) | {"consolidated.safetensors": b"junk", "original/consolidated.00.pth": b"junk"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("upstream")
    repos = {f"owner/{build.__name__}": build(folder / build.__name__) for build in (sd15, sdxl_fp16, flux, wan, qwen3)}
    with fake_hub(repos | {"owner/gguf": qwen3_gguf()}) as hub:
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("pulls")
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "hub"), "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
    live = LiveServer(folder / "data", env).start()
    yield live
    assert live.stop() == 0


def pull(server: LiveServer, source: str) -> dict[str, Any]:
    started = server.post("/api/models/pull", {"source": source}).json
    ends = ("completed", "failed", "canceled")
    return dict(server.wait_until(f"/api/models/pulls/{started['id']}", lambda pull: pull["state"] in ends, 120))


@pytest.mark.parametrize("name", ["sd15", "sdxl_fp16", "flux", "wan"])
def test_a_repository_of_this_shape_is_pulled_and_makes_a_picture_or_a_clip(
    server: LiveServer, hub: Hub, name: str
) -> None:
    done = pull(server, f"owner/{name}")
    assert (done["state"], done["error"], done["revision"]) == ("completed", None, COMMIT)
    assert not [path for path in hub.resolved() if hub.repos[f"owner/{name}"].get(path) == b"junk"]

    kind = "video" if name == "wan" else "image"
    job = server.submit(model=done["model"], prompt="a boat", type=kind, steps=2, width=32, height=32)
    status = server.wait(job)
    assert status["status"] == "completed", status


def test_a_language_model_is_pulled_and_answers(server: LiveServer, hub: Hub) -> None:
    done = pull(server, "owner/qwen3")
    assert (done["state"], done["error"]) == ("completed", None)
    assert not [path for path in hub.resolved() if hub.repos["owner/qwen3"].get(path) == b"junk"]

    reply = server.post("/api/chat", {"message": "Hi", "model": "qwen3", "max_tokens": 3})
    assert reply.status == 200, reply.body


def test_a_repository_of_several_models_asks_which_one(server: LiveServer) -> None:
    done = pull(server, "owner/gguf")

    assert done["state"] == "failed"
    assert "owner/gguf:Qwen3-8B-Q4_K_M.gguf (" in done["error"]
