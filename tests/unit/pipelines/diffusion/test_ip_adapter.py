"""IP-Adapters: fitted once to a denoiser, worn by single requests, equal to what the library makes of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from benchmarks.families import FAMILIES, parts
from pipelines.diffusion.adapters.ip_adapter import IpAdapter, IpAdapterSets, by_part, fit
from pipelines.diffusion.adapters.lent_modules import BadAdapter
from tests.support.tiny_ip_adapter import ip_adapter_tensors, sd3_ip_adapter_tensors

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def encoder() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return parts.clip_vision().eval()


def call(pipeline: Any, **arguments: Any) -> NDArray[np.float32]:
    family = FAMILIES[type(pipeline).__name__]
    size = {"width": family.size, "height": family.size, "num_inference_steps": 2, "output_type": "np"}
    generator = torch.Generator().manual_seed(1)
    return np.asarray(pipeline(prompt="a cat", generator=generator, **size, **family.call, **arguments)[0])


def fitted(pipeline: Any, *, plus: bool = False, seed: int = 0) -> IpAdapter:
    return fit("face", pipeline, ip_adapter_tensors(pipeline, parts.TEXT_DIM, plus=plus, seed=seed), encoder())


@pytest.mark.parametrize(
    ("name", "plus", "strengths"),
    [
        ("StableDiffusionPipeline", False, (0.6,)),
        pytest.param("StableDiffusionXLPipeline", True, (1.0,), marks=pytest.mark.slow),
        ("StableDiffusionPipeline", False, (0.6, 0.8)),
        pytest.param("KolorsPipeline", False, (0.5,), marks=pytest.mark.slow),
        pytest.param("FluxPipeline", False, (0.7, 0.4), marks=pytest.mark.slow),
    ],
)
def test_request_with_ip_adapters_gives_what_the_library_gives(
    name: str, plus: bool, strengths: tuple[float, ...]
) -> None:
    library, own = FAMILIES[name].build(), FAMILIES[name].build()
    count, pictures = len(strengths), [[picture(i)] for i in range(len(strengths))]
    files = [by_part(ip_adapter_tensors(library, parts.TEXT_DIM, plus=plus, seed=i)) for i in range(count)]
    library.image_encoder = encoder()
    library.load_ip_adapter(files, subfolder=[""] * count, weight_name=[""] * count)
    library.set_ip_adapter_scale(list(strengths) if count > 1 else strengths[0])
    expected = call(library, ip_adapter_image=pictures)
    plain = call(own)

    adapters = [fitted(own, plus=plus, seed=i) for i in range(count)]
    assert np.array_equal(call(own), plain), "the denoiser is as before"
    worn = copy.copy(own)
    IpAdapterSets().wear(worn, list(zip(adapters, strengths, strict=True)))

    assert np.array_equal(call(worn, ip_adapter_image=pictures), expected)
    assert np.abs(expected - plain).max() > 1e-3


def test_request_of_stable_diffusion_3_gives_what_the_library_gives() -> None:
    name = "StableDiffusion3Pipeline"
    library, own = FAMILIES[name].build(), FAMILIES[name].build()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
             "image_size": 28, "patch_size": 14}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        siglip = SiglipVisionModel(SiglipVisionConfig(**sizes)).eval()
    extractor = SiglipImageProcessor(size={"height": 28, "width": 28})
    tensors = sd3_ip_adapter_tensors(library, image_dim=32)
    library.image_encoder, library.feature_extractor = siglip, extractor
    library.load_ip_adapter(by_part(tensors))
    library.set_ip_adapter_scale(0.7)
    expected, plain = call(library, ip_adapter_image=picture(0)), call(own)

    worn = copy.copy(own)
    IpAdapterSets().wear(worn, [(fit("face", own, tensors, siglip, extractor), 0.7)])

    assert np.array_equal(call(worn, ip_adapter_image=picture(0)), expected)
    assert np.abs(expected - plain).max() > 1e-4


def test_two_requests_with_the_same_adapters_and_strengths_wear_the_same_objects() -> None:
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    adapter, sets, unet = fitted(pipeline), IpAdapterSets(), pipeline.unet

    running = []  # requests that have not ended yet

    def worn(strength: float) -> list[int]:
        running.append(copy.copy(pipeline))
        sets.wear(running[-1], [(adapter, strength)])
        return [id(processor) for processor in unet.attn_processors.values()] + [id(unet.encoder_hid_proj)]

    assert worn(0.5) == worn(0.5) != worn(0.7)


def test_sets_share_the_weights_of_their_adapters() -> None:
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    one, two, sets = fitted(pipeline), fitted(pipeline, seed=1), IpAdapterSets()
    held = {parameter.data_ptr() for adapter in (one, two) for parameter in adapter.parameters()}
    own = {parameter.data_ptr() for parameter in pipeline.unet.parameters()}

    sets.wear(copy.copy(pipeline), [(one, 0.5), (two, 1.0)])

    assert {parameter.data_ptr() for parameter in pipeline.unet.parameters()} - own <= held


def test_adapter_of_another_model_is_refused() -> None:
    xl = FAMILIES["StableDiffusionXLPipeline"].build()
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    with pytest.raises(BadAdapter, match="does not fit this model"):
        fit("face", pipeline, ip_adapter_tensors(xl, parts.TEXT_DIM), encoder())
    with pytest.raises(BadAdapter, match="no folder image_encoder"):
        fit("face", xl, ip_adapter_tensors(xl, parts.TEXT_DIM))
    with pytest.raises(BadAdapter, match="takes no IP-Adapter"):
        fit("face", FAMILIES["SanaPipeline"].build(), {}, encoder())


def test_denoiser_is_as_before_when_an_adapter_does_not_fit() -> None:
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    before = [id(processor) for processor in pipeline.unet.attn_processors.values()]
    tensors = ip_adapter_tensors(pipeline, parts.TEXT_DIM)
    del tensors["ip_adapter.3.to_k_ip.weight"]
    with pytest.raises(BadAdapter):
        fit("face", pipeline, tensors, encoder())
    assert [id(processor) for processor in pipeline.unet.attn_processors.values()] == before
    assert pipeline.unet.encoder_hid_proj is None
    assert pipeline.unet.config.encoder_hid_dim_type is None
    assert "to" not in vars(pipeline.unet)
