from __future__ import annotations

import pytest

from models.chat_template import check_template
from models.fallback_templates import FALLBACKS
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message
from tests.support.chat_tokenizers import chat_tokenizer

CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Why?"),
]
EXPECTED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
    "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Why? [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello"
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Why? [/INST]",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
    "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "vicuna": "<s>Be brief.\n\nUSER: Hi\nASSISTANT: Hello</s>\nUSER: Why?\nASSISTANT:",
    "alpaca": "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nWhy?\n\n"
    "### Response:\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nWhy?</s>\n"
    "<|assistant|>\n",
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_a_fallback_writes_a_conversation_as_its_family_does(name: str) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    tokenizer.chat_template = FALLBACKS[name]

    prompt = read_prompt(tokenizer, CONVERSATION)

    assert tokenizer.decode(prompt.tokens) == EXPECTED[name]
    assert prompt.warnings == ()
    check_template(FALLBACKS[name])
