"""The API view: documentation with the user's own key in its examples, which run in the page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST


def test_the_api_documentation_fills_in_the_users_key_and_runs_an_example(
    page: Page, server: LiveServer, size: str
) -> None:
    open_view(page, "API")
    chapter = page.locator("#doc-limits")
    assert server.key not in page.inner_text("main")
    chapter.get_by_role("button", name="Copy").click()
    assert f"Authorization: Bearer {server.key}" in page.evaluate("navigator.clipboard.readText()")
    chapter.get_by_role("button", name="Run it here").click()
    expect(chapter.get_by_text('"plan": "enterprise"')).to_be_visible()
    page.get_by_text("Python", exact=True).click()
    expect(chapter.get_by_text("urllib.request").first).to_be_visible()
    expect(page.locator("#doc-reference").get_by_text("/api/keys/{key_id}")).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"docs-{size}")
