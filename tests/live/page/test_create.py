"""The create view: images and videos, their options, previews, cancellation and validation errors."""

from __future__ import annotations

import json
import re

from playwright.sync_api import APIResponse, Page, Route, expect

from tests.support.http.browser import PAGE_TEST, assert_accessible, screenshot
from tests.support.http.live_server import LiveServer

pytestmark = PAGE_TEST

BAD_REQUEST_MESSAGE = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


def test_an_image_is_created_and_its_settings_can_be_used_again(page: Page, size: str) -> None:
    page.get_by_label("Prompt", exact=True).fill("A futuristic city at night")
    page.get_by_text("16:9", exact=True).click()
    page.get_by_text("Advanced").click()
    page.get_by_label("Seed", exact=True).fill("6")
    page.get_by_label("Steps").fill("14")
    page.get_by_label("Speed").select_option("balanced")
    page.get_by_label("Noise scheduler").select_option("UniPCMultistepScheduler")
    page.get_by_label("Negative prompt").fill("people")
    page.get_by_role("button", name="Create image").click()

    result = page.get_by_role("article", name="Result")
    expect(result.get_by_role("progressbar").or_(result.get_by_role("img")).first).to_be_visible()
    image = result.get_by_role("img", name="A futuristic city at night")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth > 100)")
    expect(result.get_by_role("button", name="Use again")).to_be_visible()  # the job ended
    expect(result.get_by_text("Seed")).to_be_visible()
    # While the button fades in, axe finds too little contrast.
    expect(page.get_by_role("button", name="Create image")).to_be_enabled()
    assert_accessible(page)
    screenshot(page, f"create-{size}")

    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_label("Noise scheduler").select_option("")
    page.get_by_label("Speed").select_option("")
    result.get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("6")
    expect(page.get_by_label("Steps")).to_have_value("14")
    expect(page.get_by_label("Speed")).to_have_value("balanced")
    expect(page.get_by_label("Noise scheduler")).to_have_value("UniPCMultistepScheduler")
    expect(page.get_by_label("Negative prompt")).to_have_value("people")
    expect(page.get_by_role("radio", name="16:9")).to_be_checked()
    with page.expect_download() as download:
        result.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"job_\d+_\w+-0\.png", download.value.suggested_filename)


def test_clip_skip_and_loras_are_offered_only_for_models_that_take_them(
    page: Page, server: LiveServer, size: str
) -> None:
    page.get_by_text("Advanced").click()
    expect(page.get_by_label("Clip skip")).to_have_count(0)
    page.get_by_label("Model").select_option(f"old-master-{size}")
    page.get_by_label("Prompt", exact=True).fill("A lake")
    page.get_by_label("Clip skip").fill("1")
    page.get_by_role("button", name="Add a LoRA").click()
    page.get_by_label("LoRA", exact=True).select_option("wash")
    page.get_by_label("Weight of wash").fill("0.8")
    assert_accessible(page)
    with page.expect_response("**/api/generate") as reply:
        page.get_by_role("button", name="Create image").click()
    body = json.loads(reply.value.request.post_data or "")
    assert (body["model"], body["clip_skip"]) == (f"old-master-{size}", 1)
    assert body["loras"] == [{"name": "wash", "weight": 0.8}]
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text("wash 0.8")).to_be_visible()
    failed = result.get_by_text("Failed").or_(result.get_by_text("It failed")).first
    expect(failed).to_be_visible()  # the checkpoint has no usable weights

    page.get_by_role("button", name="Remove wash").click()
    result.get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Weight of wash")).to_have_value("0.8")
    expect(page.get_by_label("Clip skip")).to_have_value("1")


def test_a_video_is_created_and_a_running_video_job_is_canceled(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt", exact=True).fill(f"Ocean waves at sunset, for the {size}")
    page.get_by_label("Seconds").fill("1")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text(f"for the {size}")).to_be_visible()  # and not the result of an earlier test
    expect(result.locator("video")).to_be_visible()
    assert result.locator("video").evaluate(
        "clip => new Promise(done => clip.readyState ? done(true) : clip.onloadedmetadata = () => done(true))"
    )

    page.get_by_label("Steps").fill("100")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()


def test_a_job_stays_canceled_when_the_cancel_response_arrives_after_the_canceled_event(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt", exact=True).fill(f"A red circle grows, for the {size}")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("150")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text(f"grows, for the {size}")).to_be_visible()
    expect(result.get_by_text(re.compile(r"^Step \d+ of 150"))).to_be_visible()
    delayed: list[tuple[Route, APIResponse]] = []
    page.route("**/api/jobs/job_*", lambda route: delayed.append((route, route.fetch())))
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()

    [(route, response)] = delayed
    # The server answered before the job's next step, at which a canceled job ends.
    assert response.json()["status"] == "processing"
    route.fulfill(response=response)
    expect(page.locator("#toasts").get_by_text("Canceled.")).to_be_visible()
    expect(result.get_by_role("button", name="Cancel")).to_have_count(0)


def test_previews_are_shown_while_a_video_is_generated(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt", exact=True).fill("A green star moves to the right")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("150")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text("A green star moves")).to_be_visible()  # and not the result of an earlier test
    preview = result.locator("img.preview")
    expect(preview).to_be_visible()
    first = preview.get_attribute("src") or ""
    assert first.startswith("data:image/jpeg;base64,")
    assert preview.evaluate("image => image.decode().then(() => image.naturalWidth > 4)")
    expect(preview).not_to_have_attribute("src", first)  # a newer preview replaces the first
    assert_accessible(page)
    screenshot(page, f"preview-{size}")
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()


def test_a_validation_error_is_shown_at_its_field_in_the_servers_words(page: Page, console_errors: list[str]) -> None:
    page.get_by_label("Prompt", exact=True).fill("A forest")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("5000")
    with page.expect_response("**/api/generate"):
        page.get_by_role("button", name="Create image").click()

    expect(page.get_by_role("alert")).to_have_text("steps must be a whole number from 1 to 1000.")
    expect(page.get_by_label("Steps")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Steps")).to_be_focused()
    console_errors.remove(BAD_REQUEST_MESSAGE)  # Chromium logs every 400
