"""Of each shape of repository exactly the files that a loader reads are downloaded. The hub is a fake; no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.checkpoint.read_checkpoint import check_configs
from models.errors import BadModel, FetchFailed
from models.sources.hub_cache import find_in_cache
from models.sources.hub_id import HubId
from tests.support import hub_repositories as shapes
from tests.support.hub_client import hub_client, in_snapshot

CLIP = [f"tokenizer/{name}" for name in shapes.CLIP_TOKENIZER]
CLIP_2 = [f"tokenizer_2/{name}" for name in shapes.CLIP_TOKENIZER]


def part(name: str, *files: str) -> list[str]:
    return [f"{name}/{file}" for file in ("config.json", *files)]


SCHEDULER = ["model_index.json", "scheduler/scheduler_config.json"]
VAE = part("vae", "diffusion_pytorch_model.safetensors")
WANTED = {
    "sd15": [
        *SCHEDULER, *CLIP, *VAE, "feature_extractor/preprocessor_config.json",
        *part("safety_checker", "model.safetensors"), *part("text_encoder", "model.safetensors"),
        *part("unet", "diffusion_pytorch_model.safetensors"),
    ],
    "sdxl_base": [
        *SCHEDULER, *CLIP, *CLIP_2, *VAE, *part("unet", "diffusion_pytorch_model.safetensors"),
        *part("text_encoder", "model.safetensors"), *part("text_encoder_2", "model.safetensors"),
    ],
    "sd35_large": [
        *SCHEDULER, *CLIP, *CLIP_2, *VAE, *(f"tokenizer_3/{name}" for name in shapes.T5_TOKENIZER),
        *part("text_encoder", "model.safetensors"), *part("text_encoder_2", "model.safetensors"),
        *part("text_encoder_3", *shapes.shards("model", 2)),
        *part("transformer", *shapes.shards("diffusion_pytorch_model", 2)),
    ],
    "flux": [
        *SCHEDULER, *CLIP, *VAE, *(f"tokenizer_2/{name}" for name in shapes.T5_TOKENIZER),
        *part("text_encoder", "model.safetensors"), *part("text_encoder_2", *shapes.shards("model", 2)),
        *part("transformer", *shapes.shards("diffusion_pytorch_model", 3)),
    ],
    "wan22": [
        *SCHEDULER, *VAE, *(f"tokenizer/{name}" for name in shapes.T5_TOKENIZER),
        *part("text_encoder", *shapes.shards("model", 3)),
        *part("transformer", *shapes.shards("diffusion_pytorch_model", 12)),
        *part("transformer_2", *shapes.shards("diffusion_pytorch_model", 12)),
    ],
    "qwen3": [
        "config.json", "generation_config.json", "merges.txt", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "vocab.json",
    ],
    "sentence_bert": [
        "config.json", "config_sentence_transformers.json", "data_config.json", "model.safetensors", "modules.json",
        "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    ],
    "mistral": [
        "config.json", "generation_config.json", *shapes.shards("model", 3), "params.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ],
}  # fmt: skip


@pytest.mark.parametrize("shape", WANTED)
def test_only_the_files_that_are_read_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    repo = getattr(shapes, shape)()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        client.hub.page_size = 7  # the list of files comes in several pages
        fetched = client.pull("owner/name", check=check_configs)

        assert in_snapshot(fetched) == sorted(WANTED[shape])
        assert sorted(client.hub.resolved()) == sorted(WANTED[shape]), "nothing else was asked for"
        assert find_in_cache(HubId("owner/name", None, None)) == fetched.path
        need_bytes, free_bytes = client.sizes[0]
        assert 0 < need_bytes <= sum(len(repo[name]) for name in WANTED[shape]) < free_bytes
        assert client.progress[-1][1:] == (client.progress[-1][2],) * 2
        n_requests = len(client.hub.requests)
        assert client.pull("owner/name").path == fetched.path
        assert all("/resolve/" not in path for path, _, _ in client.hub.requests[n_requests:])


def test_a_sharded_language_model_is_downloaded_with_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": shapes.qwen3(5)}) as client:
        names = in_snapshot(client.pull("owner/name", check=check_configs))

    assert [name for name in names if name.startswith("model")] == sorted(shapes.shards("model", 5))


def test_a_variant_is_downloaded_where_a_component_has_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = {
        name: data for name, data in shapes.sdxl_base().items() if name != "unet/diffusion_pytorch_model.safetensors"
    }
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        names = in_snapshot(client.pull("owner/name"))

    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "vae/diffusion_pytorch_model.safetensors" in names
    assert "vae/diffusion_pytorch_model.fp16.safetensors" not in names


def test_one_of_several_single_files_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = shapes.qwen3_gguf()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        with pytest.raises(BadModel) as raised:
            client.pull("owner/name")
        fetched = client.pull("owner/name:Qwen3-8B-Q5_0.gguf")

    for name in repo:
        assert (f"owner/name:{name} ({len(repo[name])} B)" in raised.value.message) == name.endswith(".gguf")
    assert fetched.path.read_bytes() == repo["Qwen3-8B-Q5_0.gguf"]
    assert client.hub.resolved() == ["Qwen3-8B-Q5_0.gguf"]


def test_the_only_single_file_is_taken_and_becomes_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = shapes.fill(["README.md", "realistic v6 (пример).safetensors", "preview.png"], {})
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        fetched = client.pull("owner/name")

    assert fetched.source == "owner/name:realistic v6 (пример).safetensors"
    assert fetched.path.read_bytes() == repo["realistic v6 (пример).safetensors"]
    assert find_in_cache(HubId("owner/name", fetched.revision, "realistic v6 (пример).safetensors")) == fetched.path


@pytest.mark.parametrize(
    ("names", "source", "words"),
    [
        (["q4/x-00001-of-00002.gguf", "q4/x-00002-of-00002.gguf"], "owner/name", "only as split GGUF"),
        (["x-00001-of-00002.gguf"], "owner/name:x-00001-of-00002.gguf", "one part of a split GGUF"),
        (["pytorch_lora_weights.safetensors"], "owner/name", "is a LoRA"),
        (["pytorch_model.bin", "config.json"], "owner/name", "only as pickle (pytorch_model.bin)"),
        (["model.ckpt", "README.md"], "owner/name", "only as pickle (model.ckpt)"),
        (["README.md"], "owner/name", "has none of model_index.json"),
        (["config.json", "tokenizer.json"], "owner/name", "the weights"),
        (["a.safetensors"], "owner/name:b.safetensors", "has no file b.safetensors"),
    ],
)
def test_a_repository_without_readable_weights_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], source: str, words: str
) -> None:
    repos = {"owner/name": shapes.fill(names, {})}
    with hub_client(monkeypatch, tmp_path, repos) as client, pytest.raises((BadModel, FetchFailed)) as raised:
        client.pull(source)

    assert words in raised.value.message
    assert not [name for name in client.hub.resolved() if not name.endswith(".json")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "StableDiffusionAttendAndExcitePipeline"}, "needs token_indices besides a prompt"),
        ({"_class_name": "NoSuchPipeline"}, "needs the pipeline class NoSuchPipeline"),
        ({"unet": ["my_code", "MyUNet"]}, "wants code from another library"),
    ],
)
def test_a_pipeline_that_cannot_be_served_is_refused_before_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    repo = shapes.sdxl_base()
    repo["model_index.json"] = json.dumps({**json.loads(repo["model_index.json"]), **change}).encode()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client, pytest.raises(BadModel) as raised:
        client.pull("owner/name", check=check_configs)

    assert words in raised.value.message
    assert not [name for name in client.hub.resolved() if name.endswith(".safetensors")]


def test_code_and_pickles_in_a_component_are_refused_before_any_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    custom = shapes.qwen3() | {"config.json": b'{"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "x.X"}}'}
    pickled = {
        name: data for name, data in shapes.sd15().items() if not name.startswith("unet/diffusion_pytorch_model")
    }
    pickled["unet/diffusion_pytorch_model.bin"] = b"pickle"
    with hub_client(monkeypatch, tmp_path, {"owner/custom": custom, "owner/pickled": pickled}) as client:
        with pytest.raises(BadModel, match="asks to run code of its own"):
            client.pull("owner/custom", check=check_configs)
        with pytest.raises(BadModel, match=r"only as pickle \(diffusion_pytorch_model.bin\)"):
            client.pull("owner/pickled", check=check_configs)

    assert not [name for name in client.hub.resolved() if name.endswith((".safetensors", ".bin"))]


def test_a_component_alone_is_downloaded_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors"]
    repo = shapes.fill(names, {"config.json": {"_class_name": "AutoencoderKL"}})
    with hub_client(monkeypatch, tmp_path, {"owner/vae": repo}) as client:
        fetched = client.pull("owner/vae", check=check_configs)

    assert fetched.component == "AutoencoderKL"
    assert in_snapshot(fetched) == ["config.json", "diffusion_pytorch_model.safetensors"]
