"""Signing in and out, the size and speed of the page, the dark color scheme, and use by keyboard alone."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot, sign_in
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST

USABLE_MS = 1000
MAX_PAGE_BYTES = 150 * 1024


def test_the_page_is_small_usable_within_a_second_and_shows_nothing_without_a_key(
    browser: Browser, server: LiveServer
) -> None:
    context = browser.new_context(
        base_url=f"http://localhost:{server.port}", color_scheme="dark", viewport={"width": 1280, "height": 800}
    )
    page = context.new_page()
    client = context.new_cdp_session(page)
    page_bytes: dict[str, int] = {}  # request id → transferred bytes, without the API's replies
    foreign_urls: list[str] = []  # requests to any other origin
    page.on(
        "request",
        lambda request: request.url.startswith(f"http://localhost:{server.port}/") or foreign_urls.append(request.url),
    )
    client.send("Network.enable")
    client.on(
        "Network.responseReceived",
        lambda event: "/api/" in event["response"]["url"] or page_bytes.setdefault(event["requestId"], 0),
    )
    client.on(
        "Network.loadingFinished",
        lambda event: (
            event["requestId"] in page_bytes and page_bytes.update({event["requestId"]: event["encodedDataLength"]})
        ),
    )
    page.goto("/")
    expect(page.get_by_label("API key")).to_be_focused()
    usable_ms = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert_accessible(page)
    screenshot(page, "signin-dark")
    page.get_by_label("API key").fill("an_not_a_key")
    page.get_by_label("API key").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not know this key")
    assert page.evaluate("sessionStorage.length") == 0

    sign_in(page, server.key)
    for view in ("Chat", "Gallery", "Queue", "Models", "Keys", "API", "Create"):
        open_view(page, view)
        assert_accessible(page)
        screenshot(page, f"{view.lower()}-dark")
    context.close()

    assert usable_ms < USABLE_MS
    assert not foreign_urls
    assert len(page_bytes) > 20
    assert 0 < sum(page_bytes.values()) < MAX_PAGE_BYTES


def test_the_keyboard_alone_is_enough_and_signing_out_forgets_the_key(browser: Browser, server: LiveServer) -> None:
    context = browser.new_context(base_url=f"http://localhost:{server.port}", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto("/")
    page.keyboard.type(server.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Create")).to_be_visible()
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("A star")
    with page.expect_response("**/api/generate") as reply:
        page.keyboard.press("Control+Enter")
    assert reply.value.status == 200
    page.get_by_role("link", name="Gallery").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Gallery")).to_be_focused()
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Gallery")).to_be_visible()

    page.get_by_role("button", name="Sign out").last.press("Enter")
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    context.close()
