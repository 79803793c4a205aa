"""Load-time knobs: each does what diffusers does with it, and one that does not apply is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from safetensors.torch import load_file, save_file

from models import knobs
from models.catalogue import Catalogue
from models.loading.load import load
from models.spec import ModelSpec
from pipelines.diffusion.lane import DiffusionLane
from tests.support.checkpoints import chat_folder, write_json
from tests.support.lane_play import direct, gap, rendered, request
from tests.support.original_layout import vae_of
from tests.support.stock_families import FAMILIES

MERGED = 1e-4  # largest difference that batched kernels cause in a pixel of 0 … 1
FAMILY_OF_MODEL = {"sd": "sd15", "xl": "sdxl", "flux": "flux"}


def catalogue(folder: Path, toml: str = "") -> Catalogue:
    (folder / "models.toml").write_text(toml)
    return Catalogue.open(data_dir=folder, cache_dir=folder / "cache", builtin=folder / "none")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion, an XL, a Flux and a chat, with textual inversions beside them."""
    folder = tmp_path_factory.mktemp("saved")
    for name, family in (("sd", "sd15"), ("xl", "sdxl"), ("flux", "flux")):
        FAMILIES[family].build().save_pretrained(folder / "models" / name)
    chat_folder(folder / "models/llama")
    torch.manual_seed(3)
    width = 32
    save_file({"emb_params": torch.randn(3, width)}, folder / "moody.safetensors")
    save_file({"clip_l": torch.randn(2, width), "clip_g": torch.randn(2, width)}, folder / "grim.safetensors")
    save_file({"emb_params": torch.randn(1, 7)}, folder / "narrow.safetensors")
    save_file({"a": torch.randn(1, width), "b": torch.randn(1, width)}, folder / "odd.safetensors")
    return folder


@pytest.mark.parametrize(
    ("model", "knob", "words"),
    [
        ("llama", "compile = true", "load.compile is for image and video models"),
        ("llama", "quantization = 'fp8-layerwise'", "fp8-layerwise is for image and video models"),
        ("sd", "attention = 'native'", "load.attention is for transformers; StableDiffusionPipeline has a U-Net"),
        ("flux", "attention = 'flash'", "load.attention: flash needs a CUDA device"),
        ("flux", "attention = 'magic'", "load.attention must be one of native, "),
        ("flux", "offload = true", "load.offload moves parts between main memory and a GPU"),
        ("sd", "quantization = 'bnb-4bit'", "load.quantization: bnb-4bit needs a CUDA device"),
        ("flux", "quantization = 'torchao-int4'", "load.quantization: torchao-int4 needs a CUDA device"),
        ("sd", "base = 'flux'", "load.base is for a single file"),
        ("sd", "embeddings = ['narrow.safetensors']", "narrow.safetensors is 7 wide, this model's tokens are 32"),
        ("sd", "embeddings = ['odd.safetensors']", "odd.safetensors has the tensors a, b; wanted is one"),
        ("sd", "embeddings = ['grim.safetensors']", "wanted is one"),
        ("xl", "embeddings = ['moody.safetensors']", "wanted is two, clip_l and clip_g"),
    ],
)
def test_a_knob_that_does_not_apply_is_refused_by_its_name(saved: Path, model: str, knob: str, words: str) -> None:
    found = catalogue(saved, f"[models.{model}.load]\n{knob}\n")

    (refused,) = found.refused
    assert words in refused.reason


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"quantization": "quanto-int8"}, "needs optimum.quanto, which is not installed"),
        ({"attention": "sage"}, "load.attention: sage needs sageattention, which is not installed"),
        ({"attention": "flash_hub"}, "load.attention: flash_hub needs kernels, which is not installed"),
    ],
)
def test_a_knob_whose_library_is_not_installed_says_which(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(knobs, "_installed", lambda library: False)
    model = ModelSpec(name="m", type="image", path=None, source="m", load=knobs_of(**spec))

    with pytest.raises(knobs.BadModel, match=words):
        knobs.check_knobs(model, on_cpu=False)


def knobs_of(**said: Any) -> Any:
    return ModelSpec(name="m", type="image", path=None, source="m").load.__class__(**said)


def test_a_checkpoint_without_the_part_that_a_knob_is_for_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models/pixels"
    FAMILIES["sd15"].build().save_pretrained(folder)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    spec = ModelSpec(name="m", type="image", path=folder, source="m", pipeline="DDPMPipeline")
    write_json(folder / "model_index.json", index)

    for knob, said in (("vae", "x"), ("compile", True), ("embeddings", ("x.safetensors",))):
        model = ModelSpec(
            name="m", type="image", path=spec.path, source="m", pipeline="DDPMPipeline", load=knobs_of(**{knob: said})
        )
        with pytest.raises(knobs.BadModel, match=f"load.{knob}: "):
            knobs.check_knobs(model, on_cpu=True)


def load_lane(folder: Path, name: str, toml: str = "") -> DiffusionLane:
    """Loads the model with the given models.toml."""
    lane = load(catalogue(folder, toml).get(name), device="cpu")
    assert isinstance(lane, DiffusionLane)
    return lane


def render(lane: DiffusionLane, name: str, prompt: str = "a red circle") -> Any:
    family = FAMILIES[FAMILY_OF_MODEL[name]]
    return rendered(lane, [request(family, "a", prompt=prompt, steps=2)])["a"].frames


def load_and_render(folder: Path, name: str, toml: str = "", prompt: str = "a red circle") -> Any:
    lane = load_lane(folder, name, toml)
    frames = render(lane, name, prompt)
    lane.close()
    return frames


def stock_picture(
    folder: Path,
    name: str,
    prepare: Callable[[Any], object] = lambda pipeline: None,
    prompt: str = "a red circle",
    **from_pretrained: Any,
) -> Any:
    """Renders with diffusers alone, after `prepare` has set the same option on the pipeline."""
    path = folder / "models" / name
    pipeline = diffusers.DiffusionPipeline.from_pretrained(path, use_safetensors=True, **from_pretrained)
    prepare(pipeline)
    return direct(pipeline, request(FAMILIES[FAMILY_OF_MODEL[name]], "a", prompt=prompt, steps=2))


def denoiser_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def parameter_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


@pytest.mark.slow
def test_a_textual_inversion_is_called_by_its_files_name(saved: Path) -> None:
    toml = "[models.sd.load]\nembeddings = ['moody.safetensors']\n"

    def load_inversion(pipeline: Any) -> None:
        pipeline.load_textual_inversion(str(saved), weight_name="moody.safetensors", token="moody")

    ours = load_and_render(saved, "sd", toml, "a moody circle")
    assert gap(ours, stock_picture(saved, "sd", load_inversion, "a moody circle")) <= MERGED
    assert gap(ours, load_and_render(saved, "sd", "", "a moody circle")) > MERGED
    weighted = load_and_render(saved, "sd", toml, "a (moody:1.3) circle")
    assert gap(weighted, ours) > MERGED


@pytest.mark.slow
def test_a_textual_inversion_of_xl_goes_into_both_text_encoders(saved: Path) -> None:
    toml = "[models.xl.load]\nembeddings = ['grim.safetensors']\n"

    def load_inversion(pipeline: Any) -> None:
        tensors = load_file(saved / "grim.safetensors")
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            parts = {name: getattr(pipeline, f"{name}{suffix}") for name in ("tokenizer", "text_encoder")}
            pipeline.load_textual_inversion({"emb_params": tensors[key]}, token="grim", **parts)

    ours = load_and_render(saved, "xl", toml, "a grim circle")
    assert gap(ours, stock_picture(saved, "xl", load_inversion, "a grim circle")) <= MERGED
    assert gap(ours, load_and_render(saved, "xl", "", "a grim circle")) > MERGED


@pytest.mark.slow
@pytest.mark.parametrize("source", ["./other-vae", "./other-vae.safetensors"])
def test_another_vae_takes_the_place_of_the_checkpoints(saved: Path, source: str) -> None:
    """The folder is in diffusers' layout, the file in the original one that people share."""
    other = FAMILIES["sd15"].build().vae
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    other.save_pretrained(saved / "other-vae")
    save_file(vae_of(other.state_dict()), saved / "other-vae.safetensors")

    ours = load_and_render(saved, "sd", f"[models.sd.load]\nvae = '{source}'\n")

    assert gap(ours, stock_picture(saved, "sd", vae=other)) <= MERGED
    assert gap(ours, load_and_render(saved, "sd")) > MERGED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_fp8_layerwise_halves_the_denoiser_and_makes_the_picture_that_diffusers_makes_with_it(
    saved: Path, name: str
) -> None:
    def cast(pipeline: Any) -> None:
        denoiser_of(pipeline).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    plain = load_lane(saved, name)
    lane = load_lane(saved, name, f"[models.{name}.load]\nquantization = 'fp8-layerwise'\n")

    assert parameter_bytes(denoiser_of(lane.pipeline)) < parameter_bytes(denoiser_of(plain.pipeline)) / 2
    ours = render(lane, name)
    assert gap(ours, stock_picture(saved, name, cast)) <= MERGED
    assert gap(ours, render(plain, name)) > 0


@pytest.mark.slow
def test_an_attention_backend_is_set_on_every_layer_of_that_model_and_on_no_other_model(saved: Path) -> None:
    usual = _AttentionBackendRegistry._active_backend
    other = load_lane(saved, "flux")

    lane = load_lane(saved, "flux", "[models.flux.load]\nattention = '_native_math'\n")

    assert attention_backends(lane.pipeline.transformer) == {AttentionBackendName._NATIVE_MATH}
    assert attention_backends(other.pipeline.transformer) == {None}
    assert _AttentionBackendRegistry._active_backend is usual
    assert usual is not AttentionBackendName._NATIVE_MATH
    assert gap(render(lane, "flux"), stock_picture(saved, "flux")) <= MERGED


def attention_backends(transformer: torch.nn.Module) -> set[Any]:
    return {layer.processor._attention_backend for layer in transformer.modules() if hasattr(layer, "processor")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns about many things
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_compiled_blocks_give_the_same_picture(saved: Path, name: str) -> None:
    lane = load_lane(saved, name, f"[models.{name}.load]\ncompile = true\n")

    denoiser = denoiser_of(lane.pipeline)
    repeated = [block for block in denoiser.modules() if type(block).__name__ in denoiser._repeated_blocks]
    assert repeated
    assert all(block._compiled_call_impl is not None for block in repeated)
    assert gap(render(lane, name), stock_picture(saved, name)) <= 1e-3
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the libraries warn about many things
@pytest.mark.parametrize(("kind", "library"), [("quanto-int8", "optimum"), ("torchao-int8", "torchao")])
def test_a_quantized_denoiser_makes_the_picture_that_diffusers_makes_with_it(
    saved: Path, kind: str, library: str
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    from diffusers.quantizers import PipelineQuantizationConfig

    from models.loading.building import _config_of

    config = PipelineQuantizationConfig(quant_mapping={"transformer": _config_of(kind, diffusers)})
    ours = load_and_render(saved, "flux", f"[models.flux.load]\nquantization = '{kind}'\n")

    assert gap(ours, stock_picture(saved, "flux", quantization_config=config, dtype=torch.float32)) <= MERGED
    difference = gap(ours, load_and_render(saved, "flux"))
    assert 0 < difference < 0.2
    assert np.isfinite(ours).all()
