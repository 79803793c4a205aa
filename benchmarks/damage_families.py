"""The ten sound checkpoints that are damaged: nine layouts of pipelines and language models, built once as files.

No tensor in them is constant, and none holds a 0 or a 1: a parameter that a library initialized itself can then be
recognized by its values, whatever its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from benchmarks.damage_configs import CONFIG
from benchmarks.damage_copy import Edit
from benchmarks.damage_gguf import GGUF, write_gguf
from benchmarks.damage_names import INDEX
from benchmarks.damage_tokenizers import TOKENIZER
from benchmarks.damage_weights import HEADER, TENSOR
from benchmarks.families import FAMILIES, Family
from tests.support.lanes.original_layout import write_whole_file
from tests.support.lanes.tiny_chat import TEMPLATE, tiny_model, tiny_tokenizer

EDITS: dict[str, tuple[Edit, ...]] = {
    "header": HEADER,
    "index": INDEX,
    "tensor": TENSOR,
    "config": CONFIG,
    "tokenizer": TOKENIZER,
}
NOISE = 0.01  # of the values that are added to every tensor
QWEN2_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """One checkpoint: how it is written into a folder, which file of it is the source, and what may be damaged."""

    name: str
    write: Callable[[Path], None]
    family: Family | None  # None: a language model
    source: str = "."  # a file or folder in the checkpoint's folder
    base: str | None = None  # the folder that lends a single file its configs
    edits: Callable[[], dict[str, tuple[Edit, ...]]] = lambda: EDITS

    @property
    def kind(self) -> Literal["image", "video", "chat"]:
        return "chat" if self.family is None else self.family.kind

    def entry(self, folder: str) -> dict[str, Any]:
        """Returns its entry in models.toml, given the folder that it or a copy of it was written to."""
        base = {"load": {"base": f"{folder}/{self.base}"}} if self.base else {}
        call = {"call": dict(self.family.call)} if self.family is not None and self.family.call else {}
        return {"source": f"{folder}/{self.source}", **base, **call}


@torch.no_grad()
def unlike_any_other(module: torch.nn.Module) -> None:
    """Adds noise to every parameter and to every buffer that is saved."""
    generator = torch.Generator().manual_seed(0)
    for tensor in {id(t): t for t in module.state_dict(keep_vars=True).values()}.values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * NOISE)


def _pipeline(class_name: str, *, shard: str = "10GB", published: bool = False) -> Sound:
    family = FAMILIES[class_name]

    def write(folder: Path) -> None:
        pipeline = family.build()
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                unlike_any_other(part)
        pipeline.save_pretrained(folder, max_shard_size=shard)
        if published:
            for tokenizer in folder.glob("tokenizer*"):
                _as_vocabulary(tokenizer)

    return Sound(class_name.removesuffix("Pipeline"), write, family)


def _as_vocabulary(folder: Path) -> None:
    """Writes the tokenizer of CLIP as it was published: vocab.json and merges.txt, here with one merge."""
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words["re"] = words.pop("9")
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    (folder / "tokenizer.json").unlink()


def _write_single_file(folder: Path) -> None:
    """Writes the file of SD 1.5 that people share, and beside it the folder that lends it configs and tokenizer."""
    base = folder / "base"
    _pipeline("StableDiffusionPipeline").write(base)
    write_whole_file(base, folder / "model.safetensors")
    for weights in base.rglob("*.safetensors"):
        weights.unlink()


def _write_chat(folder: Path) -> None:
    model = tiny_model()
    unlike_any_other(model)
    model.save_pretrained(folder, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(folder)


def _write_chat_gguf(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = Qwen2ForCausalLM(_qwen2(len(tokenizer))).eval()
    unlike_any_other(model)
    tensors = {_name_in_gguf(name): tensor.numpy() for name, tensor in model.state_dict().items()}
    write_gguf(folder / "model.gguf", _metadata(model.config, tokenizer), tensors)


def _qwen2(n_words: int) -> Qwen2Config:
    torch.manual_seed(0)
    return Qwen2Config(
        vocab_size=n_words,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )


def _name_in_gguf(name: str) -> str:
    found = name.replace("model.layers.", "blk.")
    for ours, theirs in QWEN2_NAMES.items():
        found = found.replace(f"{ours}.", f"{theirs}.")
    return found


def _metadata(config: Qwen2Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    words[words.index("~")] = "re"  # for the one merge
    return {
        "general.architecture": "qwen2",
        "general.name": "tiny",
        "qwen2.block_count": config.num_hidden_layers,
        "qwen2.context_length": config.max_position_embeddings,
        "qwen2.embedding_length": config.hidden_size,
        "qwen2.feed_forward_length": config.intermediate_size,
        "qwen2.attention.head_count": config.num_attention_heads,
        "qwen2.attention.head_count_kv": config.num_key_value_heads,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen2.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3 if number < 3 else 1 for number in range(len(words))],
        "tokenizer.ggml.merges": ["r e"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }


SOUND = (
    _pipeline("StableDiffusionPipeline", published=True),
    _pipeline("StableDiffusionXLPipeline"),
    _pipeline("StableDiffusion3Pipeline"),
    _pipeline("FluxPipeline", shard="200KB"),
    _pipeline("QwenImagePipeline", shard="500KB"),
    _pipeline("SanaPipeline"),
    _pipeline("WanPipeline", shard="50KB"),
    Sound("OneFile", _write_single_file, FAMILIES["StableDiffusionPipeline"], "model.safetensors", "base"),
    Sound("Llama", _write_chat, None),
    Sound("ChatGGUF", _write_chat_gguf, None, "model.gguf", edits=lambda: GGUF),
)
