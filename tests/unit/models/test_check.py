"""A check tells what a folder, file or hub id is, and whether the catalogue would offer it, without loading it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.check import CheckReport, DeviceMemory, check_source, name_of
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, safetensors_bytes, stable_diffusion_folder, write_json
from tests.support.hub_client import hub_client
from tests.support.hub_repositories import qwen3, sd15

GIB = 2**30


def checked(source: Path | str, folder: Path, **options: Any) -> CheckReport:
    arguments: dict[str, Any] = {"relative_to": folder, "cache_dir": folder / "cache", "auto_dtype": "float32"}
    return check_source(str(source), **arguments | options)


def test_a_sound_folder_is_told_with_its_parts_bytes_and_place(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "My Model")

    report = checked(folder, tmp_path, device=DeviceMemory("gpu", 8 * GIB, 4 * GIB))

    assert (report.name, report.state, report.type, report.pipeline) == (
        "my-model", "ready", "image", "StableDiffusionPipeline")  # fmt: skip
    parts = {part.name: part for part in report.parts}
    assert parts["unet"].files == {"diffusion_pytorch_model.safetensors": len(ONE_F16)}
    assert (parts["unet"].dtypes, parts["unet"].bytes) == ({"F16": 1}, 8 * 4)
    assert report.weight_bytes == sum(part.bytes for part in report.parts) == 2 * 8 * 4
    assert (report.fits, report.is_servable, report.notes) == ("fits", True, ())


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    [(100, 64, "fits"), (100, 63, "after others leave"), (40, 40, "offloaded"), (8, 8, "too large")],
)
def test_the_weights_are_compared_with_the_device(tmp_path: Path, total: int, free: int, fits: str) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")  # two parts of 32 bytes

    report = checked(folder, tmp_path, device=DeviceMemory("gpu", total, free))

    assert report.fits == fits
    assert report.is_servable == (fits != "too large")


def test_what_is_missing_is_told_as_the_catalogue_tells_it(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd")
    shutil.rmtree(folder / "vae")

    report = checked(folder, tmp_path)

    (refused,) = open_catalogue(tmp_path).refused
    assert (report.state, report.reason, report.missing) == ("incomplete", refused.reason, refused.missing)
    assert (report.type, report.pipeline, report.is_servable) == ("image", "StableDiffusionPipeline", False)


def test_odd_files_are_notes(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    for name in (
        "v1-5.ckpt",
        "v1-5.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/._x",
        "vae/x.safetensors.part",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(ONE_F16)
    (folder / "vae_1_0").mkdir()

    notes = " ".join(checked(folder, tmp_path).notes)

    assert "Pickles are never opened: v1-5.ckpt, unet/diffusion_pytorch_model.bin." in notes
    assert "beside those that are: v1-5.safetensors, unet/diffusion_pytorch_model.fp16.safetensors." in notes
    assert "Folders that the index does not list: vae_1_0." in notes
    assert "Unfinished downloads: x.safetensors.part." in notes
    assert "Files of other programs are ignored: ._x." in notes


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"unet.up.lora_A.weight": ("F16", [4, 2], 16)}, "is a LoRA, not a model"),
        ({"some.weight": ("F16", [4, 2], 16)}, "family is not known"),
    ],
)
def test_a_file_that_is_no_model_is_told_what_it_is(tmp_path: Path, tensors: Any, words: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(safetensors_bytes(tensors))

    report = checked(file, tmp_path)

    assert words in report.reason
    assert not report.is_servable


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder.mkdir(), "has neither model_index.json"),
        (lambda folder: write_json(folder / "config.json", {"_class_name": "PriorTransformer"}), "is one component ("),
        (lambda folder: chat_folder(folder, architectures=["ViTModel"], model_type="vit"), "neither a diffusers"),
        (lambda folder: chat_folder(folder, architectures=["BertForSequenceClassification"]), "it gives scores"),
        (lambda folder: chat_folder(folder, quantization_config={"quant_method": "wood"}), "by the method wood"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_served_is_told_why(tmp_path: Path, make: Any, words: str) -> None:
    make(tmp_path / "x")

    report = checked(tmp_path / "x", tmp_path)

    assert (report.state, report.is_servable) == ("refused", False)
    assert words in report.reason


def test_a_language_model_without_a_chat_template_is_told_so(tmp_path: Path) -> None:
    report = checked(chat_folder(tmp_path / "x", template=None), tmp_path)

    assert (report.state, report.type, report.is_servable) == ("refused", "chat", False)
    assert report.reason.startswith("has no chat template; set load.chat_template to one of chatml, ")


def test_a_language_model_on_the_hub_without_a_chat_template_is_told_so_before_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = {name: content for name, content in qwen3().items() if not name.endswith(".jinja")}
    bare["tokenizer_config.json"] = b"{}"
    with hub_client(monkeypatch, tmp_path, {"owner/bare": bare, "owner/chat": {**bare, "chat_template.jinja": b"x"}}):
        report = checked("owner/bare", tmp_path)
        assert (report.state, report.is_servable) == ("not downloaded", False)
        assert report.reason.startswith("has no chat template; ")

        assert checked("owner/chat", tmp_path).is_servable


def test_a_source_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    assert "is no folder" in checked("/nowhere/at/all", tmp_path).reason
    assert "is no folder, no 'owner/name'" in checked("what is this", tmp_path).reason


def test_a_repository_of_the_hub_is_told_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/sd": sd15()}) as client:
        report = checked("owner/sd", tmp_path)

        assert (report.state, report.type, report.pipeline) == ("not downloaded", "image", "StableDiffusionPipeline")
        assert report.is_servable, report.reason
        assert report.download_bytes > 0
        fetched = client.hub.resolved()
        assert not [name for name in fetched if name.endswith((".safetensors", ".bin", ".ckpt"))]

        client.pull("owner/sd")
        report = checked("owner/sd", tmp_path)
        assert (report.state, report.is_servable) == ("ready", True), report.reason


def test_a_repository_that_the_hub_does_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {}):
        report = checked("owner/none", tmp_path)

    assert (report.state, report.is_servable) == ("not downloaded", False)
    assert "is not on the hub" in report.reason


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/x/My Model", "my-model"), ("/x/a.safetensors", "a"), ("owner/Name@main", "name"),
        ("owner/name:sub/a-Q4.gguf", "a-q4"), ("https://h/x.safetensors#sha256=0", "x"), ("wheel:a-b==1.2", "a-b"),
    ],
)  # fmt: skip
def test_a_source_gives_a_name(source: str, name: str) -> None:
    assert name_of(source) == name


def test_the_report_is_json_and_needs_no_torch(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "sd")
    program = (
        "import json, sys; from pathlib import Path; from models.check import check_source\n"
        "report = check_source(sys.argv[1], relative_to=Path('.'), cache_dir=Path('none'), auto_dtype='float32')\n"
        "print(json.dumps([report.as_json(), 'torch' in sys.modules, 'diffusers' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, check=True, text=True)

    report, *imported = json.loads(run.stdout)
    assert imported == [False, False]
    assert (report["servable"], report["weightBytes"]) == (True, 64)
