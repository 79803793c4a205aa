"""`files`, and the options of `run` that name files, against a real server with a fake engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.diffusion_interface import DiffusionRequest
from server.cli import media_options
from tests.support.http.command_line import run, use_server
from tests.support.http.picture_doors import TAKING, picture
from tests.support.http.served import Served, served

pytestmark = pytest.mark.usefixtures("use_server_and_folder")


def test_a_file_is_uploaded_listed_and_deleted(server: Served) -> None:
    Image.new("RGB", (16, 8), "red").save("red.png")
    file_id = run("files", "upload", "red.png").stdout.strip()
    again = json.loads(run("files", "upload", "red.png", "--json").stdout)
    listed = run("files", "list")
    deleted = run("files", "delete", file_id)
    unknown = run("files", "delete", file_id)

    assert (again["fileId"], again["width"], again["height"]) == (file_id, 16, 8)
    assert f"{file_id}  image/png  16x8" in listed.stdout
    assert listed.stderr.startswith("All files take ")
    assert (deleted.exit_code, deleted.stdout) == (0, f"Deleted {file_id}.\n")
    assert (unknown.exit_code, unknown.stderr) == (2, "There is no such file.\n")
    assert json.loads(run("files", "list", "--json").stdout)["files"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["files", "upload", "none.png"], "none.png: there is no such file."),
        (["run", "A lake", "--image", "none.png"], "--image none.png: there is no such file."),
        (["run", "A lake", "--reference", "none.png"], "--reference none.png: there is no such file."),
        (["run", "A lake", "--control", "edges.png"], "--control edges.png: write TYPE=FILE"),
        (["run", "A lake", "--control", "canny=none.png:0.5"], "--control none.png: there is no such file."),
        (["run", "A lake", "--ip-adapter", "none.png"], "--ip-adapter none.png: there is no such file."),
        (["run", "A lake", "--image", "text.png"], "file must be a PNG, JPEG or WebP picture"),
    ],
)
def test_a_file_that_cannot_be_sent_is_explained_and_exits_with_2(
    server: Served, arguments: list[str], message: str
) -> None:
    Path("text.png").write_text("no picture")
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_files_are_named_with_their_kind_model_and_strength(server: Served) -> None:
    edges, odd = Path("edges.png"), Path("a=b:0.5")
    output_id = "0123456789abcdefghijKL"
    for path in (edges, odd):
        path.touch()

    assert media_options.controls(["canny=edges.png", "depth=edges.png:0.5"]) == [
        {"type": "canny", "image": edges},
        {"type": "depth", "image": edges, "strength": 0.5},
    ]
    assert media_options.ip_adapters(["edges.png", "faces=edges.png:0.7", "a=b:0.5"]) == [
        {"image": edges},
        {"image": edges, "model": "faces", "strength": 0.7},
        {"image": odd},
    ]
    assert media_options.upscale("esrgan:2") == {"model": "esrgan", "scale": 2.0}
    assert media_options.upscale("esrgan") == {"model": "esrgan"}
    assert media_options.several("--reference", ["edges.png", output_id]) == [edges, output_id]


def test_run_sends_the_files_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path / "store", catalogue=TAKING) as server:
        use_server(monkeypatch, server)
        server.run_every_job()
        for name in ("photo.png", "mask.png"):
            Path(name).write_bytes(picture(64, 64, hole=name == "mask.png"))
        photo_id = run("files", "upload", "photo.png").stdout.strip()
        painted = run(
            "run", "A hat", "--model", "retoucher", "--image", photo_id, "--mask", "mask.png", "--strength", "0.6",
            "--fit", "pad", "-o", "hat.png",
        )  # fmt: skip
        refused = run("run", "A hat", "--model", "changer", "--image", "photo.png", "--mask", "mask.png")
        (job,) = server.f.engine.jobs.values()

    (request,) = job.requests
    assert isinstance(request, DiffusionRequest)
    assert (painted.exit_code, painted.stdout) == (0, "hat.png\n")
    assert (request.strength, request.fit) == (0.6, "pad")
    assert request.inputs.image is not None
    assert request.inputs.mask is not None
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.startswith("mask: changer does not take this input. Models here that can: retoucher")
