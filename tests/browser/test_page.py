"""The page in a real Chromium, before a real server: what a visitor sees, hears of and can do by keyboard."""

import re
import shlex

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from support.browser import chromium
from support.bundles import small_bundle
from support.damaged import truncated_jpeg
from support.media import clip, image_bytes

from mmray.client import Client

TEXT = "a red cat"
IMAGE = {"name": "cat.png", "mimeType": "image/png", "buffer": image_bytes(size=(240, 160))}
SOUND = {"name": "meow.wav", "mimeType": "audio/wav", "buffer": clip(seconds=1.0)}
BROKEN = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": truncated_jpeg()}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class Visit:
    """An open page, and all that the browser said and asked for meanwhile."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.messages, self.requests = [], []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        # With a listener from the start, no chooser opens before Playwright watches for it.
        page.on("filechooser", lambda _: None)
        page.goto(url)
        expect(page.locator("#labels li").first).to_be_attached()

    def give(self, *, image=None, text=None, audio=None):
        if image:
            self.page.set_input_files("[name=image]", image)
        if audio:
            self.page.set_input_files("[name=audio]", audio)
        if text:
            self.page.get_by_role("textbox", name="Text").fill(text)

    def predict(self):
        self.page.get_by_role("button", name="Predict").click()

    def counted(self):
        """Text of the line of each modality."""
        lines = self.page.locator("#without li").all_inner_texts()
        return dict(line.split("\n", 1) for line in lines)


@pytest.fixture
def visit(browser, server):
    page = browser.new_page()
    yield Visit(page, server.url)
    page.close()


def percent(score):
    return f"{100 * score:.1f} %"


def test_a_record_is_predicted_and_the_answer_is_that_of_the_api(visit):
    expected = Client(visit.url).predict({"text": TEXT})
    visit.give(text=TEXT)
    visit.predict()
    expect(visit.page.locator("#label")).to_have_text(expected["label"])
    expect(visit.page.locator("#score")).to_have_text(percent(expected["score"]))
    expect(visit.page.get_by_role("status")).to_have_text(
        f"{expected['label']}, {percent(expected['score'])}, from text"
    )
    shown = visit.page.locator("#scores li").all_inner_texts()
    assert shown == [f"{label}\n{percent(score)}" for label, score in expected["scores"].items()]
    assert visit.counted() == {"Image": "not given", "Text": "the only input", "Sound": "not given"}
    expect(visit.page.locator("#times")).to_contain_text("preprocessing")
    assert not visit.messages


def test_the_same_request_is_shown_as_a_command_that_gives_the_same_answer(visit):
    text = 'it\'s @a "red" cat'
    visit.give(text=text)
    visit.predict()
    visit.page.get_by_text("The same request with curl").click()
    words = shlex.split(visit.page.locator("#curl").inner_text().replace("\\\n", ""))
    assert words == ["curl", "--form-string", f"text={text}", f"{visit.url}/v1/predict"]


def test_all_three_modalities_count_and_nothing_is_asked_of_any_other_server(visit):
    visit.give(image=IMAGE, text=TEXT, audio=SOUND)
    expect(visit.page.get_by_role("img", name="Preview of the image")).to_be_visible()
    expect(visit.page.get_by_role("img", name="Waveform of the sound")).to_be_visible()
    expect(visit.page.locator("#audio-note")).to_contain_text("meow.wav, 1.0 s")
    visit.predict()
    expect(visit.page.locator("#result")).to_be_visible()
    assert set(visit.counted()) == {"Image", "Text", "Sound"}
    assert not {"not given", "the only input"} & set(visit.counted().values())
    assert all(url.startswith(visit.url) for url in visit.requests)
    assert not visit.messages


def test_an_unusable_image_is_named_in_words_and_the_rest_stays(visit):
    visit.give(image=BROKEN, text=TEXT)
    visit.predict()
    expect(visit.page.get_by_role("alert").filter(has_text="image")).to_be_visible()
    expect(visit.page.locator("#image-note")).to_have_text("cut.jpg could not be used.")
    expect(visit.page.locator("[name=image]")).to_have_attribute("aria-invalid", "true")
    expect(visit.page.locator("#result")).to_be_hidden()
    visit.page.get_by_role("button", name="Remove the image").click()
    expect(visit.page.locator("#problem")).to_be_hidden()
    visit.predict()
    expect(visit.page.locator("#result")).to_be_visible()


def test_foreign_words_are_shown_as_text_and_no_inline_script_runs(visit):
    name = "<img src=x onerror=alert(1)>.jpg"
    visit.give(image=BROKEN | {"name": name})
    visit.predict()
    expect(visit.page.locator("#image-note")).to_have_text(f"{name} could not be used.")
    visit.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
        }"""
    )
    assert visit.page.evaluate("() => window.ran") is None


def test_a_server_that_does_not_answer_is_named_in_words(visit):
    visit.give(text=TEXT)
    visit.page.context.set_offline(True)
    visit.predict()
    expect(visit.page.locator("#problem")).to_contain_text("The server does not answer")
    visit.page.context.set_offline(False)
    visit.predict()
    expect(visit.page.locator("#result")).to_be_visible()


def test_a_sample_is_predicted_by_one_click(browser, server):
    with server.also("samples", bundle=str(small_bundle().path), samples=True) as url:
        [first, *_] = httpx.get(f"{url}/v1/samples").json()["samples"]
        page = browser.new_page()
        visit = Visit(page, f"{url}/")
        buttons = page.get_by_role("group", name="Samples").get_by_role("button")
        expect(buttons.first).to_have_text(first["record"]["text"])
        buttons.first.click()
        expected = httpx.post(f"{url}/v1/predict", json=first["record"]).json()
        expect(page.locator("#label")).to_have_text(expected["label"])
        not_given = [name for name, said in visit.counted().items() if said == "not given"]
        assert len(not_given) == 3 - len(first["record"])
        assert Axe().run(page).violations_count == 0
        assert not visit.messages
        page.close()


def test_the_keyboard_alone_is_enough(visit):
    page = visit.page
    keyboard = page.keyboard
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="API")).to_be_focused()
    keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files(IMAGE)
    expect(page.get_by_role("button", name="Remove the image")).to_be_visible()
    keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Text")).to_be_focused()
    keyboard.type(TEXT)
    for name in ("audio", "capture", "predict"):
        keyboard.press("Tab")
        expect(page.locator(f"#{name}, [name={name}]")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    assert not visit.messages


def test_files_fall_where_they_belong_wherever_they_are_dropped(visit):
    visit.page.evaluate(
        """([image, sound]) => {
            const data = new DataTransfer();
            for (const { name, mimeType, bytes } of [image, sound])
                data.items.add(new File([new Uint8Array(bytes)], name, { type: mimeType }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        [{**{k: f[k] for k in ("name", "mimeType")}, "bytes": list(f["buffer"])} for f in (IMAGE, SOUND)],
    )
    expect(visit.page.locator("#image-note")).to_contain_text("cat.png")
    expect(visit.page.locator("#audio-note")).to_contain_text("meow.wav")
    visit.predict()
    expect(visit.page.locator("#result")).to_be_visible()
    assert visit.counted()["Text"] == "not given"


def test_a_recorded_sound_is_one_that_the_server_decodes(visit):
    page = visit.page
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#audio-note")).to_have_text(re.compile(r"^(0\.[5-9]|[1-9]\.\d) s$"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#audio-note")).to_contain_text("recording.wav")
    visit.predict()
    expect(page.locator("#result")).to_be_visible()
    assert visit.counted()["Sound"] == "the only input"
    assert not visit.messages


def test_a_token_is_asked_for_kept_for_the_tab_and_asked_for_again_where_it_is_wrong(browser, guarded_server):
    page = browser.new_page()
    page.goto(f"{guarded_server.url}/")
    dialog = page.get_by_role("dialog", name="This server asks for a token")
    field = dialog.locator("#token")
    expect(field).to_be_focused()
    page.keyboard.type("nobody")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("That one was not right.")
    page.keyboard.type(guarded_server.token)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    page.reload()
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#result")).to_be_visible()
    assert guarded_server.token not in page.url
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_breaks_no_rule_of_accessibility_in_any_of_its_states(visit, scheme):
    page = visit.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    states = {
        "empty": lambda: None,
        "given": lambda: visit.give(image=IMAGE, text=TEXT, audio=SOUND),
        "predicted": visit.predict,
        "refused": lambda: (visit.give(image=BROKEN), visit.predict()),
    }
    seen = {"given": ".wave", "predicted": "#result", "refused": "#problem"}
    for state, reach in states.items():
        reach()
        if state in seen:
            expect(page.locator(seen[state])).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, f"{state}: {found.generate_report()}"


def test_nothing_is_cut_off_on_a_narrow_screen(visit):
    page = visit.page
    page.set_viewport_size({"width": 320, "height": 640})
    visit.give(image=IMAGE, text=TEXT, audio=SOUND)
    visit.predict()
    expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
