"""The models view: load, pin, unload, pull, add and remove."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.support.checkpoints import chat_folder
from tests.support.fake_hub import Hub
from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST


def test_a_model_is_loaded_pinned_and_unloaded(page: Page, size: str) -> None:
    open_view(page, "Models")
    entry = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="tiny-scenes"))
    expect(entry.get_by_text("default")).to_be_visible()
    load_button = entry.get_by_role("button", name="Load tiny-scenes", exact=True)
    expect(load_button.or_(entry.get_by_text("In memory")).first).to_be_visible()
    if load_button.is_visible():  # an earlier test may have unloaded it
        load_button.click()
    expect(entry.get_by_text("In memory")).to_be_visible()
    entry.get_by_role("button", name="Pin tiny-scenes", exact=True).click()
    expect(entry.get_by_text("stays in memory")).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"models-{size}")
    entry.get_by_role("button", name="Unpin tiny-scenes").click()
    expect(entry.get_by_text("pinned")).to_be_hidden()
    entry.get_by_role("button", name="Unload tiny-scenes").click()
    expect(entry.get_by_text("On disk")).to_be_visible()


def test_a_model_that_was_set_aside_says_why_and_can_be_tried_again(page: Page, server: LiveServer) -> None:
    """The list is the server's, with one model as it is after three ends of the process."""
    reason = "The model tiny-motion is set aside: the server process ended 3 times while it loaded it."
    aside = {"state": "failed", "retryInSeconds": 594, "failure": {"message": reason, "detail": None}}
    asked: list[str] = []

    def listed(route: Route) -> None:
        found = route.fetch().json()
        found["models"] = [model | aside if model["name"] == "tiny-motion" else model for model in found["models"]]
        route.fulfill(json=found)

    page.route("**/api/models", listed)
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    open_view(page, "Models")
    entry = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="tiny-motion"))
    expect(entry.get_by_text(reason)).to_be_visible()
    expect(entry.get_by_text("tried again in 594 s")).to_be_visible()

    entry.get_by_role("button", name="Try again tiny-motion").click()
    page.unroute("**/api/models")

    expect(entry.get_by_text("In memory")).to_be_visible(timeout=60_000)
    assert [url.rpartition("/api/")[2] for url in asked] == ["models/tiny-motion/unload", "models/tiny-motion/load"]


def test_an_invalid_source_shows_the_servers_error_and_a_failed_pull_can_be_tried_again(
    page: Page, server: LiveServer, console_errors: list[str]
) -> None:
    open_view(page, "Models")
    page.get_by_role("button", name="Pull", exact=True).click()
    page.get_by_label("Source").fill("/no/such/folder")
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    expect(page.get_by_role("alert")).to_contain_text("source must be")
    assert_accessible(page)
    console_errors.clear()  # Chromium logged the 400
    page.get_by_label("Source").fill("https://127.0.0.1:9/none.safetensors#sha256=" + "0" * 64)
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    pulls = page.locator("section", has=page.get_by_role("heading", name="Downloads"))
    expect(pulls.get_by_role("button", name=re.compile("Try again|Cancel"))).to_be_visible()


def test_a_model_is_pulled_with_progress_and_removed(page: Page, hub: Hub, size: str) -> None:
    open_view(page, "Models")
    hub.hold_at = len(hub.repos[f"owner/{size}"]["model.safetensors"]) // 2
    page.get_by_role("button", name="Pull", exact=True).click()
    page.get_by_label("Source").fill(f"owner/{size}")
    page.get_by_label("Name").fill(f"pulled-{size}")
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    bar = page.get_by_role("progressbar", name=f"Pulling owner/{size}")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("^[1-9][0-9]$"))
    expect(page.get_by_text(re.compile(r"of 8\.\d MiB"))).to_be_visible()
    assert_accessible(page)
    screenshot(page, f"pull-{size}")
    hub.release()

    entry = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=f"pulled-{size}"))
    expect(entry.get_by_text("On disk")).to_be_visible()
    expect(bar).to_have_count(0)
    remove_model(page, f"pulled-{size}")


def test_a_model_is_added_from_a_folder_and_removed(page: Page, tmp_path: Path, size: str) -> None:
    folder = chat_folder(tmp_path / "checkpoint")
    open_view(page, "Models")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_label("Source").fill(str(folder))
    page.get_by_role("textbox", name="Name").fill(f"guest-{size}")
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("chat, LlamaForCausalLM")
    assert_accessible(page)
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    entry = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=f"guest-{size}"))
    expect(entry.get_by_text("On disk")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    remove_model(page, f"guest-{size}")
    assert folder.is_dir(), "removing a model must not delete a folder outside the data directory"


def remove_model(page: Page, model: str) -> None:
    page.get_by_role("button", name=f"Remove {model}").click()
    box = page.get_by_role("dialog", name=f"Remove {model}?")
    assert_accessible(page)
    box.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name=model)).to_have_count(0)
