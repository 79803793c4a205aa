"""The chat view: streamed replies, thinking before them, and conversations that the server keeps."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST


def test_a_chat_streams_continues_stops_and_starts_a_new_conversation(page: Page, size: str) -> None:
    open_view(page, "Chat")
    message = page.get_by_label("Message", exact=True)
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("24")
    message.fill("What can you help me with?")
    message.press("Enter")
    reply = page.get_by_role("article", name="Reply")
    expect(reply.get_by_text("tokens")).to_be_visible()
    assert len(reply.locator(".text").inner_text().split()) > 3
    assert_accessible(page)

    page.get_by_label("Longest reply").fill("400")
    message.fill("Write a long story about the sea.")
    with page.expect_request("**/api/chat") as sent:
        message.press("Enter")
    assert json.loads(sent.value.post_data or "")["conversationId"].startswith("conv_")
    page.get_by_role("button", name="Stop").click()
    expect(reply.last.get_by_text("Stopped")).to_be_visible()

    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("article")).to_have_count(0)
    page.get_by_label("Longest reply").fill("4")
    page.get_by_role("log").get_by_role("button", name="What can you help me with?").click()
    expect(page.get_by_role("article").first).to_be_visible()


def test_conversations_are_kept_by_the_server_renamed_and_deleted(page: Page, server: LiveServer, size: str) -> None:
    first = f"My name is Ada, on a {size}."
    reply = server.post("/api/chat", {"message": first, "max_tokens": 4, "system": "Be brief."})
    conversation = reply.json["conversationId"]
    server.post("/api/chat", {"message": "Something else", "max_tokens": 2})
    open_view(page, "Chat")
    sidebar = page.get_by_role("complementary", name="Conversations")
    sidebar.get_by_role("button", name=first, exact=True).click()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text(first)
    page.get_by_text("Model and system prompt").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    page.get_by_label("Longest reply").fill("300")
    message = page.get_by_label("Message", exact=True)
    message.fill("Write a long story about me.")
    message.press("Enter")
    article = page.get_by_role("article", name="Reply").last
    expect(article.locator(".text")).not_to_have_text("")
    page.get_by_role("button", name="Stop").click()
    expect(article.get_by_text("Stopped")).to_be_visible()
    expect_message_count(server, conversation, 4)  # the streamed part of the reply is kept

    sidebar.get_by_role("button", name=f"Rename “{first}”").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill(f"Ada's {size}")
    assert_accessible(page)
    page.get_by_role("button", name="Rename", exact=True).click()
    thread = sidebar.get_by_role("button", name=f"Ada's {size}", exact=True)
    page.get_by_text("Model and system prompt").click()
    screenshot(page, f"chat-{size}")
    expect(thread).to_have_attribute("aria-current", "true")
    page.reload()
    expect(thread).to_be_visible()
    expect(page.get_by_role("article", name="Reply")).to_have_count(2)

    sidebar.get_by_role("button", name=f"Forget “Ada's {size}”").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(thread).to_have_count(0)
    expect(page.get_by_role("heading", name="A new conversation")).to_be_visible()
    assert server.get(f"/api/conversations/{conversation}").status == 404


def expect_message_count(server: LiveServer, conversation: str, n_messages: int) -> None:
    """Waits until the conversation has this many messages: the server notices a disconnected browser with a delay."""
    server.wait_until(f"/api/conversations/{conversation}", lambda found: len(found["messages"]) == n_messages)


def test_a_conversation_survives_a_reload_and_continues(page: Page) -> None:
    open_view(page, "Chat")
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("6")
    message = page.get_by_label("Message", exact=True)
    message.fill("My name is Ada.")
    message.press("Enter")
    reply = page.get_by_role("article", name="Reply")
    expect(reply.get_by_text("tokens")).to_be_visible()
    text = reply.locator(".text").inner_text()

    page.reload()
    expect(page.get_by_role("heading", level=1, name="Chat")).to_be_visible()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text("My name is Ada.")
    assert reply.locator(".text").inner_text() == text
    expect(page.get_by_label("Longest reply")).to_have_value("6")
    with page.expect_request("**/api/chat") as sent:
        message.fill("What is my name?")
        message.press("Enter")
    assert json.loads(sent.value.post_data or "")["conversationId"].startswith("conv_")
    expect(reply).to_have_count(2)
    expect(reply.last.get_by_text("tokens")).to_be_visible()


def test_a_message_sent_before_the_conversation_list_arrives_is_not_interrupted(page: Page) -> None:
    delayed: list[Route] = []
    page.route("**/api/conversations*", lambda route: delayed.append(route))
    open_view(page, "Chat")
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("6")
    message = page.get_by_label("Message", exact=True)
    with page.expect_request("**/api/chat"):
        message.fill("I type fast.")
        message.press("Enter")
    while delayed:
        delayed.pop().continue_()
    expect(page.get_by_role("article", name="Reply").get_by_text("tokens")).to_be_visible()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text("I type fast.")


# Replaces the reply to POST /api/chat with events that a test sends piece by piece.
SCRIPTED_CHAT = """
const fetchFromServer = window.fetch;
window.fetch = (path, options) => {
  if (path !== "/api/chat") return fetchFromServer(path, options);
  window.chatBody = JSON.parse(options.body);
  const start = (controller) => {
    const encode = (event, data) => new TextEncoder().encode(`event: ${event}\\ndata: ${JSON.stringify(data)}\\n\\n`);
    window.sendEvent = (event, data) => controller.enqueue(encode(event, data));
    window.endEvents = () => controller.close();
    options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
  };
  const headers = { "content-type": "text/event-stream" };
  return Promise.resolve(new Response(new ReadableStream({ start }), { headers }));
};
"""
THOUGHTS = ["A spider has eight legs. ", "Three have twenty-four."]


class ScriptedChat:
    """The chat view of a page whose replies a test writes."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.add_init_script(SCRIPTED_CHAT)
        page.reload()
        open_view(page, "Chat")

    def ask(self, message: str) -> Locator:
        """Sends a message and returns the reply's element."""
        field = self._page.get_by_label("Message", exact=True)
        field.fill(message)
        field.press("Enter")
        expect(self._page.get_by_role("button", name="Stop")).to_be_visible()
        return self._page.get_by_role("article", name="Reply").last

    def send(self, event: str, text: str) -> None:
        self._page.evaluate("([event, data]) => window.sendEvent(event, data)", [event, {"text": text}])

    def end(self, reply: str, **more: Any) -> None:
        usage = {"promptTokens": 9, "completionTokens": 40, "thinkingTokens": 30}
        whole = {"reply": reply, "usage": usage, "finishReason": "stop", "warnings": []} | more
        self._page.evaluate("(whole) => { sendEvent('done', whole); endEvents(); }", whole)
        expect(self._page.get_by_role("button", name="Send")).to_be_visible()


def test_thinking_is_folded_above_its_reply_and_can_be_opened_while_it_goes_on(page: Page) -> None:
    chat = ScriptedChat(page)
    reply = chat.ask("How many legs do three spiders have?")
    thoughts, text = reply.locator(".thoughts"), reply.locator(".text")
    chat.send("thinking", THOUGHTS[0])
    expect(page.get_by_role("status")).to_have_text("Thinking…")
    expect(thoughts).to_be_hidden()
    reply.get_by_text("Thinking…").click()
    chat.send("thinking", THOUGHTS[1])
    expect(thoughts).to_have_text("".join(THOUGHTS))
    chat.send("delta", "Twenty-four.")
    expect(reply.get_by_text(re.compile("^Thought for"))).to_be_visible()
    place = text.bounding_box()
    chat.end("Twenty-four.", thinking="".join(THOUGHTS), warnings=["medium was taken as on."])

    expect(thoughts).to_be_visible()  # as the user left it
    assert text.bounding_box() == place
    expect(reply.get_by_text("40 tokens (30 of thinking)")).to_be_visible()
    expect(reply.get_by_text("medium was taken as on.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Reply: Twenty-four.")
    assert_accessible(page)


def test_a_reply_stopped_or_cut_while_the_model_thinks_says_so(page: Page) -> None:
    chat = ScriptedChat(page)
    stopped = chat.ask("How many legs?")
    chat.send("thinking", THOUGHTS[0])
    page.get_by_role("button", name="Stop").click()
    expect(stopped.get_by_text("Stopped while thinking")).to_be_visible()
    stopped.get_by_text(re.compile("^Thought for")).click()
    expect(stopped.locator(".thoughts")).to_have_text(THOUGHTS[0])

    cut = chat.ask("How many?")
    chat.send("thinking", THOUGHTS[0])
    chat.end("", thinking=THOUGHTS[0], finishReason="length")
    expect(cut.get_by_text("cut at the token limit while thinking")).to_be_visible()
    expect(cut.get_by_role("button", name="Copy")).to_have_count(0)


def test_a_connection_that_breaks_while_the_model_thinks_is_an_error(page: Page) -> None:
    chat = ScriptedChat(page)
    reply = chat.ask("How many legs?")
    chat.send("thinking", THOUGHTS[0])
    page.evaluate("endEvents()")
    expect(reply.get_by_text("The connection broke")).to_be_visible()
    expect(page.get_by_label("Message", exact=True)).to_have_value("How many legs?")


def test_the_options_set_how_much_the_model_thinks(page: Page) -> None:
    chat = ScriptedChat(page)
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("1000000")
    for level, sent in (("model's default", None), ("off", False), ("medium", "medium")):
        page.get_by_label("Thinking").select_option(label=level)
        chat.ask("Hi")
        body = page.evaluate("chatBody")
        assert (body.get("thinking"), body["max_tokens"]) == (sent, 1_000_000)
        chat.end("Hello.")

    page.get_by_role("button", name="New conversation").click()
    page.reload()
    page.get_by_text("Model and system prompt").click()
    expect(page.get_by_label("Thinking").locator("option:checked")).to_have_text("medium")


def test_a_stored_conversation_shows_the_thinking_of_its_replies(page: Page, server: LiveServer, size: str) -> None:
    conversation = server.post("/api/chat", {"message": f"Spiders, {size}?", "max_tokens": 4}).json["conversationId"]

    def add_thinking(route: Route) -> None:
        whole = route.fetch().json()
        whole["messages"][1]["thinking"] = THOUGHTS[0]
        unanswered = {"role": "assistant", "content": "", "thinking": THOUGHTS[1], "timestamp": whole["updatedAt"]}
        route.fulfill(json=whole | {"messages": [*whole["messages"], unanswered]})

    page.route(f"**/api/conversations/{conversation}", add_thinking)
    open_view(page, "Chat")
    page.get_by_role("complementary").get_by_role("button", name=f"Spiders, {size}?", exact=True).click()
    replies = page.get_by_role("article", name="Reply")
    expect(replies.first.locator(".text")).not_to_have_text("")
    expect(replies.first.locator(".thoughts")).to_be_hidden()
    replies.first.get_by_text("Thought", exact=True).click()
    expect(replies.first.locator(".thoughts")).to_have_text(THOUGHTS[0])
    expect(replies.last.get_by_text("Ended while thinking")).to_be_visible()
    assert_accessible(page)
