"""Helpers for tests of the page in Chromium: the two screen sizes, navigation, accessibility, screenshots."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 800}}
TIMEOUT_MS = 60_000  # generous: the tests share two cores with the server and the browser
SCREENSHOTS = os.environ.get("PAGE_PICTURES")  # folder for screenshots, which scripts/make_page_pictures.py reads

# The markers of every test module of the page.
PAGE_TEST = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

expect.set_options(timeout=TIMEOUT_MS)


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()


def open_view(page: Page, view: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view, exact=True).click()
    # By its name: the view before has a heading too, and stays until the code of the next one is there.
    heading = page.get_by_role("main").get_by_role("heading", level=1, name=re.compile(f"^{view}"))
    expect(heading).to_be_visible()


def assert_accessible(page: Page) -> None:
    """Fails on a serious or critical violation that axe-core finds, and on a page that scrolls sideways."""
    violations = Axe().run(page).response["violations"]
    serious = [
        (rule["id"], [node["target"] for node in rule["nodes"]])
        for rule in violations
        if rule["impact"] in ("serious", "critical")
    ]
    assert not serious
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def screenshot(page: Page, name: str) -> None:
    """Saves a screenshot if the environment names a folder for them."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
