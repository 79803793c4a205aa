"""LoRAs in the names of every trainer are worn as they were meant; a damaged file never brings memory nobody wrote.

Compared are the differences of the weights, layer by layer, with the product of the halves in the file.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.families import FAMILIES
from pipelines.diffusion.lora.adapters import Adapters, BadLora
from pipelines.diffusion.lora.provenance import plain, sources_of, traced
from pipelines.diffusion_interface import Lora
from tests.support.lanes.lora_formats import FORMATS, KOHYA, Deltas, State, dotted, halves, spelled, underscored

pytestmark = pytest.mark.slow

EQUAL = 1e-5  # of values around 0.3


def save(folder: Path, state: State, header: dict[str, str] | None = None) -> Path:
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()},
        folder / "x.safetensors",
        header,
    )
    return folder / "x.safetensors"


def wear(pipeline: Any, path: Path) -> tuple[Deltas, list[str]]:
    """What our loader does to the weights, and its warnings."""
    warnings = Adapters(pipeline).load((Lora("x", str(path), 1.0),))
    return worn(pipeline, "lora_0"), warnings


def worn(pipeline: Any, adapter: str) -> Deltas:
    found: Deltas = {}
    for component, module in pipeline.components.items():
        for name, layer in module.named_modules() if isinstance(module, torch.nn.Module) else ():
            if adapter in getattr(layer, "lora_A", ()):
                down, up = layer.lora_A[adapter].weight.flatten(1), layer.lora_B[adapter].weight.flatten(1)
                found[f"{component}.{name}"] = (up @ down * layer.scaling[adapter]).detach()
    return found


def assert_equal(found: Deltas, expected: Deltas) -> None:
    assert found.keys() == expected.keys()
    for layer, delta in expected.items():
        assert torch.allclose(found[layer], delta, atol=EQUAL), layer


def made(name: str) -> tuple[Any, State, Deltas]:
    pipeline = FAMILIES[FORMATS[name].family].build()
    return pipeline, *FORMATS[name].make(pipeline, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FORMATS)
def test_a_lora_is_worn_as_its_trainer_meant_it(tmp_path: Path, name: str) -> None:
    pipeline, state, expected = made(name)

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert_equal(found, expected)
    assert warnings == []


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.stock_is_right])
def test_diffusers_itself_wears_it_so(tmp_path: Path, name: str) -> None:
    pipeline, state, expected = made(name)

    pipeline.load_lora_weights(str(tmp_path), weight_name=save(tmp_path, state).name, adapter_name="stock_one")

    assert_equal(worn(pipeline, "stock_one"), expected)


def damages(state: State, draw: random.Random) -> Iterator[tuple[str, str, State]]:
    """(what, the tensor, the damaged file)"""
    weights = sorted(name for name in state if name.endswith("weight"))
    for kind in ("drop", "reshape", "rename", "nan", "swap", "alpha"):
        for name in draw.sample(weights, 2):
            changed = dict(state)
            tensor = changed[name]
            if kind == "drop":
                del changed[name]
            elif kind == "reshape":
                changed[name] = tensor[:, :-1] if draw.random() < 0.5 else tensor.flatten()
            elif kind == "rename":
                changed[name.replace("weight", "weigth")] = changed.pop(name)
            elif kind == "nan":
                changed[name] = tensor.clone().fill_(float(draw.choice(["nan", "inf", "-inf"])))
            elif kind == "swap":
                other = draw.choice(weights)
                changed[name], changed[other] = changed[other], changed[name]
            elif alphas := sorted(each for each in state if each.endswith("alpha")):
                name = draw.choice(alphas)
                changed[name] = torch.tensor([1.0, 2.0])
            else:
                continue
            yield kind, name, changed


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_lora_is_refused_by_name_or_worn_without_what_is_damaged(tmp_path: Path, name: str) -> None:
    pipeline, state, _ = made(name)
    for index, (kind, tensor, damaged) in enumerate(damages(state, random.Random(name))):
        path = save(tmp_path, damaged)
        adapters = Adapters(pipeline)
        adapters._n_loaded = index  # names in peft are unique within a pipeline
        refusal = ""
        try:
            adapters.load((Lora("x", str(path), 1.0),))
        except BadLora as error:
            refusal = str(error)
        left = worn(pipeline, f"lora_{index}")
        if kind == "swap" and not refusal:  # two tensors of one shape
            assert all(torch.isfinite(delta).all() for delta in left.values())
        else:
            layer = re.split(r"[._]lora[._]|\.lora_|\.down\.|\.up\.|\.alpha", tensor)[0]
            assert kind == "swap" or layer in refusal, (kind, tensor, refusal)
            assert left == {}, "a refused LoRA leaves nothing behind"


def test_layers_that_the_model_does_not_have_are_named(tmp_path: Path) -> None:
    pipeline, state, expected = made("flux peft")
    down, up, _ = halves(32, 32, torch.Generator().manual_seed(2))
    for block in range(90, 95):
        state |= {
            f"transformer.transformer_blocks.{block}.attn.to_q.lora_A.weight": down,
            f"transformer.transformer_blocks.{block}.attn.to_q.lora_B.weight": up,
        }

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert_equal(found, expected)
    says = (
        f"The LoRA x: 5 of its {len(expected) + 5} layers are not in this model and were left out: "
        "transformer.transformer_blocks.90.attn.to_q, transformer.transformer_blocks.91.attn.to_q, "
        "transformer.transformer_blocks.92.attn.to_q and 2 more."
    )
    assert warnings == [says]


def test_what_diffusers_leaves_out_of_a_file_is_named(tmp_path: Path) -> None:
    """Some LoRAs of Wan hold differences of norms; a bias for some layers only is a bias of zero for the others."""
    pipeline, state, expected = made("wan original")
    state["diffusion_model.blocks.0.norm3.diff"] = torch.ones(24)
    state["diffusion_model.blocks.0.norm3.diff_b"] = torch.zeros(24)
    state["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.arange(24.0)

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert_equal(found, expected)
    assert warnings == [
        "The LoRA x: 1 of its tensors cannot be used and were left out: diffusion_model.blocks.0.norm3.diff."
    ]
    attention = pipeline.transformer.blocks[0].attn1
    assert torch.equal(attention.to_q.lora_B["lora_0"].bias, torch.arange(24.0))
    assert not attention.to_k.lora_B["lora_0"].bias.any()


def test_alphas_in_the_header_are_applied_as_diffusers_applies_them(tmp_path: Path) -> None:
    make = spelled(dotted, ranks=True, only="transformer")
    pipeline, stock = FAMILIES["FluxPipeline"].build(), FAMILIES["FluxPipeline"].build()
    state, plain = make(pipeline, torch.Generator().manual_seed(1))
    ranks = {layer.removeprefix("transformer."): state[f"{layer}.lora_A.weight"].shape[0] for layer in plain}
    settings = {
        "r": 3,
        "lora_alpha": 6,
        "rank_pattern": ranks,
        "alpha_pattern": dict.fromkeys(list(ranks)[:2], 5),
        "use_rslora": True,
        "target_modules": list(ranks),
    }
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}

    found, _ = wear(pipeline, path := save(tmp_path, state, header))

    stock.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name="stock_one")
    assert_equal(found, worn(stock, "stock_one"))
    assert not torch.allclose(found[next(iter(plain))], next(iter(plain.values())))


@pytest.mark.parametrize("spelling", ["peft", "kohya"])
def test_magnitudes_of_dora_are_worn_in_both_spellings(tmp_path: Path, spelling: str) -> None:
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    make = spelled(dotted) if spelling == "peft" else spelled(underscored("lora_unet"), KOHYA)
    state, expected = make(pipeline, torch.Generator().manual_seed(1))
    for up in [name for name in state if name.endswith(("lora_B.weight", "lora_up.weight"))]:
        magnitude = torch.arange(1.0, state[up].shape[0] + 1)
        layer = up.rpartition(".lora_")[0]
        state |= (
            {f"{layer}.lora_magnitude_vector": magnitude}
            if spelling == "peft"
            else {f"{layer}.dora_scale": magnitude[:, None]}
        )

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert_equal(found, expected)
    assert warnings == []
    for layer in expected:
        held = pipeline.components[layer.split(".")[0]].get_submodule(layer.partition(".")[2]).lora_magnitude_vector
        assert torch.equal(held["lora_0"].weight, torch.arange(1.0, expected[layer].shape[0] + 1))


def test_dora_that_lacks_a_magnitude_is_refused_by_the_name_of_the_layer(tmp_path: Path) -> None:
    pipeline, state, expected = made("flux peft")
    first, *others = [layer for layer in expected if layer.startswith("transformer.")]
    for layer in others:
        state[f"{layer}.lora_magnitude_vector"] = torch.ones(expected[layer].shape[0])

    with pytest.raises(BadLora, match=rf"magnitudes for some layers of transformer, but not for {first}\."):
        wear(pipeline, save(tmp_path, state))


def test_two_adapters_in_one_file_are_refused_by_their_names(tmp_path: Path) -> None:
    pipeline, state, _ = made("flux named adapter")
    state |= {name.replace("my-style", "other"): tensor for name, tensor in state.items()}

    with pytest.raises(BadLora, match="holds several adapters: my-style, other"):
        wear(pipeline, save(tmp_path, state))


def test_a_convolution_of_one_pixel_fits_a_linear_layer(tmp_path: Path) -> None:
    pipeline, state, expected = made("sd kohya")
    wide = {name: tensor[:, :, None, None] if tensor.ndim == 2 else tensor for name, tensor in state.items()}

    found, _ = wear(pipeline, save(tmp_path, wide))

    assert_equal(found, expected)


def test_a_layer_without_alpha_beside_others_is_named(tmp_path: Path) -> None:
    pipeline, state, _ = made("sd kohya")
    alpha = min(name for name in state if name.endswith(".alpha"))
    del state[alpha]

    _, warnings = wear(pipeline, save(tmp_path, state))

    assert warnings == [
        f"The LoRA x has no alpha for 1 of its layers, which are used unscaled: {alpha.removesuffix('.alpha')}."
    ]


def test_floats_of_8_bits_are_worn(tmp_path: Path) -> None:
    pipeline, state, _ = made("wan original")
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}

    found, warnings = wear(pipeline, save(tmp_path, small))

    assert warnings == []
    assert len(found) == len(state) // 2
    assert all(delta.any() for delta in found.values())


def test_a_conversion_that_fails_half_way_leaves_the_values_of_the_file() -> None:
    """Some conversions of diffusers scale a tensor in place, and another is tried when one fails."""
    tensor = traced(torch.ones(2), "x.lora_A.weight")
    converted = {"y": tensor}

    converted["y"] *= 3

    assert plain(tensor).tolist() == [1.0, 1.0]
    assert plain(converted["y"]).tolist() == [3.0, 3.0]
    assert sources_of(converted["y"]) == {"x.lora_A.weight"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_lora_is_worn_at_the_precision_of_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    pipeline, state, expected = made("sd kohya")
    pipeline.to(dtype=dtype)

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert warnings == []
    assert all(delta.dtype == dtype for delta in found.values())
    for layer, delta in expected.items():
        assert torch.allclose(found[layer].float(), delta, atol=0.05), layer


def test_a_lora_of_whole_numbers_is_refused_by_the_tensor(tmp_path: Path) -> None:
    pipeline, state, _ = made("flux peft")
    name = min(state)

    with pytest.raises(BadLora, match=f"{name} holds whole numbers"):
        wear(pipeline, save(tmp_path, state | {name: state[name].to(torch.int8)}))


def test_a_model_with_two_denoisers_says_which_of_them_wears_a_lora(tmp_path: Path) -> None:
    pipeline, state, expected = made("wan original")
    pipeline.transformer_2 = FAMILIES["WanPipeline"].build().transformer

    found, warnings = wear(pipeline, save(tmp_path, state))

    assert_equal(found, expected)
    assert warnings == ["The LoRA x is worn by the first of this model's two denoisers only."]
