"""Weighted words and long prompts: CLIP families read them whole, others warn; plain prompts go to the stock call."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import ProcessorMixin

from benchmarks.families import FAMILIES as ALL
from benchmarks.families import parts
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.prompt_weights import fragments
from pipelines.diffusion.prompts import CompatibleClip, read_prompts
from pipelines.interface import Failed
from tests.support.lanes.lane_play import direct, ends, gap, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.slow

LONG = "a red circle, " * 20  # the tests' tokenizer takes a token for each letter
MERGED = 1e-4
OUTDATED = pytest.mark.filterwarnings("ignore:The configuration file of this scheduler")


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
        ("(a (red:1.5) circle:0.5)", [("a ", 0.5), ("red", 0.75), (" circle", 0.5)]),
        ("(a) (b:2)", [("(a) ", 1.0), ("b", 2.0)]),
        ("in (brackets) at 12:30) and \\(so on\\)", [("in (brackets) at 12:30) and \\(so on\\)", 1.0)]),
        ("\\(x\\) (y:0.5)", [("(x) ", 1.0), ("y", 0.5)]),
        ("((red:1.2)", [("(", 1.0), ("red", 1.2)]),
        ("(red:x) (blue: .5 )", [("(red:x) ", 1.0), ("blue", 0.5)]),
        ("a (red:1) circle", [("a red circle", 1.0)]),
        ("", []),
    ],
)
def test_only_an_explicit_number_is_a_weight(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = [(piece.text, piece.weight) for piece in fragments(prompt) if piece.text]

    assert found == [(text, pytest.approx(weight)) for text, weight in pieces]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_plain_prompt_gives_what_the_stock_call_gives_bit_for_bit(family: str) -> None:
    one = request(FAMILIES[family], "a", prompt="a (red) circle", negative_prompt="blurred")
    lane = DiffusionLane(FAMILIES[family].build(), kind="image")

    done = rendered(lane, [one])["a"]

    assert gap(done.frames, direct(FAMILIES[family].build(), one)) == 0.0
    assert done.warnings == ()


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        *(
            pytest.param(name, marks=OUTDATED)
            for name in (
                "StableDiffusionPAGPipeline",
                "StableDiffusionXLPAGPipeline",
                "LatentConsistencyModelPipeline",
                "AnimateDiffPipeline",
            )
        ),
    ],
)
def test_a_weight_changes_the_output_and_a_weight_of_one_does_not(name: str) -> None:
    family = ALL[name]
    ask = functools.partial(request, family, seed=3)
    lane = DiffusionLane(family.build(), kind=family.kind)
    requests = [
        ask("plain", prompt="a red circle"),
        ask("one", prompt="a (red:1.0) circle"),
        ask("more", prompt="a (red:1.4) circle"),
        ask("less", prompt="a (red:0.5) circle"),
        ask("long", prompt=LONG),
        ask("short", prompt=LONG[:70]),
    ]
    if family.takes_negative:
        requests.append(ask("negative", prompt="a red circle", negative_prompt="(blurred:1.4)"))

    done = {each.id: rendered(lane, [each])[each.id] for each in requests}

    assert gap(done["plain"].frames, done["one"].frames) == 0.0
    for other in done.keys() - {"plain", "one", "short", "long"}:
        assert gap(done["plain"].frames, done[other].frames) > MERGED, other
    assert gap(done["short"].frames, done["long"].frames) > MERGED, "the tokens beyond CLIP's 77 are read"
    assert [end.warnings for name, end in done.items() if name != "long"] == [()] * (len(done) - 1)
    (warning,) = done["long"].warnings
    assert warning == f"The prompt has {20 * 11} tokens, 75 are read at once: it was read in parts."
    lane.close()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_degenerate_groups_are_read_as_what_they_hold(family: str) -> None:
    ask = functools.partial(request, FAMILIES[family], steps=1)
    lane = DiffusionLane(FAMILIES[family].build(), kind="image")
    requests = [
        ask("empty", prompt=""),
        ask("group", prompt="(:1.2)"),
        ask("groups", prompt="(:1.2)(:1.3)"),
        ask("negative", prompt="", negative_prompt="((:1.2):0.5)"),
        ask("no negative", prompt="", negative_prompt=""),
        ask("spaces", prompt="( :0.5)( :1.5)"),
        ask("nothing of it", prompt="(a:0)"),
        ask("most", prompt="(a:1000) (b:0.5) ( :0.1)"),
    ]

    done = {each.id: rendered(lane, [each])[each.id] for each in requests}

    for name in ("group", "groups"):
        assert gap(done["empty"].frames, done[name].frames) == 0.0, name
    assert gap(done["no negative"].frames, done["negative"].frames) == 0.0
    assert gap(done["empty"].frames, done["spaces"].frames) <= MERGED
    lane.close()


@pytest.mark.parametrize("prompt", ["(a:1001)", "((a:40):40)", "(a:" + "9" * 400 + ")"])
def test_a_weight_that_would_overflow_is_refused_by_name(prompt: str) -> None:
    lane = DiffusionLane(FAMILIES["sd15"].build(), kind="image")
    lane.admit(request(FAMILIES["sd15"], "a", negative_prompt=prompt))
    end = ends(play(lane))["a"]

    assert isinstance(end, Failed)
    assert (end.code, end.message) == (
        "bad_request",
        "negative_prompt: the weight of a group must be at most 1000, nested ones multiplied.",
    )
    lane.close()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_jobs_with_weights_and_long_prompts_share_forwards_and_give_what_they_give_alone(family: str) -> None:
    ask = functools.partial(request, FAMILIES[family])
    four = [
        ask("a", prompt="a (red:1.4) circle", seed=1),
        ask("b", prompt="a (green:0.7) star", seed=2, steps=4),
        ask("c", prompt=LONG, negative_prompt="blurred", seed=3),
        ask("d", prompt="a city", negative_prompt=LONG, seed=4),
    ]
    lane = DiffusionLane(FAMILIES[family].build(), kind="image")
    alone = {each.id: rendered(lane, [each])[each.id].frames for each in four}
    rendered(lane, four)

    done = rendered(lane, four)

    assert all(gap(done[name].frames, frames) <= MERGED for name, frames in alone.items())
    assert done["a"].batch_peak > 1
    lane.close()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_weight_close_to_one_gives_nearly_the_stock_embeddings(family: str) -> None:
    """compel embeds a text in one piece as the pipeline does, so only the weight makes a difference."""
    pipeline = FAMILIES[family].build()
    vars(pipeline)["text_encoder"] = CompatibleClip(pipeline.text_encoder)
    with torch.no_grad():
        ours, _ = read_prompts(
            pipeline, {"prompt": "a (red:1.00001) circle", "negative_prompt": "blurred", "clip_skip": 1}
        )
        stock = pipeline.encode_prompt(
            "a red circle", device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=True,
            negative_prompt="blurred", clip_skip=1,
        )  # fmt: skip

    assert "prompt" not in ours
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    for name, wanted in zip(names, stock, strict=False):
        assert ours[name].shape == wanted.shape
        assert float((ours[name] - wanted).abs().max()) < 1e-3, name


def test_jobs_with_different_clip_skips_at_once_each_give_what_diffusers_gives() -> None:
    ask = functools.partial(request, FAMILIES["sd15"])
    lane = DiffusionLane(FAMILIES["sd15"].build(), kind="image")
    layers = lane.pipeline.text_encoder.config.num_hidden_layers
    assert layers >= 2
    requests = [ask("plain"), ask("one", clip_skip=1), ask("two", clip_skip=2), ask("also one", clip_skip=1, seed=9)]
    rendered(lane, requests)

    done = rendered(lane, requests)

    for wanted in requests:
        pipeline = FAMILIES["sd15"].build()
        vars(pipeline)["text_encoder"] = CompatibleClip(pipeline.text_encoder)  # otherwise the stock call fails
        skipping = functools.partial(type(pipeline).__call__, pipeline, clip_skip=wanted.clip_skip)
        stock = skipping(
            wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance_scale, generator=torch.Generator("cpu").manual_seed(wanted.seed),
            output_type="np",
        ).images  # fmt: skip
        assert gap(done[wanted.id].frames, stock) <= MERGED, wanted.id
    assert gap(done["plain"].frames, done["one"].frames) > MERGED
    lane.close()


def test_tokens_are_counted_by_the_tokenizer_of_a_multimodal_processor() -> None:
    class Multimodal(ProcessorMixin):
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __call__(self, images: Any = None, text: Any = None) -> Any:
            raise AssertionError("the first argument of a processor is a picture")

    class Flux2Like:
        tokenizer = text_encoder = None

        def __call__(self, prompt: str, max_sequence_length: int = 16) -> None: ...

    pipeline = Flux2Like()
    pipeline.__dict__ |= {"tokenizer": Multimodal(parts.llama_tokenizer()), "text_encoder": torch.nn.Identity()}
    _, warnings = read_prompts(pipeline, {"prompt": LONG})

    assert warnings[0].endswith("tokens, this model reads 16: the end was cut off.")


@pytest.mark.parametrize("family", ["pixart", "flux", "wan"])
def test_a_prompt_that_is_cut_off_gives_a_warning(family: str) -> None:
    chosen = FAMILIES[family]
    call = {**chosen.call, "max_sequence_length": 16}
    lane = DiffusionLane(chosen.build(), kind=chosen.kind)
    short, cut = (
        request(chosen, "s", prompt="a cat", call=call),
        request(chosen, "c", prompt="(a:1.5) " + LONG, call=call),
    )

    done = rendered(lane, [short, cut])

    assert done["s"].warnings == ()
    weights, lost = done["c"].warnings
    assert weights == "This model reads no weights: the prompt was passed on unchanged."
    assert lost.endswith("tokens, this model reads 16: the end was cut off.")
    lane.close()
