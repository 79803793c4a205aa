"""A checkpoint whose parts are not all there is told apart from a broken one, and names what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import BadModel, Incomplete
from models.files.safety import check_path
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import ONE_F16, chat_folder, stable_diffusion_folder, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


def whole_pipeline(folder: Path) -> Path:
    """A Stable Diffusion folder with every part that its class takes."""
    stable_diffusion_folder(
        folder,
        text_encoder=["transformers", "CLIPTextModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        scheduler=["diffusers", "PNDMScheduler"],
    )
    for part in ("text_encoder", "safety_checker"):
        write_json(folder / part / "config.json", {"architectures": ["X"]})
        (folder / part / "model.safetensors").write_bytes(ONE_F16)
    write_json(folder / "tokenizer/vocab.json", {})
    (folder / "tokenizer/merges.txt").write_text("")
    write_json(folder / "feature_extractor/preprocessor_config.json", {})
    return folder


def sharded(folder: Path, *there: str) -> None:
    names = {"a": "diffusion_pytorch_model-00001-of-00002.safetensors",
             "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}  # fmt: skip
    (folder / WEIGHTS).unlink()
    write_json(folder / f"{WEIGHTS}.index.json", {"metadata": {}, "weight_map": names})
    for name in there:
        (folder / names[name]).write_bytes(ONE_F16)


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("blob-that-is-not-there"))


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


LACKING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda p: shutil.rmtree(p / "vae"), "vae: the folder"),
    "weights": (lambda p: (p / "unet" / WEIGHTS).unlink(), "unet: the weights"),
    "a config": (lambda p: (p / "unet/config.json").unlink(), "unet: config.json"),
    "a shard": (lambda p: sharded(p / "unet", "a"), "unet: diffusion_pytorch_model-00002-of-00002.safetensors"),
    "the blob of a link": (lambda p: dangling(p / "unet" / WEIGHTS), "unet: the weights"),
    "a listed safety checker": (lambda p: shutil.rmtree(p / "safety_checker"), "safety_checker: the folder"),
    "a vocabulary": (lambda p: [f.unlink() for f in (p / "tokenizer").iterdir()], "tokenizer: the vocabulary"),
    "half of a vocabulary": (lambda p: (p / "tokenizer/merges.txt").unlink(), "tokenizer: merges.txt"),
    "a scheduler's config": (
        lambda p: (p / "scheduler/scheduler_config.json").unlink(), "scheduler: scheduler_config.json"),
    "a processor's config": (
        lambda p: (p / "feature_extractor/preprocessor_config.json").unlink(), "feature_extractor: preproc"),
    "an index": (
        lambda p: (p / "unet" / WEIGHTS).rename(p / "unet/diffusion_pytorch_model-00001-of-00001.safetensors"),
        "unet: the weights"),
    "the end of a file that aria2 writes": (
        lambda p: (p / "unet" / f"{WEIGHTS}.aria2").write_text(""), f"unet: {WEIGHTS}"),
    "the right case of a name": (lambda p: (p / "unet").rename(p / "UNet"), "UNet is written differently"),
}  # fmt: skip


@pytest.mark.parametrize("part", LACKING)
def test_a_pipeline_that_lacks_a_part_is_incomplete_and_names_it(tmp_path: Path, part: str) -> None:
    folder = whole_pipeline(tmp_path / "models/sd")
    check_path(folder)
    take_away, named = LACKING[part]

    take_away(folder)

    with pytest.raises(Incomplete) as caught:
        check_path(folder)
    assert any(named in missing for missing in caught.value.missing), caught.value.missing
    assert named in caught.value.message
    (refused,) = open_catalogue(tmp_path).refused
    assert (refused.state, refused.type, refused.path) == ("incomplete", "image", folder)


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    folder = whole_pipeline(tmp_path / "sd")
    shutil.rmtree(folder / "vae")
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / f"{WEIGHTS}.part")

    with pytest.raises(Incomplete, match=r"is an unfinished download") as caught:
        check_path(folder)

    assert set(caught.value.missing) == {"vae: the folder", "unet: the weights"}


def test_a_file_that_ends_early_is_incomplete(tmp_path: Path) -> None:
    folder = whole_pipeline(tmp_path / "sd")
    half(folder / "vae" / WEIGHTS)

    with pytest.raises(Incomplete, match="ends early"):
        check_path(folder)
    (folder / "vae" / WEIGHTS).write_bytes(b"")
    with pytest.raises(Incomplete, match="is empty"):
        check_path(folder)


@pytest.mark.parametrize(
    ("take_away", "named"),
    [("model.safetensors", "the weights"), ("tokenizer.json", "the vocabulary")],
)
def test_a_language_model_that_lacks_a_part_is_incomplete(tmp_path: Path, take_away: str, named: str) -> None:
    folder = chat_folder(tmp_path / "llama")
    write_json(folder / "model.safetensors.index.json.bak", {})
    (folder / take_away).unlink()

    with pytest.raises(Incomplete, match=named):
        check_path(folder)


def test_a_single_file_that_is_being_written_or_whose_link_leads_nowhere_is_incomplete(tmp_path: Path) -> None:
    file = tmp_path / "models/x.safetensors"
    file.parent.mkdir()
    file.write_bytes(ONE_F16)
    mark = tmp_path / "models/x.safetensors.crdownload"
    mark.write_bytes(b"")
    with pytest.raises(Incomplete, match="still being downloaded"):
        check_path(file)

    mark.unlink()
    dangling(file)
    with pytest.raises(Incomplete, match="a link to a file that is not there"):
        check_path(file)
    assert [refused.state for refused in open_catalogue(tmp_path).refused] == ["incomplete"]


def test_components_that_the_library_does_without_are_not_missing(tmp_path: Path) -> None:
    folder = whole_pipeline(tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    shutil.rmtree(folder / "safety_checker")
    shutil.rmtree(folder / "feature_extractor")
    index |= {"safety_checker": [None, None], "feature_extractor": [None, "CLIPImageProcessor"]}
    del index["safety_checker"]  # optional for the class: it need not even be listed

    write_json(folder / "model_index.json", index)

    check_path(folder)


def test_an_index_that_leaves_out_a_component_that_the_class_needs_is_refused(tmp_path: Path) -> None:
    folder = whole_pipeline(tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    del index["vae"]
    write_json(folder / "model_index.json", index)

    with pytest.raises(BadModel, match="does not list vae, which StableDiffusionPipeline needs"):
        check_path(folder)
