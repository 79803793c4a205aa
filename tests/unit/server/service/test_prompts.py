"""Prompts are read on worker threads; what cannot become a prompt is an error for the client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from models.errors import BadModel
from models.spec import Limits, ModelSpec
from pipelines.chat_interface import Grammar, Message, MessageImage, Prompt, PromptOptions, PromptRefused
from server.errors import BadRequest, ContextTooLong, Unavailable
from server.service.chat_context import ChatContext
from server.service.prompts import Prompts
from tests.fakes import FakePromptReader, messages_in, spec

pytestmark = pytest.mark.anyio
TALKER = spec("talker", "chat")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def context(*history: str, message: str = "Hi") -> ChatContext:
    roles = ("user", "assistant")
    earlier = [Message(roles[i % 2], text) for i, text in enumerate(history)]  # type: ignore[arg-type]  # literals
    return ChatContext(None, earlier, [Message("user", message)])


async def read(reader: FakePromptReader, chat: ChatContext, model: ModelSpec = TALKER) -> Prompt:
    with ThreadPoolExecutor(1) as pool:
        return await Prompts(reader, pool).read(model, chat, PromptOptions())


async def test_a_prompt_is_read_on_a_worker_thread() -> None:
    class Reader(FakePromptReader):
        def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt:
            self.thread = threading.current_thread()
            return super().read(spec, messages, options)

    reader = Reader()

    assert messages_in(await read(reader, context())) == [("user", "Hi")]
    assert reader.thread is not threading.current_thread()


async def test_a_kept_conversation_is_shortened_until_it_fits() -> None:
    chat = context(*("text " * 20 for _ in range(8)))

    prompt = await read(FakePromptReader(), chat, replace(TALKER, limits=Limits(context_tokens=300)))

    assert messages_in(prompt)[-1] == ("user", "Hi")
    assert chat.n_left_out == 6
    assert len(prompt.tokens) < 300


async def test_a_message_that_is_too_long_by_itself_is_refused_with_the_figures() -> None:
    with pytest.raises(ContextTooLong, match="maximum context length is 50 tokens") as error:
        await read(FakePromptReader(), context(message="x" * 100), replace(TALKER, limits=Limits(context_tokens=50)))

    assert error.value.code == "context_length_exceeded"


async def test_the_reason_of_a_template_reaches_the_client() -> None:
    reader = FakePromptReader()
    reader.error = PromptRefused("This model's chat template refuses these messages: roles must alternate")

    with pytest.raises(BadRequest, match="roles must alternate"):
        await read(reader, context())


async def test_a_tokenizer_that_does_not_open_makes_the_model_unavailable() -> None:
    reader = FakePromptReader()
    reader.error = BadModel("its tokenizer is damaged", detail="a path")

    with pytest.raises(Unavailable, match="its tokenizer is damaged") as error:
        await read(reader, context())
    assert "a path" not in error.value.message


async def test_tokens_that_the_model_does_not_have_are_refused_by_the_name_of_their_field() -> None:
    with ThreadPoolExecutor(1) as pool:
        prompts = Prompts(FakePromptReader(), pool)
        await prompts.check_tokens(TALKER, "logit_bias", [0, 0x10FFFF])
        for token in (-1, 0x110000):
            with pytest.raises(BadRequest, match="logit_bias must name tokens of the model: 0 to 1114111"):
                await prompts.check_tokens(TALKER, "logit_bias", [token])


async def test_a_tokenizer_can_be_opened_before_the_first_chat_and_a_broken_one_stops_nothing() -> None:
    opened: list[str] = []

    class Reader(FakePromptReader):
        def open(self, spec: ModelSpec) -> None:
            opened.append(spec.name)
            raise BadModel("its tokenizer is damaged")

    with ThreadPoolExecutor(1) as pool:
        prompts = Prompts(Reader(), pool)
        prompts.open_early(TALKER)
        prompt = await prompts.read(TALKER, context(), PromptOptions())

    assert opened == ["talker"]
    assert messages_in(prompt) == [("user", "Hi")]


async def test_prompts_with_pictures_leave_a_thread_to_those_without() -> None:
    may_end, reading = threading.Event(), threading.Event()

    class Reader(FakePromptReader):
        def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt:
            if messages[-1].images:
                reading.set()
                assert may_end.wait(30)
            return super().read(spec, messages, options)

    with ThreadPoolExecutor(2) as pool:
        prompts = Prompts(Reader(), pool)
        shown = ChatContext(None, [], [Message("user", "See", images=(MessageImage(0, b""),))])
        waiting = [asyncio.create_task(prompts.read(TALKER, shown, PromptOptions())) for _ in range(3)]
        await asyncio.to_thread(reading.wait, 30)
        quick = await prompts.read(TALKER, context(), PromptOptions())
        done_before = [task.done() for task in waiting]
        may_end.set()
        slow = await asyncio.gather(*waiting)

    assert messages_in(quick) == [("user", "Hi")]
    assert done_before == [False] * 3
    assert len(slow) == 3


async def test_prompts_do_not_wait_for_grammars() -> None:
    may_end, compiling = threading.Event(), threading.Event()
    form = Grammar("json_object")

    class Reader(FakePromptReader):
        def read(self, spec: ModelSpec, messages: Sequence[Message], options: PromptOptions) -> Prompt:
            return replace(super().read(spec, messages, options), grammar=options.grammar)

        def constrain(self, spec: ModelSpec, prompt: Prompt) -> Prompt:
            compiling.set()
            assert may_end.wait(30)
            return replace(prompt, warnings=("compiled",))

    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as grammar_pool:
        prompts = Prompts(Reader(), pool, grammar_pool)
        options = PromptOptions(grammar=form)
        waiting = [asyncio.create_task(prompts.read(TALKER, context(), options)) for _ in range(3)]
        await asyncio.to_thread(compiling.wait, 30)
        quick = await prompts.read(TALKER, context(), PromptOptions())
        may_end.set()
        slow = await asyncio.gather(*waiting)

    assert messages_in(quick) == [("user", "Hi")]
    assert [prompt.warnings for prompt in slow] == [("compiled",)] * 3
