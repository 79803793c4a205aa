"""The keys view: an API key is created, used and revoked."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST


def test_a_key_is_created_shown_once_used_and_revoked(page: Page, server: LiveServer, size: str) -> None:
    open_view(page, "Keys")
    name = f"studio {size}"
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Plan").select_option("free")
    page.get_by_role("button", name="Create key").click()
    key = page.locator("[data-new-key]").inner_text()
    assert_accessible(page)
    page.get_by_role("button", name="Done").click()
    assert server.post("/api/generate", {"prompt": "A star", "type": "image", "steps": 2}, key=key).status == 200

    open_view(page, "Create")
    open_view(page, "Keys")
    row = page.get_by_role("row").filter(has_text=name)
    expect(row.get_by_text("1 of 10")).to_be_visible()
    assert key not in page.content()
    assert_accessible(page)
    screenshot(page, f"keys-{size}")
    row.get_by_role("button", name=f"Revoke {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
