"""Tools, replies that call them in each family's format, and what a reader gets of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.tools.call_reader import CallReader
from pipelines.chat.tools.formats import FAMILIES, GENERIC, Family
from pipelines.chat_interface import CallDelta, Tool

WEATHER = Tool(
    "get_weather",
    "Tells the weather of a place.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "its name"},
            "days": {"type": "integer"},
            "hourly": {"type": "boolean"},
            "near": {"type": "array", "items": {"type": "number"}},
            "options": {"type": "object"},
        },
        "required": ["city"],
    },
)
NOW = Tool("now", "Tells the time.")
TOOLS = {tool.name: tool for tool in (WEATHER, NOW)}
BY_NAME = {family.name: family for family in (*FAMILIES, GENERIC)}

ARGUMENTS = {"city": 'Zürich "</tool_call>" 東京 \\ \n', "days": 3, "options": {"a": [1, {"b": None}]}}
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
PLAIN = {"city": "Zürich <b>\n東京", "days": 3, "hourly": True, "near": [1.5, -2]}  # without what ends a value


@dataclass(frozen=True)
class Sample:
    family: str
    reply: str
    calls: tuple[tuple[str, object], ...]  # names, and arguments as JSON says them
    content: str = ""
    special: tuple[str, ...] = ()  # texts that are special tokens

    def __str__(self) -> str:
        return f"{self.family}: {self.reply[:30]!r}"


BOTH = (("get_weather", ARGUMENTS), ("now", {}))
PLAIN_BOTH = (("get_weather", PLAIN), ("now", {}))
HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>'
HERMES_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
DEEPSEEK_TOKENS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
)  # fmt: skip
KIMI_TOKENS = (
    "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
)  # fmt: skip
SAMPLES = (
    Sample("hermes", f"{HERMES}\n{HERMES_NOW}", BOTH),
    Sample("hermes", f"I will look.\n\n{HERMES}", BOTH[:1], "I will look."),
    Sample("hermes", f"One. {HERMES_NOW}\n\nTwo.", BOTH[1:], "One.\n\nTwo."),
    Sample(
        "hermes",
        '<tool_call>{"arguments": {"city": "Rom"}, "name": "get_weather"}',
        (("get_weather", {"city": "Rom"}),),
    ),
    Sample(
        "hermes", '<tool_call>\n[{"name": "now"}, {"name": "now", "arguments": null}]\n</tool_call>', (("now", {}),) * 2
    ),
    Sample(
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rom\\"}"}</tool_call>',
        (("get_weather", {"city": "Rom"}),),
    ),
    Sample(
        "hermes",
        '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>',
        (("now", {}),),
    ),
    Sample(
        "qwen-coder",
        "Now:\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich <b>\n東京\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=hourly>\ntrue\n</parameter>\n<parameter=near>\n[1.5, -2]\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        PLAIN_BOTH,
        "Now:",
    ),
    Sample(
        "qwen-coder",
        "<function=get_weather>\n<parameter=city>\nRom\n</parameter>\n</function>",
        (("get_weather", {"city": "Rom"}),),
    ),
    Sample("qwen-coder", f"<tool_call>\n<function=get_weather>\n{JSON}\n</function>\n</tool_call>", BOTH[:1]),
    Sample(
        "glm",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Zürich <b>\n東京</arg_value>\n"
        "<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n<arg_key>hourly</arg_key>\n<arg_value>true</arg_value>\n<arg_key>near</arg_key>\n"
        "<arg_value>[1.5, -2]</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        PLAIN_BOTH,
    ),
    Sample("glm", "<tool_call>now</tool_call>", BOTH[1:]),
    Sample("llama-3", f'{{"name": "get_weather", "parameters": {JSON}}}', BOTH[:1]),
    Sample(
        "llama-3",
        f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {JSON}}}; '
        '{"name": "now", "parameters": {}}',
        BOTH,
        special=("<|python_tag|>",),
    ),
    Sample("llama-3", f"<function=get_weather>{JSON}</function>", BOTH[:1]),
    Sample(
        "llama-4",
        f'<|python_start|>{{"name": "get_weather", "parameters": {JSON}}}',
        BOTH[:1],
        special=("<|python_start|>", "<|python_end|>"),
    ),
    Sample(
        "llama-4",
        "<|python_start|>"
        "[get_weather(city='Zürich <b>\\n東京', days=3, hourly=True, near=[1.5, -2]), now()]<|python_end|>",
        PLAIN_BOTH,
        special=("<|python_start|>", "<|python_end|>"),
    ),
    Sample(
        "pythonic", '[get_weather(city="Zürich <b>\\n東京", days=3, hourly=True, near=[1.5, -2]), now()]', PLAIN_BOTH
    ),
    Sample(
        "pythonic",
        "[get_weather(city='it\\'s', options={'a': None, 'b': (1, 2.50)})]",
        (("get_weather", {"city": "it's", "options": {"a": None, "b": [1, 2.5]}}),),
    ),
    Sample(
        "lfm2",
        "Well. <|tool_call_start|>[get_weather(city='Rom')]<|tool_call_end|> Done.",
        (("get_weather", {"city": "Rom"}),),
        "Well.\n\nDone.",
        ("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Sample(
        "olmo-3",
        '<function_calls>\nget_weather(city="Rom")\nnow()\n</function_calls>',
        (("get_weather", {"city": "Rom"}), ("now", {})),
    ),
    Sample(
        "mistral",
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {JSON}, "id": "abcDEF123"}}, '
        '{"name": "now", "arguments": {}}]',
        BOTH,
        special=("[TOOL_CALLS]",),
    ),
    Sample(
        "mistral-v11",
        f"Hm.[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{JSON}[TOOL_CALLS]now[ARGS]{{}}",
        BOTH,
        "Hm.",
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ),
    Sample("mistral-v11", f"[TOOL_CALLS]get_weather{JSON}", BOTH[:1], special=("[TOOL_CALLS]",)),
    Sample(
        "function-gemma",
        "<start_function_call>call:get_weather{city:<escape>Zürich <b>\n東京<escape>,days:3,hourly:true,near:[1.5,-2]}"
        "<end_function_call><start_function_call>call:now{}<end_function_call>",
        PLAIN_BOTH,
        special=("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    Sample(
        "gemma-4",
        '<|tool_call>call:get_weather{city:<|"|>Zürich <b>\n東京<|"|>,days:3,hourly:true,near:[1.5,-2]}<tool_call|>'
        "<|tool_call>call:now{}<tool_call|>",
        PLAIN_BOTH,
        special=("<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    Sample(
        "gemma-4",
        '<|tool_call>call:get_weather{options:{a:<|"|>x,}<|"|>,b:[{c:null}]}}<tool_call|>',
        (("get_weather", {"options": {"a": "x,}", "b": [{"c": None}]}}),),
    ),
    Sample("gemma-4", f"<|tool_call>call:get_weather{JSON}<tool_call|>", BOTH[:1]),
    Sample(
        "deepseek-v3",
        f"Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{JSON}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        "Hm.",
        DEEPSEEK_TOKENS,
    ),
    Sample(
        "deepseek-v3.1",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        special=DEEPSEEK_TOKENS,
    ),
    Sample(
        "deepseek-v3.2",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Zürich <b>\n東京</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="hourly" string="false">true</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="near" string="false">[1.5, -2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        PLAIN_BOTH,
    ),
    Sample(
        "kimi",
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{JSON}"
        "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        BOTH,
        special=KIMI_TOKENS,
    ),
    Sample(
        "minimax",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Zürich <b>\n東京</parameter>\n'
        '<parameter name="days">3</parameter>\n<parameter name="hourly">true</parameter>\n'
        '<parameter name="near">[1.5, -2]</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        PLAIN_BOTH,
    ),
    Sample(
        "seed-oss",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Rom</parameter>\n</function>\n</seed:tool_call>",
        (("get_weather", {"city": "Rom"}),),
    ),
    Sample(
        "cohere",
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {JSON}}},\n'
        '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        BOTH,
        special=("<|START_ACTION|>", "<|END_ACTION|>"),
    ),
    Sample(
        "granite",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {JSON}}}, {{"name": "now", "arguments": {{}}}}]',
        BOTH,
        special=("<|tool_call|>",),
    ),
    Sample(
        "phi-4",
        f'<|tool_call|>{{"name": "get_weather", "arguments": {JSON}}}<|/tool_call|>',
        BOTH[:1],
        special=("<|tool_call|>", "<|/tool_call|>"),
    ),
    Sample("nemotron", f'<TOOLCALL>[{{"name": "get_weather", "arguments": {JSON}}}]</TOOLCALL>', BOTH[:1]),
    Sample("jamba", f'<tool_calls>[\n{{"name": "get_weather", "arguments": {JSON}}}\n]</tool_calls>', BOTH[:1]),
    Sample("generic", f"{HERMES}\n{HERMES_NOW}", BOTH),
    Sample("generic", f'```json\n{{"name": "get_weather", "arguments": {JSON}}}\n```', BOTH[:1]),
    Sample("generic", f' {{"name": "get_weather", "arguments": {JSON}}}', BOTH[:1]),
)


@dataclass(frozen=True)
class Called:
    """What a reader makes of a reply."""

    content: str
    calls: tuple[tuple[str, str], ...]  # names and arguments
    ids: tuple[str, ...] = ()
    n_cut: int = 0

    @property
    def parsed(self) -> tuple[tuple[str, object], ...]:
        return tuple((name, json.loads(arguments)) for name, arguments in self.calls)


def reader_of(family: Family | str, **options: object) -> CallReader:
    found = BY_NAME[family] if isinstance(family, str) else family
    return CallReader(found.openings, TOOLS, **options)  # type: ignore[arg-type]


def called(reader: CallReader, pieces: Iterable[Piece] | str) -> Called:
    """Read a whole reply. A text is one piece."""
    shown: list[Piece | CallDelta] = []
    for piece in [Piece(pieces)] if isinstance(pieces, str) else pieces:
        shown += reader.push(piece)
    shown += reader.finish()
    content = "".join(each.text for each in shown if isinstance(each, Piece) and not each.special)
    calls: list[list[str]] = []
    for each in shown:
        if isinstance(each, CallDelta):
            if each.name:
                assert each.index == len(calls)
                assert each.id
                calls.append([each.name, "", each.id])
            calls[each.index][1] += each.arguments
    return Called(
        content, tuple((name, text) for name, text, _ in calls), tuple(call[2] for call in calls), reader.n_cut
    )


def cuts(whole: Sequence[Piece]) -> Iterable[list[Piece]]:
    """The same text in other pieces: by characters, and cut in two at each place. Special tokens stay whole."""
    yield [Piece(c, p.special) for p in whole for c in ([p.text] if p.special else p.text)]
    for i, piece in enumerate(whole):
        for at in [] if piece.special else range(1, len(piece.text)):
            yield [*whole[:i], Piece(piece.text[:at]), Piece(piece.text[at:]), *whole[i + 1 :]]
