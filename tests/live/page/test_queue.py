"""The queue view: running jobs and the memory bar."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST


def test_the_queue_shows_memory_by_holder_and_the_shares_add_up_to_one(
    page: Page, server: LiveServer, size: str
) -> None:
    jobs = [server.submit(prompt="Ocean waves at sunset", type="video", duration=4, steps=60) for _ in range(12)]
    open_view(page, "Queue")
    expect(page.get_by_role("list", name="Who holds how much").get_by_text("tiny-motion").first).to_be_visible()
    running = page.locator("section", has=page.get_by_role("heading", name="Running"))
    expect(running.get_by_text("step").first).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"queue-{size}")
    bar = page.locator(".memory .bar")
    shares = bar.evaluate("bar => [...bar.children].map(part => Number(part.style.flexGrow))")
    for job in jobs:
        server.post(f"/api/jobs/{job}/cancel", {})

    assert sum(shares) == pytest.approx(1, abs=1e-3)
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
