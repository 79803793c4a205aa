"""The page in a real browser against a real server: every view, on a phone and on a desktop, as a person would use it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import chat_folder, safetensors_bytes, stable_diffusion_folder, write_json
from tests.support.fake_hub import Hub, fake_hub
from tests.support.live_server import LiveServer

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import APIResponse, Browser, Page, Route, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
expect.set_options(timeout=60_000)  # a busy machine
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 800}}
USABLE_MS = 1000
MAX_BYTES = 150 * 1024
PICTURES = os.environ.get("PAGE_PICTURES")  # a folder: screenshots go there, for scripts/make_page_pictures.py
WEIGHTS = 8 << 20
HEADER = json.dumps({"w": {"dtype": "F16", "shape": [WEIGHTS // 2], "data_offsets": [0, WEIGHTS]}}).encode()
BIG = len(HEADER).to_bytes(8, "little") + HEADER + bytes(WEIGHTS)
LORA = safetensors_bytes({"unet.down.lora_A.weight": ("F16", [4, 2], 16)})
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Has "owner/phone" and "owner/desktop": language models of eight megabytes that hold nothing."""
    folder = chat_folder(tmp_path_factory.mktemp("upstream"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.safetensors": BIG}
    with fake_hub({f"owner/{size}": files for size in SIZES}) as hub:
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("page")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    for size in SIZES:  # one each: what failed to load is not tried again at once
        encoder = {"text_encoder": ["transformers", "CLIPTextModel"]}
        master = stable_diffusion_folder(folder / f"data/models/old-master-{size}", **encoder)
        write_json(master / "text_encoder/config.json", {"num_hidden_layers": 12})
        (master / "text_encoder/model.safetensors").write_bytes(LORA)
    (folder / "data/loras").mkdir()
    for name in ("ink", "wash"):
        (folder / f"data/loras/{name}.safetensors").write_bytes(LORA)
    live = LiveServer(folder / "data", env).start()
    jobs = [live.submit(prompt="A forest", type=kind, steps=2) for kind in ("image", "video")]
    assert live.post("/api/chat", {"message": "Hi", "max_tokens": 2}).status == 200
    assert [live.wait(job)["status"] for job in jobs] == ["completed"] * 2  # every model is in memory now
    yield live
    assert live.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def complaints() -> list[str]:
    """What the browser finds wrong."""
    return []


@pytest.fixture
def page(browser: Browser, server: LiveServer, size: str, complaints: list[str]) -> Iterator[Page]:
    """Signed in; whatever the browser complains about fails the test."""
    context = browser.new_context(
        viewport=SIZES[size],  # type: ignore[arg-type]  # two sizes
        base_url=f"http://localhost:{server.port}",
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    sign_in(page, server.key)
    yield page
    context.close()
    assert not complaints


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()


def go(page: Page, view: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("main").get_by_role("heading", level=1)).to_be_visible()


def no_serious_violation(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    serious = [
        (rule["id"], [node["target"] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert not serious
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_a_picture_is_made_watched_and_made_again(page: Page, size: str) -> None:
    page.get_by_label("Prompt").fill("A futuristic city at night")
    page.get_by_text("16:9", exact=True).click()
    page.get_by_text("Advanced").click()
    page.get_by_label("Seed", exact=True).fill("6")
    page.get_by_label("Steps").fill("8")
    page.get_by_label("Noise scheduler").select_option("UniPCMultistepScheduler")
    page.get_by_label("Leave out").fill("people")
    page.get_by_role("button", name="Create image").click()

    result = page.get_by_role("article", name="Result")
    expect(result.get_by_role("progressbar").or_(result.get_by_role("img")).first).to_be_visible()
    made = result.get_by_role("img", name="A futuristic city at night")
    expect(made).to_be_visible()
    assert made.evaluate("image => image.decode().then(() => image.naturalWidth > 100)")
    expect(result.get_by_text("Seed")).to_be_visible()
    expect(page.get_by_role("button", name="Create image")).to_be_enabled()  # axe would take it halfway to its colour
    no_serious_violation(page)
    picture(page, f"create-{size}")

    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_label("Noise scheduler").select_option("")
    result.get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("6")
    expect(page.get_by_label("Steps")).to_have_value("8")
    expect(page.get_by_label("Noise scheduler")).to_have_value("UniPCMultistepScheduler")
    expect(page.get_by_label("Leave out")).to_have_value("people")
    expect(page.get_by_role("radio", name="16:9")).to_be_checked()
    with page.expect_download() as download:
        result.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"job_\d+_\w+-0\.png", download.value.suggested_filename)


def test_what_only_some_models_take_is_offered_for_those_and_said(page: Page, server: LiveServer, size: str) -> None:
    page.get_by_text("Advanced").click()
    expect(page.get_by_label("Clip skip")).to_have_count(0)
    page.get_by_label("Model").select_option(f"old-master-{size}")
    page.get_by_label("Prompt").fill("A lake")
    page.get_by_label("Clip skip").fill("1")
    page.get_by_role("button", name="Add a LoRA").click()
    page.get_by_label("LoRA", exact=True).select_option("wash")
    page.get_by_label("Weight of wash").fill("0.8")
    no_serious_violation(page)
    with page.expect_response("**/api/generate") as reply:
        page.get_by_role("button", name="Create image").click()
    asked = json.loads(reply.value.request.post_data or "")
    assert (asked["model"], asked["clip_skip"]) == (f"old-master-{size}", 1)
    assert asked["loras"] == [{"name": "wash", "weight": 0.8}]
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text("wash 0.8")).to_be_visible()
    expect(
        result.get_by_text("Failed").or_(result.get_by_text("It failed")).first
    ).to_be_visible()  # its weights are none

    page.get_by_role("button", name="Without wash").click()
    result.get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Weight of wash")).to_have_value("0.8")
    expect(page.get_by_label("Clip skip")).to_have_value("1")


def test_a_clip_is_made_and_a_running_one_is_canceled(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt").fill(f"Ocean waves at sunset, for the {size}")
    page.get_by_label("Seconds").fill("1")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text(f"for the {size}")).to_be_visible()  # not what another test made last
    expect(result.locator("video")).to_be_visible()
    assert result.locator("video").evaluate(
        "clip => new Promise(done => clip.readyState ? done(true) : clip.onloadedmetadata = () => done(true))"
    )

    page.get_by_label("Steps").fill("100")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()


def test_a_canceled_job_stays_canceled_when_the_answer_to_the_click_comes_after_the_news(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt").fill(f"A red circle grows, for the {size}")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("150")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text(f"grows, for the {size}")).to_be_visible()
    expect(result.get_by_text(re.compile(r"^Step \d+ of 150"))).to_be_visible()
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/api/jobs/job_*", lambda route: held.append((route, route.fetch())))
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()

    [(route, answer)] = held
    assert answer.json()["status"] == "processing"  # true when it was said: it ended before its next step
    route.fulfill(response=answer)
    expect(page.locator("#toasts").get_by_text("Canceled.")).to_be_visible()
    expect(result.get_by_role("button", name="Cancel")).to_have_count(0)


def test_what_is_being_made_is_shown_while_it_is_made(page: Page, size: str) -> None:
    page.get_by_role("radio", name="Video").check(force=True)
    page.get_by_label("Prompt").fill("A green star moves to the right")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("150")
    page.get_by_label("Seconds").fill("8")
    page.get_by_role("button", name="Create video").click()
    result = page.get_by_role("article", name="Result")
    expect(result.get_by_text("A green star moves to the right")).to_be_visible()  # not what another test made last
    preview = result.locator("img.preview")
    expect(preview).to_be_visible()
    first = preview.get_attribute("src") or ""
    assert first.startswith("data:image/jpeg;base64,")
    assert preview.evaluate("image => image.decode().then(() => image.naturalWidth > 4)")
    expect(preview).not_to_have_attribute("src", first)  # it goes on
    no_serious_violation(page)
    picture(page, f"preview-{size}")
    result.get_by_role("button", name="Cancel").click()
    expect(result.get_by_text("Canceled")).to_be_visible()


def test_a_wrong_value_is_told_in_the_servers_words_at_its_field(page: Page, complaints: list[str]) -> None:
    page.get_by_label("Prompt").fill("A forest")
    page.get_by_text("Advanced").click()
    page.get_by_label("Steps").fill("5000")
    with page.expect_response("**/api/generate"):
        page.get_by_role("button", name="Create image").click()

    expect(page.get_by_role("alert")).to_have_text("steps must be a whole number from 1 to 1000.")
    expect(page.get_by_label("Steps")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Steps")).to_be_focused()
    complaints.remove(REFUSED)  # browsers note each of those


def test_a_chat_streams_remembers_stops_and_begins_anew(page: Page, size: str) -> None:
    go(page, "Chat")
    message = page.get_by_label("Message", exact=True)
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("24")
    message.fill("What can you help me with?")
    message.press("Enter")
    reply = page.get_by_role("article", name="Reply")
    expect(reply.get_by_text("tokens")).to_be_visible()
    assert len(reply.locator(".text").inner_text().split()) > 3
    no_serious_violation(page)

    page.get_by_label("Longest reply").fill("400")
    message.fill("Write a long story about the sea.")
    with page.expect_request("**/api/chat") as asked:
        message.press("Enter")
    assert json.loads(asked.value.post_data or "")["conversationId"].startswith("conv_")
    page.get_by_role("button", name="Stop").click()
    expect(reply.last.get_by_text("Stopped")).to_be_visible()

    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("article")).to_have_count(0)
    page.get_by_label("Longest reply").fill("4")
    page.get_by_role("log").get_by_role("button", name="What can you help me with?").click()
    expect(page.get_by_role("article").first).to_be_visible()


def test_conversations_are_kept_by_the_server_named_and_forgotten(page: Page, server: LiveServer, size: str) -> None:
    first = f"My name is Ada, on a {size}."
    begun = server.post("/api/chat", {"message": first, "max_tokens": 4, "system": "Be brief."}).json["conversationId"]
    server.post("/api/chat", {"message": "Something else", "max_tokens": 2})
    go(page, "Chat")
    mine = page.get_by_role("complementary", name="Conversations")
    mine.get_by_role("button", name=first, exact=True).click()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text(first)
    page.get_by_text("Model and system prompt").click()
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    page.get_by_label("Longest reply").fill("300")
    message = page.get_by_label("Message", exact=True)
    message.fill("Write a long story about me.")
    message.press("Enter")
    reply = page.get_by_role("article", name="Reply").last
    expect(reply.locator(".text")).not_to_have_text("")
    page.get_by_role("button", name="Stop").click()
    expect(reply.get_by_text("Stopped")).to_be_visible()
    expect_kept(server, begun, 4)  # what was read of it is part of the conversation

    mine.get_by_role("button", name=f"Rename “{first}”").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill(f"Ada's {size}")
    no_serious_violation(page)
    page.get_by_role("button", name="Rename", exact=True).click()
    thread = mine.get_by_role("button", name=f"Ada's {size}", exact=True)
    page.get_by_text("Model and system prompt").click()
    picture(page, f"chat-{size}")
    expect(thread).to_have_attribute("aria-current", "true")
    page.reload()
    expect(thread).to_be_visible()
    expect(page.get_by_role("article", name="Reply")).to_have_count(2)

    mine.get_by_role("button", name=f"Forget “Ada's {size}”").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(thread).to_have_count(0)
    expect(page.get_by_role("heading", name="A new conversation")).to_be_visible()
    assert server.get(f"/api/conversations/{begun}").status == 404


def expect_kept(server: LiveServer, conversation: str, n_messages: int) -> None:
    """In its own time: the server hears of a browser that left when it next looks."""
    server.becomes(f"/api/conversations/{conversation}", lambda told: len(told["messages"]) == n_messages)


def test_a_conversation_outlives_a_reload_of_its_tab_and_goes_on(page: Page) -> None:
    go(page, "Chat")
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("6")
    message = page.get_by_label("Message", exact=True)
    message.fill("My name is Ada.")
    message.press("Enter")
    reply = page.get_by_role("article", name="Reply")
    expect(reply.get_by_text("tokens")).to_be_visible()
    said = reply.locator(".text").inner_text()

    page.reload()
    expect(page.get_by_role("heading", level=1, name="Chat")).to_be_visible()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text("My name is Ada.")
    assert reply.locator(".text").inner_text() == said
    expect(page.get_by_label("Longest reply")).to_have_value("6")
    with page.expect_request("**/api/chat") as asked:
        message.fill("What is my name?")
        message.press("Enter")
    assert json.loads(asked.value.post_data or "")["conversationId"].startswith("conv_")
    expect(reply).to_have_count(2)
    expect(reply.last.get_by_text("tokens")).to_be_visible()


def test_who_writes_before_the_conversations_are_there_is_not_interrupted(page: Page) -> None:
    held: list[Route] = []
    page.route("**/api/conversations*", lambda route: held.append(route))
    go(page, "Chat")
    page.get_by_text("Model and system prompt").click()
    page.get_by_label("Longest reply").fill("6")
    message = page.get_by_label("Message", exact=True)
    with page.expect_request("**/api/chat"):
        message.fill("I type fast.")
        message.press("Enter")
    while held:
        held.pop().continue_()
    expect(page.get_by_role("article", name="Reply").get_by_text("tokens")).to_be_visible()
    expect(page.get_by_role("article", name="You").locator(".text")).to_have_text("I type fast.")


def test_the_gallery_filters_opens_and_deletes_and_never_runs_what_people_wrote(
    page: Page, server: LiveServer, size: str
) -> None:
    hostile = server.submit(prompt=HOSTILE, type="image", steps=2)
    server.wait(hostile)
    server.wait(server.submit(prompt="A forest", type="image", steps=4, n=2))
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    go(page, "Gallery")
    tile = page.locator("main").get_by_role("button", name=HOSTILE)
    expect(tile).to_be_visible()
    no_serious_violation(page)

    page.get_by_label("Kind").select_option("video")
    expect(tile).to_be_hidden()
    page.get_by_label("Kind").select_option("image")
    page.get_by_label("Kind").select_option("")
    page.get_by_label("State").select_option("completed")
    expect(page.locator("main").get_by_role("button", name="A forest").first).to_be_visible()
    picture(page, f"gallery-{size}")
    tile.click()
    box = page.get_by_role("dialog")
    expect(box.get_by_text(HOSTILE)).to_be_visible()
    no_serious_violation(page)
    box.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this?").get_by_role("button", name="Delete").click()
    expect(tile).to_have_count(0)
    assert server.get(f"/api/status/{hostile}").status == 404
    assert not alerts


def test_the_queue_shows_who_holds_what_and_it_adds_up(page: Page, server: LiveServer, size: str) -> None:
    jobs = [server.submit(prompt="Ocean waves at sunset", type="video", duration=4, steps=60) for _ in range(12)]
    go(page, "Queue")
    expect(page.get_by_role("list", name="Who holds how much").get_by_text("tiny-motion").first).to_be_visible()
    running = page.locator("section", has=page.get_by_role("heading", name="Running"))
    expect(running.get_by_text("step").first).to_be_visible()
    no_serious_violation(page)
    picture(page, f"queue-{size}")
    bar = page.locator(".memory .bar")
    shares = bar.evaluate("bar => [...bar.children].map(part => Number(part.style.flexGrow))")
    for job in jobs:
        server.post(f"/api/jobs/{job}/cancel", {})

    assert sum(shares) == pytest.approx(1, abs=1e-3)
    expect(page.get_by_text("Nothing runs.")).to_be_visible()


def test_models_are_told_loaded_pinned_and_unloaded(page: Page, size: str) -> None:
    go(page, "Models")
    line = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="tiny-scenes"))
    expect(line.get_by_text("default")).to_be_visible()
    loading = line.get_by_role("button", name="Load tiny-scenes", exact=True)
    expect(loading.or_(line.get_by_text("In memory")).first).to_be_visible()
    if loading.is_visible():  # a test before this one may have unloaded it
        loading.click()
    expect(line.get_by_text("In memory")).to_be_visible()
    line.get_by_role("button", name="Pin tiny-scenes", exact=True).click()
    expect(line.get_by_text("stays in memory")).to_be_visible()
    no_serious_violation(page)
    picture(page, f"models-{size}")
    line.get_by_role("button", name="Unpin tiny-scenes").click()
    expect(line.get_by_text("pinned")).to_be_hidden()
    line.get_by_role("button", name="Unload tiny-scenes").click()
    expect(line.get_by_text("On disk")).to_be_visible()


def test_a_source_that_is_none_is_told_in_the_servers_words_and_a_pull_shows_how_it_ends(
    page: Page, server: LiveServer, complaints: list[str]
) -> None:
    go(page, "Models")
    page.get_by_role("button", name="Pull", exact=True).click()
    page.get_by_label("Source").fill("/no/such/folder")
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    expect(page.get_by_role("alert")).to_contain_text("source must be")
    no_serious_violation(page)
    complaints.clear()  # the browser's note of that 400
    page.get_by_label("Source").fill("https://127.0.0.1:9/none.safetensors#sha256=" + "0" * 64)
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    pulls = page.locator("section", has=page.get_by_role("heading", name="On their way"))
    expect(pulls.get_by_role("button", name=re.compile("Try again|Cancel"))).to_be_visible()


def test_a_model_is_pulled_with_progress_and_then_removed(page: Page, hub: Hub, size: str) -> None:
    go(page, "Models")
    hub.hold_at = WEIGHTS // 2
    page.get_by_role("button", name="Pull", exact=True).click()
    page.get_by_label("Source").fill(f"owner/{size}")
    page.get_by_label("Name").fill(f"pulled-{size}")
    page.get_by_role("dialog").get_by_role("button", name="Pull").click()
    bar = page.get_by_role("progressbar", name=f"Pulling owner/{size}")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("^[1-9][0-9]$"))
    expect(page.get_by_text(re.compile(r"of 8\.\d MiB"))).to_be_visible()
    no_serious_violation(page)
    picture(page, f"pull-{size}")
    hub.let_go()

    line = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=f"pulled-{size}"))
    expect(line.get_by_text("On disk")).to_be_visible()
    expect(bar).to_have_count(0)
    remove(page, f"pulled-{size}")


def test_a_model_is_added_from_a_folder_and_removed(page: Page, tmp_path: Path, size: str) -> None:
    folder = chat_folder(tmp_path / "checkpoint")
    go(page, "Models")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_label("Source").fill(str(folder))
    page.get_by_role("textbox", name="Name").fill(f"guest-{size}")
    no_serious_violation(page)
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    line = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=f"guest-{size}"))
    expect(line.get_by_text("On disk")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    remove(page, f"guest-{size}")
    assert folder.is_dir(), "what lies elsewhere stays"


def remove(page: Page, model: str) -> None:
    page.get_by_role("button", name=f"Remove {model}").click()
    box = page.get_by_role("dialog", name=f"Remove {model}?")
    no_serious_violation(page)
    box.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name=model)).to_have_count(0)


def test_a_key_is_made_shown_once_used_and_revoked(page: Page, server: LiveServer, size: str) -> None:
    go(page, "Keys")
    name = f"studio {size}"
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Plan").select_option("free")
    page.get_by_role("button", name="Make it").click()
    key = page.locator("[data-new-key]").inner_text()
    no_serious_violation(page)
    page.get_by_role("button", name="I have it").click()
    assert server.post("/api/generate", {"prompt": "A star", "type": "image", "steps": 2}, key=key).status == 200

    go(page, "Create")
    go(page, "Keys")
    row = page.get_by_role("row").filter(has_text=name)
    expect(row.get_by_text("1 of 10")).to_be_visible()
    assert key not in page.content()
    no_serious_violation(page)
    picture(page, f"keys-{size}")
    row.get_by_role("button", name=f"Revoke {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)


def test_the_document_carries_ones_key_and_runs(page: Page, server: LiveServer, size: str) -> None:
    go(page, "API")
    chapter = page.locator("#doc-limits")
    assert server.key not in page.inner_text("main")
    chapter.get_by_role("button", name="Copy").click()
    assert f"Authorization: Bearer {server.key}" in page.evaluate("navigator.clipboard.readText()")
    chapter.get_by_role("button", name="Run it here").click()
    expect(chapter.get_by_text('"plan": "enterprise"')).to_be_visible()
    page.get_by_text("Python", exact=True).click()
    expect(chapter.get_by_text("urllib.request").first).to_be_visible()
    expect(page.locator("#doc-reference").get_by_text("/api/keys/{key_id}")).to_be_visible()
    no_serious_violation(page)
    picture(page, f"docs-{size}")


def test_it_opens_within_a_second_small_and_without_a_key_shows_nothing(browser: Browser, server: LiveServer) -> None:
    context = browser.new_context(
        base_url=f"http://localhost:{server.port}", color_scheme="dark", viewport={"width": 1280, "height": 800}
    )
    page = context.new_page()
    client = context.new_cdp_session(page)
    ours: dict[str, int] = {}  # request → bytes, of the page itself
    strangers: list[str] = []
    page.on(
        "request",
        lambda request: request.url.startswith(f"http://localhost:{server.port}/") or strangers.append(request.url),
    )
    client.send("Network.enable")
    client.on(
        "Network.responseReceived",
        lambda event: "/api/" in event["response"]["url"] or ours.setdefault(event["requestId"], 0),
    )
    client.on(
        "Network.loadingFinished",
        lambda event: event["requestId"] in ours and ours.update({event["requestId"]: event["encodedDataLength"]}),
    )
    page.goto("/")
    expect(page.get_by_label("API key")).to_be_focused()
    usable_ms = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    no_serious_violation(page)
    picture(page, "signin-dark")
    page.get_by_label("API key").fill("an_not_a_key")
    page.get_by_label("API key").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    assert page.evaluate("sessionStorage.length") == 0

    sign_in(page, server.key)
    for view in ("Chat", "Gallery", "Queue", "Models", "Keys", "API", "Create"):
        go(page, view)
        no_serious_violation(page)  # in the dark, too
        picture(page, f"{view.lower()}-dark")
    context.close()

    assert usable_ms < USABLE_MS
    assert not strangers
    assert len(ours) > 20
    assert 0 < sum(ours.values()) < MAX_BYTES


def test_the_keyboard_alone_is_enough_and_signing_out_forgets_the_key(browser: Browser, server: LiveServer) -> None:
    context = browser.new_context(base_url=f"http://localhost:{server.port}", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto("/")
    page.keyboard.type(server.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Create")).to_be_visible()
    page.get_by_label("Prompt").focus()
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
