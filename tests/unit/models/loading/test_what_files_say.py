"""What a single file says of itself is honoured: its prediction, scales and shapes. Its bytes are those held."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import diffusers
import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.families import FAMILIES
from models.catalogue import Catalogue
from models.loading.tensors_of_file import unscaled
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import direct, gap, request
from tests.support.lanes.loaded_models import load_and_render, load_diffusion, render
from tests.support.lanes.original_layout import unet_of, vae_of, write_whole_file
from tests.support.lanes.stock_families import FAMILIES as STOCK
from tests.support.lanes.whole_files import tiny_pipeline, tiny_sd3

MERGED = 1e-4  # the largest difference that batched kernels cause in a pixel, of 0 … 1


def with_file(root: Path, pipeline: Any, change: Any, metadata: dict[str, str] | None = None) -> Catalogue:
    """Lists the pipeline as `whole`, a folder, and as `one`, a file whose tensors `change` returns."""
    pipeline.save_pretrained(root / "folder")
    pipeline.scheduler = type(pipeline.scheduler).from_pretrained(root / "folder/scheduler")  # as it is read
    write_whole_file(root / "folder", root / "plain.safetensors")
    save_file(change(load_file(root / "plain.safetensors")), root / "one.safetensors", metadata=metadata)
    shutil.copytree(root / "folder", root / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    toml = '[models.whole]\nsource = "folder"\n[models.one]\nsource = "one.safetensors"\nload.base = "base"\n'
    return open_catalogue(root, toml)


def stock_picture(pipeline: Any, scheduler: str = "EulerDiscreteScheduler", **settings: Any) -> Any:
    cls = getattr(diffusers, scheduler)
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **settings)
    return direct(pipeline, request(STOCK["sd15"], "1"))


ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
V_ALONE = {"prediction_type": "v_prediction"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("markers", "metadata", "settings"),
    [
        (("v_pred", "ztsnr"), None, ZERO_SNR),
        (("v_pred",), None, V_ALONE),
        ((), {"modelspec.prediction_type": "v"}, V_ALONE),
    ],
)
def test_a_file_that_says_it_predicts_v_is_sampled_so(
    tmp_path: Path, markers: tuple[str, ...], metadata: dict[str, str] | None, settings: dict[str, Any]
) -> None:
    pipeline = tiny_pipeline(xl=True)
    found = with_file(tmp_path, pipeline, lambda w: w | {name: torch.tensor([]) for name in markers}, metadata)
    spec = found.get("one")

    assert "v_prediction" in spec.notes[0]
    assert gap(load_and_render(spec), stock_picture(pipeline, **settings)) <= MERGED
    other = "DDIMScheduler"
    assert gap(load_and_render(spec, scheduler=other), stock_picture(pipeline, other, **settings)) <= MERGED


@pytest.mark.slow
def test_a_scheduler_that_knows_no_pure_noise_gives_way_to_one_that_does(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(xl=False)
    pipeline.scheduler = diffusers.PNDMScheduler.from_config(pipeline.scheduler.config)
    found = with_file(tmp_path, pipeline, lambda w: w | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])})
    spec = found.get("one")

    assert spec.schedulers[0] == "EulerDiscreteScheduler"
    assert "PNDMScheduler" not in spec.schedulers
    assert gap(load_and_render(spec), stock_picture(pipeline, **ZERO_SNR)) <= MERGED


@pytest.mark.slow
def test_models_toml_can_say_what_the_file_does_not(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(xl=False)
    pipeline.save_pretrained(tmp_path / "folder")
    options = 'load.prediction_type = "v_prediction"\nload.zero_terminal_snr = true\n'
    spec = open_catalogue(tmp_path, f'[models.m]\nsource = "folder"\n{options}').get("m")

    assert gap(load_and_render(spec), stock_picture(pipeline, **ZERO_SNR)) <= MERGED


def scaled_fp8(weights: dict[str, torch.Tensor], suffix: str) -> dict[str, torch.Tensor]:
    """Stores linear weights of the U-Net as fp8 with a scale beside each, and marks the file as ComfyUI does."""
    found = {"model.diffusion_model.scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, weight in weights.items():
        if name.startswith("model.diffusion_model.") and name.endswith("to_q.weight") and weight.ndim == 2:
            scale = weight.abs().max() / 448  # the largest number of float8_e4m3fn
            found[name] = (weight / scale).to(torch.float8_e4m3fn)
            found[name.removesuffix(".weight") + suffix] = scale
            found[name.removesuffix(".weight") + ".input_scale"] = torch.tensor(3.0)
        else:
            found[name] = weight
    return found


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".scale_weight", ".weight_scale"])
def test_scaled_fp8_makes_nearly_the_picture_of_its_plain_weights(tmp_path: Path, suffix: str) -> None:
    found = with_file(tmp_path, tiny_pipeline(xl=False), lambda weights: scaled_fp8(weights, suffix))
    spec = found.get("one")
    lane = load_diffusion(spec, merging="off")

    assert lane.weight_bytes == pytest.approx(spec.weight_bytes, rel=0.005)
    assert gap(render(lane), load_and_render(found.get("whole"))) < 0.05  # three bits of mantissa


class TestScales:
    @pytest.mark.parametrize(
        ("shape", "block"), [((), (6, 10)), ((1,), (6, 10)), ((6,), (1, 10)), ((6, 1), (1, 10)), ((2, 3), (4, 4))]
    )
    def test_a_scale_spreads_over_the_weight_in_rows_or_blocks(
        self, shape: tuple[int, ...], block: tuple[int, int]
    ) -> None:
        """A scale of 2x3 for 6x10 values covers blocks of 4x4, and the last of each axis is smaller."""
        weight = torch.ones(6, 10).to(torch.float8_e4m3fn)
        scale = torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)

        found = unscaled(weight, scale, torch.float32)

        per_row = -(-10 // block[1])
        expected = [[1.0 + row // block[0] * per_row + column // block[1] for column in range(10)] for row in range(6)]
        assert found.tolist() == expected

    def test_the_product_is_rounded_once_to_the_serving_dtype(self) -> None:
        weight, scale = torch.tensor([[3.0]]).to(torch.float8_e4m3fn), torch.tensor(1 / 3)

        assert unscaled(weight, scale, torch.bfloat16).equal((torch.tensor([[3.0]]) * scale).to(torch.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("naming", ["original", "diffusers", "old diffusers"])
def test_a_vae_in_one_file_has_the_scaling_factor_of_the_checkpoint(tmp_path: Path, naming: str) -> None:
    pipeline = tiny_pipeline(xl=True)
    pipeline.vae.register_to_config(scaling_factor=0.13025)
    pipeline.save_pretrained(tmp_path / "xl")
    weights = load_file(tmp_path / "xl/vae/diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items() if naming == "old diffusers" else ():
        weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in weights.items()}
    file = vae_of(weights) if naming == "original" else weights
    save_file({name: tensor.contiguous() for name, tensor in file.items()}, tmp_path / "vae.safetensors")
    toml = '[models.plain]\nsource = "xl"\n[models.other]\nsource = "xl"\nload.vae = "./vae.safetensors"\n'
    found = open_catalogue(tmp_path, toml)

    assert found.refused == ()
    assert gap(load_and_render(found.get("other")), load_and_render(found.get("plain"))) <= MERGED


# GGUF


def write_gguf(path: Path, weights: dict[str, torch.Tensor], kinds: dict[str, gguf.GGMLQuantizationType]) -> None:
    """kinds: the types of those tensors that are packed."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in weights.items():
        if (kind := kinds.get(name)) is None:
            writer.add_tensor(name, tensor.float().numpy())
        else:
            writer.add_tensor(name, gguf.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_a_gguf_with_a_tensor_of_five_dimensions_makes_the_clip_of_its_pipeline(tmp_path: Path) -> None:
    """One layer is packed, and the bytes are those of the packed one."""
    family = FAMILIES["WanPipeline"]
    family.build().save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base/transformer/diffusion_pytorch_model.safetensors")
    packed = next(name for name, t in weights.items() if name.endswith("ffn.net.2.weight") and t.shape[-1] % 32 == 0)
    write_gguf(tmp_path / "wan.gguf", weights, {packed: gguf.GGMLQuantizationType.Q8_0})
    toml = '[models.whole]\nsource = "base"\n[models.one]\nsource = "wan.gguf"\nload.base = "base"\n'
    found = open_catalogue(tmp_path, toml)
    one, whole = (load_diffusion(found.get(name), merging="off") for name in ("one", "whole"))

    assert gap(render(one, "wan"), render(whole, "wan")) < 0.05
    assert one.weight_bytes - found.get("one").weight_bytes == whole.weight_bytes - found.get("whole").weight_bytes
    assert one.weight_bytes < whole.weight_bytes


@pytest.mark.slow
def test_a_gguf_of_a_unet_makes_nearly_the_picture_of_its_pipeline(tmp_path: Path) -> None:
    """Convolutions of 3x3 fill no block of a packed type: as in published files, they were packed in another shape."""
    pipeline = tiny_pipeline(xl=False)
    config = {**pipeline.unet.config, "block_out_channels": (32, 32, 32, 32), "norm_num_groups": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline.unet = diffusers.UNet2DConditionModel.from_config(config)
    pipeline.save_pretrained(tmp_path / "base")
    weights = unet_of(load_file(tmp_path / "base/unet/diffusion_pytorch_model.safetensors"), 2)
    writer, kind = gguf.GGUFWriter(tmp_path / "unet.gguf", "sd1"), gguf.GGMLQuantizationType.Q8_0
    for name, tensor in weights.items():
        rows = tensor.float().reshape(-1, 256) if tensor.ndim == 4 and tensor.numel() % 256 == 0 else tensor.float()
        if rows.shape != tensor.shape:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        if rows.ndim == 2 and rows.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(rows.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, rows.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    toml = '[models.whole]\nsource = "base"\n[models.one]\nsource = "unet.gguf"\nload.base = "base"\n'
    found = open_catalogue(tmp_path, toml)
    lane = load_diffusion(found.get("one"), merging="off")

    assert lane.weight_bytes == pytest.approx(found.get("one").weight_bytes, rel=0.005)
    assert 0 < gap(render(lane), load_and_render(found.get("whole"))) < 0.02


# Bytes


def fp8_denoiser(folder: Path, file: Path) -> None:
    """Writes the denoiser of a folder as one file with its matrices in fp8, as published for Flux."""
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    save_file({name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in weights.items()}, file)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_listed_bytes_are_those_that_become_resident(tmp_path: Path, dtype: str) -> None:
    """fp8 and EMA copies in files, T5, whole files, a tied embedding, and a denoiser with layers in float32."""
    for name, family in (("flux", "FluxPipeline"), ("sd3", "StableDiffusion3Pipeline"), ("qwen", "QwenImagePipeline")):
        FAMILIES[family].save(tmp_path / name)
    fp8_denoiser(tmp_path / "flux", tmp_path / "fp8.safetensors")
    tiny_pipeline(xl=True).save_pretrained(tmp_path / "xl")
    write_whole_file(tmp_path / "xl", tmp_path / "plain.safetensors")
    weights = load_file(tmp_path / "plain.safetensors")
    copies = {
        f"model_ema.{name.replace('.', '')}": t.clone() for name, t in weights.items() if name.startswith("model.")
    }
    save_file(weights | copies, tmp_path / "ema.safetensors")
    tiny_sd3(newer=True).save_pretrained(tmp_path / "sd35")
    write_whole_file(tmp_path / "sd35", tmp_path / "sd35.safetensors")
    bases = {"fp8.safetensors": "flux", "ema.safetensors": "xl", "sd35.safetensors": "sd35"}
    sources = ["flux", "sd3", "qwen", "xl", *bases]
    toml = "".join(
        f'[models.m{number}]\nsource = "{source}"\ndtype = "{dtype}"\n'
        + (f'load.base = "{bases[source]}"\n' if source in bases else "")
        for number, source in enumerate(sources)
    )
    found = open_catalogue(tmp_path, toml)

    assert found.refused == ()
    for number in range(len(sources)):
        spec = found.get(f"m{number}")
        lane = load_diffusion(spec)
        assert lane.weight_bytes == pytest.approx(spec.weight_bytes, rel=0.02), sources[number]
        lane.close()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["StableDiffusionPipeline", "FluxPipeline", "QwenImagePipeline", "LTXPipeline"])
def test_the_listed_bytes_of_fp8_layerwise_are_those_that_become_resident(tmp_path: Path, family: str) -> None:
    FAMILIES[family].save(tmp_path / "m")
    spec = open_catalogue(tmp_path, '[models.m]\nsource = "m"\nload.quantization = "fp8-layerwise"\n').get("m")

    assert load_diffusion(spec).weight_bytes == pytest.approx(spec.weight_bytes, rel=0.01)


@pytest.mark.slow
def test_the_unet_of_a_file_may_lack_its_prefix_or_have_diffusers_names(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(xl=False)
    pipeline.save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base/unet/diffusion_pytorch_model.safetensors")
    save_file(weights | {"v_pred": torch.tensor([])}, tmp_path / "diffusers.safetensors")
    save_file({n: t.contiguous() for n, t in unet_of(weights, 2).items()}, tmp_path / "original.safetensors")
    toml = '[models.whole]\nsource = "base"\n'
    for name in ("diffusers", "original"):
        toml += f'[models.{name}]\nsource = "{name}.safetensors"\nload.base = "base"\n'
    found = open_catalogue(tmp_path, toml)

    plain, original, other = (load_and_render(found.get(name)) for name in ("whole", "original", "diffusers"))

    assert gap(original, plain) <= MERGED
    assert gap(other, stock_picture(pipeline, **V_ALONE)) <= MERGED
