"""The create view with pictures: added, masked, compared with the result, edited, animated, refused, expired."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.live.page.conftest import ANIMATOR, CONTROLNET, PAINTER, UPSCALER
from tests.support.http.browser import PAGE_TEST, assert_accessible, open_view, screenshot
from tests.support.http.live_server import LiveServer
from tests.support.paths import ROOT

pytestmark = PAGE_TEST

WIDTH, HEIGHT = 176, 96
DESKTOP = pytest.mark.parametrize("size", ["desktop"])  # for what does not depend on the screen
GIVE_FILE = """([type, name, base64, selector]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const target = type === "paste" ? document : document.querySelector(selector);
  const event = type === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
  target.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "city.png"
    path.write_bytes((ROOT / "docs/city-at-night.png").read_bytes())
    return path


def give(page: Page, how: str, picture: Path, on: str = "form.form textarea") -> None:
    """Drops or pastes a file: how is "drop" or "paste". on: the selector of the element that it is dropped on."""
    page.evaluate(GIVE_FILE, [how, picture.name, base64.b64encode(picture.read_bytes()).decode(), on])


def choose(page: Page, place: str, picture: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=f"Add: {place}").click()
    chooser.value.set_files(picture)
    expect(page.get_by_role("button", name=f"Replace: {place}")).to_be_visible()


def use(page: Page, model: str, prompt: str = "") -> None:
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Prompt", exact=True).fill(prompt)


def short_run(page: Page, **fields: str) -> None:
    page.get_by_text("Advanced").click()
    for label, value in {"Steps": "2", **fields}.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_text("Advanced").click()


def sent_by(page: Page, button: str) -> dict[str, Any]:
    """Creates, and returns the request."""
    with page.expect_request("**/api/generate") as request:
        page.get_by_role("button", name=button).click()
    return dict(json.loads(request.value.post_data or ""))


def result_of(page: Page, prompt: str) -> Locator:
    result = page.get_by_role("article", name="Result").filter(has_text=prompt)
    expect(result.get_by_role("button", name="Use again")).to_be_visible()
    return result


def test_a_dropped_picture_is_repainted_where_its_mask_is_white(
    page: Page, server: LiveServer, size: str, picture: Path
) -> None:
    prompt = f"A boat, for the {size}"
    use(page, PAINTER, prompt)
    short_run(page)
    give(page, "drop", picture)
    expect(page.get_by_text(f"{WIDTH} × {HEIGHT}")).to_be_visible()
    page.get_by_role("button", name="Draw a mask").click()
    paint_left_half(page, with_keyboard=size == "phone")
    assert_accessible(page)
    screenshot(page, f"mask-{size}")
    page.get_by_role("button", name="Use mask").click()
    expect(page.get_by_role("button", name="Edit the mask")).to_be_visible()
    page.get_by_label("How much to change").fill("0.9")
    expect(page.get_by_text("0.90: keeps little")).to_be_visible()
    body = sent_by(page, "Create image")

    assert body["strength"] == 0.9
    assert "aspect_ratio" not in body, "the size follows the picture"
    assert server.get(f"/api/files/{body['image']}").body[:4] == b"\x89PNG"
    with Image.open(io.BytesIO(server.get(f"/api/files/{body['mask']}").body)) as mask:
        assert mask.size == (WIDTH, HEIGHT)
        grey = mask.convert("L")
    assert [grey.getpixel(at) for at in ((16, 48), (170, 10))] == [255, 0]

    result = result_of(page, prompt)
    switch = result.get_by_role("button", name="Before and after")
    switch.click()
    divider = result.get_by_role("slider", name="Before and after")
    expect(divider).to_be_focused()
    divider.press("End")
    expect(divider).to_have_value("100")
    before = result.get_by_role("img", name="The picture before")
    assert before.evaluate("image => image.decode().then(() => image.naturalWidth)") == WIDTH
    divider.fill("50")
    assert_accessible(page)
    screenshot(page, f"pictures-{size}")
    switch.click()
    expect(before).to_have_count(0)

    result.get_by_role("button", name="Edit this").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(prompt)
    expect(page.get_by_text(f"“{prompt}”")).to_be_visible()
    expect(page.get_by_role("button", name="Draw a mask")).to_be_visible()
    page.reload()
    expect(page.get_by_text(f"“{prompt}”")).to_be_visible()
    expect(page.get_by_label("Model", exact=True)).to_have_value(PAINTER)
    short_run(page)
    again = sent_by(page, "Create image")
    assert re.fullmatch(r"[0-9A-Za-z]{22}", again["image"]), "the id of the output"
    assert "mask" not in again


def paint_left_half(page: Page, *, with_keyboard: bool) -> None:
    board = page.get_by_role("application")
    page.get_by_label("Brush size").fill("40")
    if with_keyboard:
        board.focus()
        for key in ["ArrowLeft"] * 20 + ["Space", "Shift+ArrowLeft", "Shift+ArrowUp"]:
            page.keyboard.press(key)
        return
    box = board.bounding_box()
    assert box is not None
    for y in (0.3, 0.7):
        page.mouse.move(box["x"] + 2, box["y"] + y * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"], steps=3)
        page.mouse.up()
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Undo").click()


def test_a_picture_of_a_result_is_animated_between_two_frames(page: Page, server: LiveServer, picture: Path) -> None:
    prompt = "A river in spring"
    server.wait(server.submit(prompt=prompt, type="image", model=PAINTER, steps=2))
    open_view(page, "Gallery")
    page.locator("main").get_by_role("button", name=prompt).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Animate this").click()
    expect(page.get_by_role("radio", name="Video")).to_be_checked()
    expect(page.get_by_label("Model", exact=True)).to_have_value(ANIMATOR)
    expect(page.get_by_role("button", name="Replace: First frame")).to_be_visible()
    give(page, "drop", picture, on='[data-slot="last_image"]')
    expect(page.get_by_role("button", name="Replace: Last frame")).to_be_visible()
    assert_accessible(page)
    short_run(page, Frames="9", Width="64", Height="32")
    body = sent_by(page, "Create video")

    assert body["last_image"].startswith("file_")
    result = result_of(page, prompt)
    expect(result.locator("video")).to_be_visible()
    expect(result.get_by_text("a picture, a last frame")).to_be_visible()
    result.get_by_role("button", name="Use again").click()
    expect(page.get_by_role("button", name="Replace: Last frame")).to_be_visible()


@DESKTOP
def test_a_model_that_takes_no_pictures_names_those_that_do(page: Page, picture: Path) -> None:
    expect(page.get_by_text("tiny-scenes takes no pictures.")).to_be_visible()
    give(page, "paste", picture)
    note = page.get_by_role("note")
    expect(note).to_contain_text("tiny-scenes takes no picture: not used.")
    assert_accessible(page)
    assert "image" not in sent_by_keyboard(page)
    note.get_by_role("button", name=PAINTER, exact=True).click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(PAINTER)
    expect(page.get_by_role("button", name="Replace: Picture")).to_be_visible()
    expect(note).to_have_count(0)
    page.get_by_role("button", name="Remove: Picture").click()
    expect(page.get_by_role("button", name="Add: Picture")).to_be_focused()


def sent_by_keyboard(page: Page) -> dict[str, Any]:
    page.get_by_label("Prompt", exact=True).fill("A pond")
    with page.expect_request("**/api/generate") as request:
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
    return dict(json.loads(request.value.post_data or ""))


@DESKTOP
def test_a_map_is_followed_and_the_result_is_enlarged(page: Page, picture: Path) -> None:
    use(page, PAINTER, "A bridge")
    choose(page, "Map", picture)
    page.get_by_label("How closely").fill("0.7")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("2")
    page.get_by_label("Upscale").select_option(UPSCALER)
    assert_accessible(page)
    body = sent_by(page, "Create image")

    [control] = body["control"]
    assert (control["model"], control["type"], control["strength"]) == (CONTROLNET, "canny", 0.7)
    assert body["upscale"] == {"model": UPSCALER}
    expect(result_of(page, "A bridge").get_by_text(re.compile(f"to .* {UPSCALER}"))).to_be_visible()


@DESKTOP
def test_errors_are_shown_at_the_picture_they_are_about(
    page: Page, server: LiveServer, picture: Path, tmp_path: Path, console_errors: list[str]
) -> None:
    page.get_by_label("Model", exact=True).select_option(UPSCALER)
    page.get_by_role("button", name="Create image").click()
    expect(page.get_by_role("alert")).to_have_text(f"Picture: {UPSCALER} needs one.")
    expect(page.get_by_role("button", name="Add: Picture")).to_be_focused()
    text = tmp_path / "notes.png"
    text.write_text("no picture at all")
    give(page, "drop", text)
    expect(page.get_by_role("alert")).to_contain_text("notes.png must be")
    expect(page.get_by_role("button", name="Add: Picture")).to_have_attribute("aria-invalid", "true")

    choose(page, "Picture", picture)
    expect(page.get_by_role("alert")).to_be_hidden()
    for file in server.get("/api/files?limit=100").json["files"]:
        server.request("DELETE", f"/api/files/{file['fileId']}")
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("Picture: the server no longer has city.png. Add it again.")
    console_errors.clear()  # Chromium logs the 400 and the 404


@DESKTOP
def test_adapters_are_listed_with_what_they_fit_and_are_no_models_to_choose(page: Page) -> None:
    open_view(page, "Models")
    entry = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=CONTROLNET))
    expect(entry.get_by_text(f"ControlNet · canny · for {PAINTER}")).to_be_visible()
    expect(entry.get_by_role("button", name=f"Remove {CONTROLNET}")).to_be_visible()
    expect(entry.get_by_role("button", name=f"Load {CONTROLNET}")).to_have_count(0)
    open_view(page, "Create")
    model = page.get_by_label("Model", exact=True)
    expect(model.get_by_role("option", name=PAINTER)).to_have_count(1)
    expect(model.get_by_role("option", name=CONTROLNET)).to_have_count(0)
