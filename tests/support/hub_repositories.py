"""Repositories of the hub with the names of the files that the real ones hold, and contents of a few bytes.

Each function returns file name → bytes. Configs name the real classes; each weight file is a sound safetensors file
with one small tensor; the index of shards names the shards beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tests.support.checkpoints import safetensors_bytes

Files = dict[str, bytes]

WEIGHTS = "model.safetensors"
LARGE = safetensors_bytes({"weight": ("F16", [1 << 20], 2 << 20)})

CLIP_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
T5_TOKENIZER = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
BOTH_VARIANTS = ("config.json", "{}.safetensors", "{}.fp16.safetensors", "{}.bin", "{}.fp16.bin")
OTHER_FRAMEWORKS = ("flax_model.msgpack", "model.onnx", "model.onnx_data", "openvino_model.bin", "openvino_model.xml")


def sd15() -> Files:
    parts = {
        "feature_extractor": ("transformers", "CLIPImageProcessor", ["preprocessor_config.json"]),
        "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker", _both("model")),
        "scheduler": ("diffusers", "PNDMScheduler", ["scheduler_config.json"]),
        "text_encoder": ("transformers", "CLIPTextModel", _both("model")),
        "tokenizer": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "unet": ("diffusers", "UNet2DConditionModel", [
            *_both("diffusion_pytorch_model"),
            "diffusion_pytorch_model.non_ema.safetensors",
            "diffusion_pytorch_model.non_ema.bin",
        ]),
        "vae": ("diffusers", "AutoencoderKL", _both("diffusion_pytorch_model")),
    }  # fmt: skip
    beside = [".gitattributes", "README.md", "v1-inference.yaml"]
    beside += [f"v1-5-pruned{kind}.{suffix}" for kind in ("", "-emaonly") for suffix in ("safetensors", "ckpt")]
    return pipeline("StableDiffusionPipeline", parts, beside)


def sdxl_base() -> Files:
    encoder = ["config.json", "model.safetensors", "model.fp16.safetensors", *OTHER_FRAMEWORKS]
    denoiser = [*_both("diffusion_pytorch_model"), *OTHER_FRAMEWORKS]
    parts = {
        "scheduler": ("diffusers", "EulerDiscreteScheduler", ["scheduler_config.json"]),
        "text_encoder": ("transformers", "CLIPTextModel", encoder),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", encoder),
        "tokenizer": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "tokenizer_2": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "unet": ("diffusers", "UNet2DConditionModel", denoiser),
        "vae": ("diffusers", "AutoencoderKL", _both("diffusion_pytorch_model")),
    }
    beside = ["01.png", "LICENSE.md", "README.md", "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"]
    beside += ["sd_xl_offset_example-lora_1.0.safetensors", "vae_1_0/config.json"]
    beside += ["vae_1_0/diffusion_pytorch_model.safetensors", "vae_decoder/config.json", "vae_decoder/model.onnx"]
    return pipeline("StableDiffusionXLPipeline", parts, beside)


def sd35_large() -> Files:
    t5 = ["config.json", *shards("model", 2), *shards("model", 2, "fp16")]
    parts = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", ["scheduler_config.json"]),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection", _both("model")),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _both("model")),
        "text_encoder_3": ("transformers", "T5EncoderModel", t5),
        "tokenizer": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "tokenizer_2": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "tokenizer_3": ("transformers", "T5TokenizerFast", T5_TOKENIZER),
        "transformer": ("diffusers", "SD3Transformer2DModel", ["config.json", *shards("diffusion_pytorch_model", 2)]),
        "vae": ("diffusers", "AutoencoderKL", ["config.json", "diffusion_pytorch_model.safetensors"]),
    }
    beside = ["LICENSE.md", "README.md", "mmdit.png", "sd3.5_large.safetensors", "SD3.5L_example_workflow.json"]
    beside += [f"text_encoders/{name}.safetensors" for name in ("clip_g", "clip_l", "t5xxl_fp16", "t5xxl_fp8_e4m3fn")]
    nulls = {"feature_extractor": [None, None], "image_encoder": [None, None]}
    return pipeline("StableDiffusion3Pipeline", parts, beside, **nulls)


def flux(kind: str = "dev") -> Files:
    parts = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", ["scheduler_config.json"]),
        "text_encoder": ("transformers", "CLIPTextModel", ["config.json", "model.safetensors"]),
        "text_encoder_2": ("transformers", "T5EncoderModel", ["config.json", *shards("model", 2)]),
        "tokenizer": ("transformers", "CLIPTokenizer", CLIP_TOKENIZER),
        "tokenizer_2": ("transformers", "T5TokenizerFast", T5_TOKENIZER),
        "transformer": ("diffusers", "FluxTransformer2DModel", ["config.json", *shards("diffusion_pytorch_model", 3)]),
        "vae": ("diffusers", "AutoencoderKL", ["config.json", "diffusion_pytorch_model.safetensors"]),
    }
    beside = ["LICENSE.md", "README.md", f"{kind}_grid.jpg", "ae.safetensors", f"flux1-{kind}.safetensors"]
    return pipeline("FluxPipeline", parts, beside)


def wan22() -> Files:
    denoiser = ("diffusers", "WanTransformer3DModel", ["config.json", *shards("diffusion_pytorch_model", 12)])
    parts = {
        "scheduler": ("diffusers", "UniPCMultistepScheduler", ["scheduler_config.json"]),
        "text_encoder": ("transformers", "UMT5EncoderModel", ["config.json", *shards("model", 3)]),
        "tokenizer": ("transformers", "T5TokenizerFast", T5_TOKENIZER),
        "transformer": denoiser,
        "transformer_2": denoiser,
        "vae": ("diffusers", "AutoencoderKLWan", ["config.json", "diffusion_pytorch_model.safetensors"]),
    }
    beside = [".gitattributes", "README.md", "assets/logo.png", "assets/comp_effic.png", "examples/i2v_input.JPG"]
    return pipeline("WanPipeline", parts, beside, boundary_ratio=0.875)


def qwen3(n_shards: int = 0) -> Files:
    weights = shards("model", n_shards) if n_shards else ["model.safetensors"]
    names = [".gitattributes", "LICENSE", "README.md", "config.json", "generation_config.json", "merges.txt"]
    names += [*weights, "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    return language_model("Qwen3ForCausalLM", "qwen3", names)


def large_qwen3() -> Files:
    """A language model whose weights have two MiB: enough to break off in the middle."""
    return qwen3() | {WEIGHTS: LARGE}


def mistral() -> Files:
    """A language model with the same weights once more in the layout of its maker, and as pickles."""
    names = ["README.md", "config.json", "generation_config.json", *shards("model", 3), "consolidated.safetensors"]
    names += ["original/consolidated.00.pth", "original/params.json", "params.json", "pytorch_model.bin.index.json"]
    names += [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    names += ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"]
    return language_model("MistralForCausalLM", "mistral", names)


def sentence_bert() -> Files:
    """An embedding model with a layer after the pooling, and the same weights in other formats."""
    names = [".gitattributes", "README.md", "config.json", "config_sentence_transformers.json", "data_config.json"]
    names += ["model.safetensors", "pytorch_model.bin", "rust_model.ot", "tf_model.h5", "onnx/model.onnx"]
    names += ["modules.json", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json"]
    names += ["tokenizer_config.json", "vocab.txt", "1_Pooling/config.json", "2_Dense/config.json"]
    names += ["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"]
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    bert = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 2, "max_position_embeddings": 512}
    pooling = {"word_embedding_dimension": 2, "pooling_mode_mean_tokens": True}
    dense = {"in_features": 2, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    configs: dict[str, object] = {
        "config.json": bert,
        "modules.json": listed,
        "1_Pooling/config.json": pooling,
        "2_Dense/config.json": dense,
    }
    return fill(names, configs)


def qwen3_gguf() -> Files:
    kinds = ("Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")
    return fill(["LICENSE", "README.md", "params", *(f"Qwen3-8B-{kind}.gguf" for kind in kinds)], {})


def pipeline(
    class_name: str, parts: dict[str, tuple[str, str, Iterable[str]]], beside: Iterable[str] = (), **index: object
) -> Files:
    """parts: component → (library, class, names of the files in its folder). beside: other files."""
    listed = {part: [library, cls] for part, (library, cls, _) in parts.items()}
    names = [f"{part}/{name}" for part, (_, _, files) in parts.items() for name in files]
    configs: dict[str, object] = {
        f"{part}/config.json": {
            "_name_or_path": part,  # no two files have the same bytes, which would be downloaded once
            **({"_class_name": cls} if library == "diffusers" else {"architectures": [cls]}),
        }
        for part, (library, cls, _) in parts.items()
    }
    configs["model_index.json"] = {"_class_name": class_name, "_diffusers_version": "0.30.0", **listed, **index}
    return fill([*names, *beside, "model_index.json"], configs)


def language_model(class_name: str, model_type: str, names: Iterable[str]) -> Files:
    return fill(names, {"config.json": {"architectures": [class_name], "model_type": model_type}})


def fill(names: Iterable[str], configs: dict[str, object]) -> Files:
    """Returns contents for the names: those of `configs`, sound weights and indexes, and something for the rest."""
    names = [*names]
    return {name: _content(name, names, configs) for name in names}


def _content(name: str, names: list[str], configs: dict[str, object]) -> bytes:
    if name in configs:
        return json.dumps(configs[name]).encode()
    if match := re.fullmatch(r"(?P<stem>.*)\.safetensors\.index(?P<variant>\.\w+)?\.json", name):
        shard = re.compile(rf"{re.escape(match['stem'] + (match['variant'] or ''))}-\d{{5}}-of-\d{{5}}\.safetensors")
        found = [other.rpartition("/")[2] for other in names if shard.fullmatch(other)]
        weight_map = {f"layer.{index}": shard_name for index, shard_name in enumerate(found)}
        return json.dumps({"metadata": {"total_size": 16 * len(found), "of": name}, "weight_map": weight_map}).encode()
    if name.endswith(".safetensors"):
        return safetensors_bytes({"weight": ("F16", [4, 2], 16)}, __metadata__={"name": name})
    return json.dumps({"of": name}).encode() if name.endswith(".json") else f"content of {name}".encode()


def shards(stem: str, n: int, variant: str = "") -> list[str]:
    """Returns the names of `n` shards and of their index."""
    dotted = f".{variant}" if variant else ""
    names = [f"{stem}{dotted}-{k:05}-of-{n:05}.safetensors" for k in range(1, n + 1)]
    return [*names, f"{stem}.safetensors.index{dotted}.json"]


def _both(stem: str) -> list[str]:
    pickles = "pytorch_model" if stem == "model" else stem
    return [name.format(pickles if name.endswith(".bin") else stem) for name in BOTH_VARIANTS]
