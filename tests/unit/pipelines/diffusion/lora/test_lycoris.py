"""LoHa and LoKr equal their differences added to the weights, also next to LoRAs; other formats are refused by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import BadModel
from models.lora_files import LoraFolder, refusal
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.lora.adapters import Adapters, BadLora
from pipelines.diffusion.lora.lycoris import as_lora
from pipelines.diffusion_interface import DiffusionRequest, Lora
from tests.support.lanes.lane_play import direct, gap, rendered, request
from tests.support.lanes.loras import make_lora
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.slow

SD = FAMILIES["sd15"]
ask = functools.partial(request, SD)
MERGED = 1e-4
Parts = dict[str, torch.Tensor]
Delta = torch.Tensor


def loha(shape: tuple[int, ...], draw: Callable[..., torch.Tensor]) -> tuple[Parts, Delta]:
    """Weights as LyCORIS saves them, and the difference that they stand for by LyCORIS' own formula."""
    rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
    a1, b1, a2, b2 = draw(rows, 2), draw(2, columns), draw(rows, 2), draw(2, columns)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(3.0)}
    return parts, ((a1 @ b1) * (a2 @ b2)).reshape(shape) * 3.0 / 2


def loha_with_cores(shape: tuple[int, ...], draw: Callable[..., torch.Tensor]) -> tuple[Parts, Delta]:
    """Convolutions get a core between the halves of each factor; other layers are as without."""
    if len(shape) == 2:
        return loha(shape, draw)
    parts: Parts = {"alpha": torch.tensor(3.0)}
    factors = []
    for number in (1, 2):
        a, b, core = draw(2, shape[0]), draw(2, shape[1]), 9 * draw(2, 2, *shape[2:])
        parts |= {f"hada_w{number}_a": a, f"hada_w{number}_b": b, f"hada_t{number}": core}
        factors.append(torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    return parts, factors[0] * factors[1] * 3.0 / 2


def locon_with_core(shape: tuple[int, ...], draw: Callable[..., torch.Tensor]) -> tuple[Parts, Delta]:
    """kohya's LoRA of a convolution in three parts: 1 × 1, the kernel, 1 × 1."""
    if len(shape) == 2:
        up, down = draw(shape[0], 2), draw(2, shape[1])
        return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(3.0)}, up @ down * 3.0 / 2
    up, down, core = draw(shape[0], 2, 1, 1), draw(2, shape[1], 1, 1), draw(2, 2, *shape[2:])
    parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": core, "alpha": torch.tensor(3.0)}
    return parts, torch.einsum("oi,ijkl,jn->onkl", up.flatten(1), core, down.flatten(1)) * 3.0 / 2


def lokr_with_core(shape: tuple[int, ...], draw: Callable[..., torch.Tensor]) -> tuple[Parts, Delta]:
    if len(shape) == 2:
        return lokr(shape, draw, low=True)
    w1, a, b, core = draw(2, 2), draw(3, shape[0] // 2), draw(3, shape[1] // 2), draw(3, 3, *shape[2:])
    parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": core, "alpha": torch.tensor(6.0)}
    w2 = torch.einsum("ijkl,ip,jr->prkl", core, a, b).contiguous()
    return parts, torch.kron(w1.reshape(2, 2, 1, 1), w2) * 2.0


def lokr(shape: tuple[int, ...], draw: Callable[..., torch.Tensor], *, low: bool) -> tuple[Parts, Delta]:
    w1 = draw(2, 2)
    inner = (shape[0] // 2, shape[1] // 2, *shape[2:])
    columns = int(torch.Size(inner[1:]).numel())
    if low:
        a, b = draw(inner[0], 3), draw(3, columns)
        parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(6.0)}
        w2, scale = (a @ b).reshape(inner), 2.0
    else:
        w2 = draw(*inner)
        parts, scale = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(6.0)}, 1.0
    return parts, torch.kron(w1.reshape(2, 2, *(1 for _ in shape[2:])), w2) * scale


KINDS: dict[str, Callable[..., tuple[Parts, Delta]]] = {
    "loha": loha,
    "loha with cores": loha_with_cores,
    "locon with core": locon_with_core,
    "lokr with core": lokr_with_core,
    "lokr of low rank": functools.partial(lokr, low=True),
    "lokr whole": functools.partial(lokr, low=False),
}


def chosen(pipeline: Any) -> dict[str, Any]:
    """Some of the modules that LyCORIS trains: linear layers, convolutions, and layers of the text encoder."""
    wanted = ("attn1.to_q", "attn2.to_v", "ff.net.2", "proj_in", "resnets.0.conv1")
    found = {
        f"lora_unet_{name.replace('.', '_')}": module
        for name, module in pipeline.unet.named_modules()
        if name.endswith(wanted)
    }
    attention = pipeline.text_encoder.encoder.layers[0].self_attn
    for name in ("q_proj", "out_proj"):
        found[f"lora_te_text_model_encoder_layers_0_self_attn_{name}"] = getattr(attention, name)
    return found


def make(folder: Path, kind: str) -> tuple[Lora, dict[str, Delta]]:
    generator = torch.Generator().manual_seed(5)
    state: Parts = {}
    deltas: dict[str, Delta] = {}
    for name, module in chosen(SD.build()).items():
        parts, deltas[name] = KINDS[kind](
            tuple(module.weight.shape), lambda *shape: torch.randn(*shape, generator=generator) * 0.2
        )
        state |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    path = folder / f"{kind.replace(' ', '-')}.safetensors"
    save_file(state, path)
    return Lora(kind, str(path), 0.7), deltas


def added(wanted: DiffusionRequest, deltas: dict[str, Delta], *, lora: Lora | None = None) -> Any:
    """The stock pipeline with the differences added to its weights."""
    pipeline = SD.build()
    with torch.no_grad():
        for name, module in chosen(pipeline).items():
            module.weight += 0.7 * deltas[name]
    if lora is not None:
        path = Path(lora.path)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="second")
        pipeline.set_adapters(["second"], [lora.weight])
    return direct(pipeline, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_equals_its_difference_added_to_the_weights(tmp_path: Path, kind: str) -> None:
    adapter, deltas = make(tmp_path, kind)
    lane = DiffusionLane(SD.build(), kind="image")

    done = rendered(lane, [ask("with", loras=(adapter,)), ask("without")])

    assert gap(done["with"].frames, added(ask("with"), deltas)) <= MERGED
    assert gap(done["with"].frames, done["without"].frames) > 100 * MERGED
    assert gap(done["without"].frames, direct(SD.build(), ask("without"))) <= MERGED
    lane.close()


def test_an_adapter_can_be_combined_with_a_lora(tmp_path: Path) -> None:
    (adapter, deltas), ink = make(tmp_path, "loha"), make_lora(tmp_path, "ink", 1)
    lane = DiffusionLane(SD.build(), kind="image")

    done = rendered(lane, [ask("both", loras=(adapter, ink)), ask("one", loras=(adapter,))])

    assert gap(done["both"].frames, added(ask("both"), deltas, lora=ink)) <= MERGED
    assert gap(done["one"].frames, added(ask("one"), deltas)) <= MERGED
    lane.close()


def test_the_rank_is_the_smallest_that_is_exact() -> None:
    draw = torch.randn
    parts = {"m.lokr_w1": draw(2, 4), "m.lokr_w2_a": draw(8, 3), "m.lokr_w2_b": draw(3, 16)}
    whole = {"m.lokr_w1": draw(2, 4), "m.lokr_w2": draw(8, 16)}
    pairs = {"m.hada_w1_a": draw(8, 2), "m.hada_w1_b": draw(2, 9), "m.hada_w2_a": draw(8, 5), "m.hada_w2_b": draw(5, 9)}

    assert as_lora(parts, {})["m.lora_down.weight"].shape == (6, 64)
    assert as_lora(whole, {})["m.lora_down.weight"].shape == (16, 64)
    assert as_lora(pairs, {})["m.lora_down.weight"].shape == (10, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_a_factor_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    adapter, _ = make(tmp_path, kind)
    state = load_file(adapter.path)
    factors = sorted(name for name in state if not name.endswith(("alpha", "_t1", "_t2", "lora_mid.weight")))
    for number, missing in enumerate(factors[::5]):
        damaged = {name: tensor for name, tensor in state.items() if name != missing}
        save_file(damaged, tmp_path / f"{number}.safetensors")

        with pytest.raises(BadLora, match=rf"(has no|without).*{missing.split('.', 1)[1].rstrip('12_ab')}"):
            Adapters(SD.build()).load((Lora("x", str(tmp_path / f"{number}.safetensors"), 1.0),))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (["a.lora_down.weight", "a.lora_up.weight", "a.alpha"], None),
        (["transformer.a.lora_A.weight", "transformer.a.lora_B.weight"], None),
        (["unet.a.lora.down.weight"], None),
        (["a.lora_A.weight", "norm.diff", "norm.diff_b"], None),
        (["a.lora_A.weight", "a.dora_scale"], None),
        (["a.hada_w1_a", "a.hada_w1_b", "a.hada_w2_a", "a.hada_w2_b"], None),
        (["diffusion_model.a.lokr_w1", "diffusion_model.a.lokr_w2"], None),
        (["a.hada_w1_a", "a.hada_t1"], None),
        (["a.lokr_w1", "a.lokr_t2"], None),
        (["a.lora_down.weight", "bundle_emb.cat.string_to_param.*"], None),
        (["a.lora_A.weight", "a.query_norm.scale"], "a Control LoRA"),
        (["lora_controlnet", "a.up"], "a Control LoRA"),
        (["a.hada_w1_a", "a.dora_scale"], "with DoRA's magnitudes"),
        (["a.oft_blocks"], "an OFT or BOFT"),
        (["a.oft_diag"], "an OFT or BOFT"),
        (["a.on_input", "a.weight"], "an (IA)³"),
        (["a.a1.weight", "a.a2.weight", "a.b1.weight"], "a GLoRA"),
        (["a.diff", "a.diff_b"], "a full difference"),
        (["a.boft_R"], "of a method that diffusers does not load"),
        (["emb_params"], "a textual inversion"),
        (["model.weight"], "no LoRA"),
        ([], "no LoRA"),
    ],
)
def test_the_format_of_a_file_is_recognized_by_the_names_of_its_tensors(tensors: list[str], says: str | None) -> None:
    reason = refusal(tensors)

    assert (reason is None) if says is None else says in str(reason)


def test_an_unsupported_format_is_refused_by_its_name(tmp_path: Path) -> None:
    save_file({"lora_unet_x.oft_blocks": torch.zeros(2, 2)}, tmp_path / "turn.safetensors")

    with pytest.raises(BadModel, match="turn is an OFT or BOFT; LoRA, LoHa and LoKr are served"):
        LoraFolder(tmp_path).find("turn")
