"""Chat templates for checkpoints that have none: `load.chat_template`. Any thread; no torch.

A base model, or a conversion that lost its template, was still trained on some form of dialogue; only its author knows
which. The texts are ours, after the forms that the makers describe.
"""

from __future__ import annotations

from pathlib import Path

from models.errors import BadModel
from models.files.chat_templates import read_template

_SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
FALLBACKS = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama2": (
        _SYSTEM_FIRST + "{% for m in turns %}" + _ALTERNATE + "{% if m.role == 'user' %}"
        "{% set intro = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if loop.first and system else '' %}"
        "{{ bos_token + '[INST] ' + intro + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content.strip() + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in turns %}" + _ALTERNATE + "{% if m.role == 'user' %}"
        "{% set intro = system + '\\n\\n' if loop.first and system else '' %}"
        "{{ '[INST] ' + intro + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in turns %}" + _ALTERNATE +
        "{% set intro = system + '\\n\\n' if loop.first and system else '' %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\\n' + intro + m.content.strip() }}"
        "{{ '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "vicuna": (
        _SYSTEM_FIRST + "{{ bos_token }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for m in turns %}" +
        _ALTERNATE + "{% if m.role == 'user' %}{{ 'USER: ' + m.content.strip() + '\\n' }}"
        "{% else %}{{ 'ASSISTANT: ' + m.content.strip() + eos_token + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "alpaca": (
        _SYSTEM_FIRST + "{{ bos_token }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for m in turns %}" +
        _ALTERNATE + "{% if m.role == 'user' %}{{ '### Instruction:\\n' + m.content.strip() + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + m.content.strip() + eos_token + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
}  # fmt: skip
CHOICES = f"{', '.join(FALLBACKS)}, or a .jinja file in the checkpoint's folder"


def fallback_template(option: str, path: Path) -> str:
    """Returns the text of `load.chat_template` for the checkpoint at `path`. Raises `BadModel`."""
    if option in FALLBACKS:
        return FALLBACKS[option]
    folder = path if path.is_dir() else path.parent
    if not option.endswith(".jinja") or Path(option).name != option:
        raise BadModel(f"load.chat_template must be one of {CHOICES}")
    if not (folder / option).is_file():
        raise BadModel(f"load.chat_template: there is no file {option[:80]} in the checkpoint's folder")
    return read_template(folder / option)
