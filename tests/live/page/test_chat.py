"""The chat view: streamed replies, and conversations that the server keeps."""

from __future__ import annotations

import json

from playwright.sync_api import Page, Route, expect

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
