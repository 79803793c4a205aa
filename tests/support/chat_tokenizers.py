"""Small tokenizers of the real kinds, and chat templates built as those of well-known families are. Made in code."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim"
    " + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (  # v3: the system prompt stands in the last turn of the user; ids of calls have nine characters
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- set ns = namespace(i=0) %}{%- for m in rest %}"
    "{%- if not (m.role == 'tool' or (m.tool_calls is defined and m.tool_calls is not none)) %}"
    "{%- if (m['role'] == 'user') != (ns.i % 2 == 0) %}{{ raise_exception('After the optional system message, "
    "conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif %}"
    "{%- set ns.i = ns.i + 1 %}{%- endif %}{%- endfor %}"
    "{{ bos_token }}{%- for m in rest %}{%- if m['role'] == 'user' %}"
    "{%- if loop.last and system is defined %}{{ '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}"
    "{%- else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}"
    "{%- elif m.tool_calls is defined and m.tool_calls is not none %}{{ '[TOOL_CALLS] [' }}"
    "{%- for call in m.tool_calls %}{%- set out = call.function | tojson %}{{ out[:-1] }}"
    "{%- if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{%- endfor %}"
    "{%- elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
    "{%- elif m['role'] == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + m.content | string + ', ' }}"
    "{{ '\"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{%- else %}{{ raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' and 'tool_calls' in m %}{{ '<|Assistant|>' }}{% for call in m.tool_calls %}"
    "{{ '<|call|>' + call.type + '<|sep|>' + call.function.name }}"
    "{{ '\\n```json\\n' + call.function.arguments + '\\n```' }}"
    "{% endfor %}{{ eos_token }}"
    "{% elif m['role'] == 'tool' %}{{ '<|output|>' + m['content'] }}"
    "{% else %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for m in messages[::-1] %}{%- set i = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.last == messages|length - 1 and m.role == 'user' %}{%- set ns.last = i %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' or (m.role == 'system' and loop.first) %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}"
    "{%- set content = m.content %}{%- set thoughts = '' %}"
    "{%- if m.reasoning_content is string %}{%- set thoughts = m.reasoning_content %}"
    "{%- elif '</think>' in content %}"
    "{%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thoughts) %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{%- else %}{{ '<|im_start|>assistant\\n' + content }}{%- endif %}"
    "{%- if m.tool_calls %}{%- for call in m.tool_calls %}"
    '{{ \'\\n<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{%- if call.function.arguments is string %}{{ call.function.arguments }}"
    "{%- else %}{{ call.function.arguments | tojson }}{%- endif %}{{ '}\\n</tool_call>' }}"
    "{%- endfor %}{%- endif %}{{ '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
HARMONY = (
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{%- endif %}"
    "{{ '<|start|>system<|message|>Today: ' + strftime_now('%Y-%m-%d') + '\\n\\nReasoning: ' + reasoning_effort + "
    "'<|end|>' }}"
    "{%- if messages[0].role == 'system' %}{%- set rest = messages[1:] %}"
    "{%- set instructions = '# Instructions\\n\\n' + messages[0].content %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- if tools or instructions %}{{ '<|start|>developer<|message|>' }}{{ instructions or '' }}"
    "{%- if tools %}{{ '\\n\\n# Tools\\n\\n## functions\\n\\nnamespace functions {\\n\\n' }}"
    "{%- for tool in tools %}{{ '// ' + tool.function.description + '\\ntype ' + tool.function.name + ' = (_: {\\n' }}"
    "{%- for name, schema in tool.function.parameters.properties.items() %}{{ name + ': ' + schema.type + ',\\n' }}"
    "{%- endfor %}{{ '}) => any;\\n\\n' }}{%- endfor %}{{ '} // namespace functions' }}{%- endif %}{{ '<|end|>' }}"
    "{%- endif %}"
    "{%- set called = namespace(name=none) %}{%- for m in rest %}{%- if m.role == 'assistant' %}"
    "{%- if 'content' in m and '<|channel|>final<|message|>' in m.content %}"
    "{{ raise_exception('You have passed a message containing <|channel|> tags in the content field.') }}{%- endif %}"
    "{%- if 'tool_calls' in m %}{%- set answered = namespace(found=false) %}"
    "{%- for later in rest[loop.index:] %}{%- if later.role == 'assistant' and 'tool_calls' not in later %}"
    "{%- set answered.found = true %}{%- endif %}{%- endfor %}"
    "{%- set call = m.tool_calls[0].function %}"
    "{%- if m.content and m.thinking %}"
    "{{ raise_exception('Cannot pass both content and thinking in an assistant message with tool calls!') }}"
    "{%- elif m.content and not answered.found %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.content + '<|end|>' }}"
    "{%- elif m.thinking and not answered.found %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}"
    "{%- set called.name = call.name %}"
    "{{ '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}"
    "{{ call.arguments | tojson + '<|call|>' }}"
    "{%- elif loop.last and not add_generation_prompt %}"
    "{%- if 'thinking' in m %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{%- endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{%- else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{%- set called.name = none %}{%- endif %}"
    "{%- elif m.role == 'tool' %}{%- if called.name is none %}"
    "{{ raise_exception('Message has tool role, but there was no previous assistant message with a tool call!') }}"
    "{%- endif %}{{ '<|start|>functions.' + called.name + ' to=assistant<|channel|>commentary<|message|>' }}"
    "{{ m.content | tojson + '<|end|>' }}"
    "{%- elif m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{%- endif %}"
)
LLAMA3 = (  # calls hide the text beside them, and there may be one only
    "{{ bos_token }}{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}"
    '{{ \'<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "\' + call.name + \'", "parameters": \' }}'
    "{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
PARTS_ONLY = (  # as templates of models that read pictures too
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = {  # template → the special tokens that its tokenizer has, the ones for the beginning and the end first
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]),
    "llama2": (LLAMA2, ["<s>", "</s>"]),
    "llama3": (LLAMA3, ["<|begin|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]),
    "chatml": (CHATML, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]),
    "r1": (R1, ["<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>", "<|call|>", "<|sep|>", "<|output|>"]),
    "qwen3": (QWEN3, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]),
    "harmony": (
        HARMONY,
        ["<|startoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
    ),
    "parts only": (PARTS_ONLY, ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]),
}
WITH_BYTE_FALLBACK = ("gemma", "mistral", "llama2")


def chat_tokenizer(family: str) -> Any:
    """The tokenizer of one of the families in SPECIAL, with its template. It has a token for every byte."""
    template, special = SPECIAL[family]
    build = _byte_fallback if family in WITH_BYTE_FALLBACK else _byte_level
    inner = build(special)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if family in ("r1", "qwen3"):
        inner.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=special[0], eos_token=special[1], chat_template=template
    )


def _byte_level(special: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["he", "ll", "hell", "hello", "Ġt", "Ġa", "in", "on"]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *words])}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "t"), ("Ġ", "a"), ("i", "n"), ("o", "n")]
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _byte_fallback(special: list[str]) -> Tokenizer:
    """As Llama 2, Mistral and Gemma have it: what is not in the vocabulary becomes tokens of single bytes."""
    tokens = [
        "<unk>",
        *special,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *map(chr, range(33, 127)),
        "▁",
        "▁t",
        "he",
    ]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    inner = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[("▁", "t"), ("h", "e")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner
