"""Chat templates that show tools, with what is essential of those of real families."""

from __future__ import annotations

from typing import Any

from tests.support.chat_tokenizers import CHATML, QWEN3, chat_tokenizer

_BEGIN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
_END = "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_SYSTEM = (
    "{%- if tools %}{{ '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}"
    "{{ messages[0].content + '\\n\\n' }}{%- set messages = messages[1:] %}{%- endif %}"
    "{{ '# Tools\\n\\n<tools>' }}{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{ '\\n</tools>\\n\\nFORM<|im_end|>\\n' }}{%- endif %}"
)
HERMES = _SYSTEM.replace("FORM", '<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>') + QWEN3
_CODER_FORM = "<tool_call>\\n<function=name>\\n<parameter=key>\\nvalue\\n</parameter>\\n</function>\\n</tool_call>"
CODER = (
    _SYSTEM.replace("FORM", _CODER_FORM) + _BEGIN + "{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}"
    "{% for key, value in call.function.arguments | items %}{{ '<parameter=' + key + '>\\n' }}"
    "{{ value if value is string else value | tojson }}{{ '\\n</parameter>\\n' }}{% endfor %}"
    "{{ '</function>\\n</tool_call>' }}{% endfor %}" + _END
)
KIMI = (  # the name of a called tool stands in the id alone
    "{% if tools %}{{ '<|im_system|>tool_declare<|im_middle|>' + (tools | tojson) + '<|im_end|>' }}{% endif %}"
    "{% for m in messages %}"
    "{{ '<|im_' + ('system' if m.role == 'tool' else m.role) + '|>' + m.role + '<|im_middle|>' }}"
    "{% if m.role == 'tool' %}{{ '## Return of ' + m.tool_call_id + '\\n' }}{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for call in m.tool_calls %}"
    "{{ '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' }}{{ call.function.arguments | tojson }}"
    "{{ '<|tool_call_end|>' }}{% endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
GEMMA4 = (
    "{% if tools %}{{ '<|turn>system\\n' }}{% for tool in tools %}"
    "{{ '<|tool>declaration:' + tool.function.name + '{' }}"
    "{% for key, schema in tool.function.parameters.properties | dictsort %}{{ key + ':' + (schema.type | upper) }}"
    "{% endfor %}{{ '}<tool|>' }}{% endfor %}{{ '<turn|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|tool_response>' + m.content + '<tool_response|>' }}"
    "{% else %}{{ '<|turn>' + m.role + '\\n' + m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<|tool_call>call:' + call.function.name + '{' }}{% for key, value in call.function.arguments | dictsort %}"
    "{{ key + ':' }}{{ '<|\"|>' + value + '<|\"|>' if value is string else value | tojson }}"
    "{{ ',' if not loop.last }}{% endfor %}{{ '}<tool_call|>' }}{% endfor %}{% endif %}{{ '<turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"
)
FUNCTION_GEMMA = (  # a result needs the name of its tool
    GEMMA4.replace("<|tool_call>", "<start_function_call>")
    .replace("<tool_call|>", "<end_function_call>")
    .replace('<|"|>', "<escape>")
    .replace(
        "'<|tool_response>' + m.content",
        "'<start_function_response>response:' + (m.name or raise_exception('name must be provided')) + m.content",
    )
)
LLAMA3 = (  # tools stand in the first message of the user
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{% if tools is not none and tools and m.role == 'user' and loop.first %}{{ 'Respond in the format "
    '{"name": function name, "parameters": dictionary}.\\n\\n\' }}'
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}{% endif %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
    "{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (  # tools stand before the last message of the user
    "{{ bos_token }}{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' }}"
    "{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{%- endif %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{%- elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{%- for call in m.tool_calls %}"
    "{%- set out = call.function | tojson %}{{ out[:-1] }}{%- if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs must have length 9!') }}{%- endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{%- endfor %}"
    "{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + ' ' + m.tool_call_id + '[/TOOL_RESULTS]' }}"
    "{%- elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{%- else %}{{ raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}"
)
SMOLLM3 = (  # the variable has another name, and a tool is shown as Python prints it
    "{{ '<|im_start|>system\\n' }}{% if xml_tools is defined %}{{ '<tools>\\n' }}{% for tool in xml_tools %}"
    "{{ (tool | string) + '\\n' }}{% endfor %}{{ '</tools>\\n<tool_call>' }}{% endif %}{{ '<|im_end|>\\n' }}" + CHATML
)
DEEPSEEK31 = (
    "{{ bos_token }}{% for tool in tools or [] %}"
    "{{ tool.function.name + (tool.function.parameters | tojson) }}{% endfor %}"
    "{% for m in messages %}{{ '<｜' + m.role + '｜>' }}{{ m.content }}{% if m.tool_calls %}"
    "{{ '<｜tool▁calls▁begin｜>' }}{% for call in m.tool_calls %}{{ '<｜tool▁call▁begin｜>' + call.function.name }}"
    "{{ '<｜tool▁sep｜>' + call.function.arguments + '<｜tool▁call▁end｜>' }}{% endfor %}"
    "{{ '<｜tool▁calls▁end｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜assistant｜>' }}{% endif %}"
)
PHI4 = (  # tools are a part of the system message
    "{% for m in messages %}{% if m['role'] == 'system' and 'tools' in m and m['tools'] is not none %}"
    "{{ '<|system|>' + m['content'] + '<|tool|>' + m['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NATIVE = {
    "hermes": HERMES,
    "qwen-coder": CODER,
    "kimi": KIMI,
    "gemma-4": GEMMA4,
    "function-gemma": FUNCTION_GEMMA,
    "llama-3": LLAMA3,
    "mistral": MISTRAL,
    "deepseek-v3.1": DEEPSEEK31,
}


def with_tools(template: Any) -> Any:
    """A tokenizer with this template; what the template writes as markup is no special token."""
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = template
    return tokenizer
