"""Converts a GGUF into a safetensors folder, in its own process: python -m models.sources.convert GGUF FOLDER

The folder also gets the tokenizer and chat template. The weights are float32, because no smaller dtype holds the
dequantized values exactly: a Q4_1 weight is scale * q + minimum with both numbers in float16, and only 75 % of the
results fit float16 again (32 % fit bfloat16), counted on the attention layers of SmolLM2.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MAX_ADDRESS_BYTES = 16 << 30  # SmolLM2 peaks at 1.1 GiB resident; address space of torch alone is several GiB
MAX_CPU_S = 600  # 15 s on one core for SmolLM2


def convert(gguf: Path, folder: Path) -> None:
    """Writes config, weights, tokenizer and generation config to `folder`, which must not exist."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from models.files.gguf_header import read_gguf_header

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    if read_gguf_header(gguf).metadata.get("tokenizer.ggml.pre") == "smollm":
        # transformers ignores this field and leaves out the first half of SmolLM's splitting, which makes each digit
        # its own token. Without it the blank line before a numbered list becomes two tokens; the model was trained with
        # one.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    model.hf_quantizer = None  # with a quantizer the model could not be saved, though its weights are floats now
    vars(model.config).pop("quantization_config", None)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config._name_or_path = ""  # the path of this machine
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
