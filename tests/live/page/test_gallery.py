"""The gallery view: filters, details, deletion, and prompts that contain HTML."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST

HOSTILE_PROMPT = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_the_gallery_filters_opens_and_deletes_and_never_runs_html_in_a_prompt(
    page: Page, server: LiveServer, size: str
) -> None:
    hostile = server.submit(prompt=HOSTILE_PROMPT, type="image", steps=2)
    server.wait(hostile)
    server.wait(server.submit(prompt="A forest", type="image", steps=4, n=2))
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    open_view(page, "Gallery")
    tile = page.locator("main").get_by_role("button", name=HOSTILE_PROMPT)
    expect(tile).to_be_visible()
    assert_accessible(page)

    page.get_by_label("Kind").select_option("video")
    expect(tile).to_be_hidden()
    page.get_by_label("Kind").select_option("image")
    page.get_by_label("Kind").select_option("")
    page.get_by_label("State").select_option("completed")
    expect(page.locator("main").get_by_role("button", name="A forest").first).to_be_visible()
    screenshot(page, f"gallery-{size}")
    tile.click()
    box = page.get_by_role("dialog")
    expect(box.get_by_text(HOSTILE_PROMPT)).to_be_visible()
    assert_accessible(page)
    box.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this?").get_by_role("button", name="Delete").click()
    expect(tile).to_have_count(0)
    assert server.get(f"/api/status/{hostile}").status == 404
    assert not alerts
