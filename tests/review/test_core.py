"""The panel in a browser, without Jupyter: its module in Chromium, with its own kernel side behind it."""

import json
import random
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, Handing, Log, curated_rows, need

from arislab import review
from arislab.errors import LakeError, ParameterError
from arislab.review import core, journal, markup
from arislab.review.decisions import sha256

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from review_keys import ORIGIN, answering, opened

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GUIDE = {
    "labels": ["wrong facts", "too vague", "unfair"],
    "ratings": {"clarity": "1 muddled, 5 clear", "care": "1 rude, 5 kind"},
    "categories": ["nurse", "doctor"],
    "guideline": "# Kind\n\nBe **fair**.",
}
EVIL = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><svg onload='window.pwned = 1'>"
    '[go](javascript:window.pwned=1) ![p](http://evil.test/p.png) <iframe src="javascript:window.pwned=1">'
)


@pytest.fixture(scope="module")
def browser():
    need("browser", present=bool(CHROMIUM), why="there is no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"]
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield made
        made.close()


@pytest.fixture
def page(browser):
    """A page of a browser that knows nothing yet; an error in it, or a request to anywhere, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    made, errors = context.new_page(), []
    made.set_default_timeout(10_000)
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("request", lambda r: None if r.url.startswith(("data:", ORIGIN, "http://other.")) else errors.append(r.url))
    yield made
    context.close()
    assert errors == []


def outputs(n, **more):
    """Rows whose outputs can be told apart: "answer 3" and so on."""
    texts = pl.Series("output", [f"answer {i} is a good one" for i in range(n)])
    known = {"queue": "q", "why": "kept", "model": "toy-9"} | more
    rows = curated_rows(n).with_columns(texts)
    return rows.with_columns(pl.lit(value).alias(name) for name, value in known.items())


def panel_of(rows, log=None, **more):
    return review.Panel(rows, reviewer="Ada", decide=log or Log(), **{"dwell_s": 0, "guide": GUIDE} | more)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def shown(page):
    return page.locator(".arislab-output pre").first.inner_text()


def saved(page):
    page.wait_for_function("document.querySelector('.arislab-saved').textContent === 'all saved'")


def summary(log):
    return [(row["custom_id"], row["decision"]) for row in log.rows]


def test_keys_decide_and_what_belongs_to_a_decision_travels_with_it(page):
    log = Log()
    root = opened(page, panel_of(outputs(5), log))
    root.focus()
    press(page, "4", "5", "c", "b", "n")
    page.keyboard.type("reads well")
    press(page, "Enter", "a", "r", "2", "r", "r", "f", "s")
    saved(page)
    assert summary(log) == [
        ("r-0", "approve"), ("r-1", "reject"), ("r-2", "reject"), ("r-3", "flag"), ("r-3", "skip"),
    ]  # fmt: skip
    first = log.rows[0]
    assert json.loads(first["ratings"]) == {"clarity": 4, "care": 5}
    assert (first["category"], first["note"], first["labels"]) == ("doctor", "reads well", "[]")
    assert first["shown_sha256"] == sha256("answer 0 is a good one")
    assert first["asked_sha256"] == sha256("input 0")
    assert first["shown_at"] <= first["decided_at"]
    assert [row["labels"] for row in log.rows[1:]] == ['["too vague"]', "[]", "[]", "[]"]
    assert [row["client_seq"] for row in log.rows] == [1, 2, 3, 4, 5]
    assert {row["queue"] for row in log.rows} == {"q"}
    assert all(row["blind"] for row in log.rows), "a flag that is stored tells nothing of the output"
    assert log.rows[2]["ratings"] is None
    assert shown(page) == "answer 4 is a good one"
    assert "3 decided · 1 skipped · 1 left" in root.inner_text()


def test_score_and_model_are_in_the_page_only_after_the_decision(page):
    rows = outputs(3, inclusion_prob=0.123456, quality_score=0.654321, why="near the cut")
    root = opened(page, panel_of(rows))
    root.focus()
    heard = "JSON.stringify(window.told) + document.documentElement.outerHTML + JSON.stringify(localStorage)"
    press(page, "m")
    for secret in ("0.654321", "toy-9", "0.123456", "near the cut"):
        assert secret not in page.evaluate(heard)
    press(page, "m", "a")
    saved(page)
    press(page, "k", "m")
    assert "0.654321" in root.inner_text()
    assert "toy-9" in root.inner_text()
    assert page.evaluate(heard).count("0.123456") == 0


def test_an_edit_is_saved_in_the_layout_of_its_output_and_esc_keeps_a_draft(page):
    log, output = Log(), '{"score": 0.4, "why": "calm"}'
    root = opened(page, panel_of(outputs(2, output=output), log))
    root.focus()
    field = page.get_by_label("Edited output")
    press(page, "e")
    assert field.input_value() == '{\n  "score": 0.4,\n  "why": "calm"\n}'
    field.fill('{\n  "score": 0.5,\n  "why": "calm"\n}')
    press(page, "Escape", "a", "k", "e")
    assert '"score": 0.5' in field.input_value(), "the draft is kept"
    press(page, "Control+Enter")
    saved(page)
    assert [row["edited_output"] for row in log.rows] == [None, '{"score": 0.5, "why": "calm"}']
    press(page, "e")
    assert field.input_value().count("0.4") == 1, "of another item there is no draft"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "not"),
        ('{"score": ', "is not"),
        ("{}\n", "SCHEMA"),
        ('{"score": 1, "score": 2}', "twice"),
        (None, "the same"),
    ],
)
def test_a_refused_edit_says_why_and_keeps_the_text(page, typed, why):
    schema = {"type": "object", "required": ["score"]}
    log = Log()
    root = opened(page, panel_of(outputs(3, output='{"score": 1}'), log, schema=schema))
    root.focus()
    press(page, "e")
    field, notice = page.get_by_label("Edited output"), page.locator(".arislab-notice")
    typed = field.input_value() if typed is None else typed
    field.fill(typed)
    press(page, "Control+Enter")
    if why not in ("not", "is not"):  # only the kernel knows: the next item is there already, and stays
        page.locator(".arislab-notice.error", has_text="shown next").wait_for()
        press(page, "s")
        assert why in notice.inner_text()
        press(page, "e")
    else:
        assert why in notice.inner_text()
    assert field.input_value() == typed
    saved(page)
    assert {d for _, d in summary(log)} <= {"skip"}
    press(page, "Escape", "j", "k", "a")
    saved(page)
    assert summary(log)[-1] == ("r-0", "approve"), "it is still to be decided"


def test_undo_walks_back_without_limit_beyond_what_the_browser_holds(page):
    log = Log()
    root = opened(page, panel_of(outputs(40), log))
    root.focus()
    press(page, *"a" * 35)
    saved(page)
    for i in reversed(range(35)):
        press(page, "u")
        page.locator(".arislab-output pre", has_text=f"answer {i} is").first.wait_for()
    press(page, "u")
    assert "nothing of yours" in page.locator(".arislab-notice").inner_text()
    saved(page)
    assert review.live(log.reviews).is_empty()
    assert len(log.rows) == 70
    assert "0 decided · 0 skipped · 40 left" in root.inner_text()


def test_held_keys_composed_letters_and_chords_decide_nothing(page):
    log = Log()
    root = opened(page, panel_of(outputs(3), log))
    root.focus()
    stray = page.evaluate(
        """() => {
          const root = document.querySelector(".arislab-core"), heard = [];
          for (const type of ["keydown", "keyup", "keypress"]) document.addEventListener(type, () => heard.push(type));
          const press = (more) => root.dispatchEvent(new KeyboardEvent("keydown", {
            key: "a", bubbles: true, cancelable: true, ...more }));
          press({ repeat: true });
          press({ isComposing: true });
          press({ keyCode: 229 });
          for (const chord of ["ctrlKey", "metaKey", "altKey"]) press({ [chord]: true });
          press({ key: "A" });
          for (const key of "bdxyzq0;") press({ key });
          return heard;
        }"""
    )
    assert stray == [], "no key leaves the panel"
    assert root.get_attribute("data-lm-suppress-shortcuts") == "true"
    page.wait_for_timeout(100)
    assert log.rows == []
    assert shown(page) == "answer 0 is a good one"


def test_a_key_that_comes_as_an_output_appears_is_not_counted(page):
    log = Log()
    root = opened(page, panel_of(outputs(4), log, dwell_s=0.4))
    root.focus()
    page.wait_for_timeout(450)
    press(page, "a", "a", "a")
    assert "not counted" in page.locator(".arislab-notice").inner_text()
    page.wait_for_timeout(450)
    press(page, "s")
    saved(page)
    assert summary(log) == [("r-0", "approve"), ("r-1", "skip")]
    assert all(row["dwell_ms"] >= 400 for row in log.rows)


def test_clicks_do_what_keys_do_and_the_focus_stays_in_the_panel(page):
    log = Log()
    root = opened(page, panel_of(outputs(6, output="x" * 50), log))
    button = root.get_by_role("button", name="Approve", exact=True)
    places = [button.bounding_box()]
    button.click()
    assert page.evaluate("document.querySelector('.arislab-core').contains(document.activeElement)")
    press(page, "a")
    places.append(button.bounding_box())
    root.get_by_role("button", name="2 too vague").click()
    root.get_by_role("button", name="Reject", exact=True).click()
    places.append(button.bounding_box())
    root.get_by_role("radio", name="3").first.click()
    root.get_by_role("button", name="Skip", exact=True).click()
    press(page, "s")
    saved(page)
    assert [row["decision"] for row in log.rows] == ["approve", "approve", "reject", "skip", "skip"]
    assert log.rows[2]["labels"] == '["too vague"]'
    assert log.rows[3]["ratings"] == '{"clarity": 3}'
    assert places[0] == places[1] == places[2]


def test_buttons_keep_their_place_whatever_the_length_of_the_text(page):
    rows = pl.concat([outputs(1), outputs(1, output="long " * 8000).with_columns(custom_id=pl.lit("r-9"))])
    root = opened(page, panel_of(rows))
    root.focus()
    button = root.get_by_role("button", name="Approve", exact=True)
    before = button.bounding_box()
    press(page, "j")
    assert button.bounding_box() == before
    more = root.get_by_role("button", name="show the other 20,000 characters")
    assert len(shown(page)) < 21_000
    more.click()
    assert len(shown(page)) == 40_000
    assert button.bounding_box() == before
    press(page, "r")
    assert button.bounding_box() == before


@pytest.mark.slow
@pytest.mark.parametrize("origin", [ORIGIN, "http://other.test/"], ids=["secure", "insecure"])
def test_while_the_kernel_is_dead_decisions_are_kept_and_arrive_once_after_a_reload(page, origin):
    log = Log()
    panel = panel_of(outputs(8), log)
    opened(page, panel, origin=origin).focus()
    press(page, "a")
    saved(page)
    page.evaluate("window.isDead = true")
    press(page, "r", "1", "s", "a", "u", "r", "r")
    assert shown(page) == "answer 4 is a good one", "reviewing goes on"
    page.get_by_text("5 unsaved, kept in this browser").wait_for(timeout=6000)
    opened(page, panel, origin=origin).focus()  # a reload
    saved(page)
    assert shown(page) == "answer 4 is a good one"
    names = ["approve", "reject", "skip", "approve", "undo", "reject"]
    expected = list(zip(["r-0", "r-1", "r-2", "r-3", "r-3", "r-3"], names, strict=True))
    assert summary(log) == expected
    page.reload()
    saved(page)
    assert summary(log) == expected
    assert [row["seq"] for row in log.rows] == sorted(row["seq"] for row in log.rows)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':event:'))") == []


@pytest.mark.slow
def test_what_was_stored_but_not_acknowledged_is_not_stored_twice(page):
    log = Log()
    panel = panel_of(outputs(4), log)
    opened(page, panel).focus()
    page.evaluate("window.isDeaf = true")
    press(page, "a", "s")
    page.get_by_text("2 unsaved").wait_for(timeout=6000)
    assert len(log.rows) == 2
    page.evaluate("window.isDeaf = false")
    saved(page)
    again = panel_of(outputs(4), log, reviews=log.reviews)
    opened(page, again).focus()
    press(page, "u")
    saved(page)
    assert [d for _, d in summary(log)] == ["approve", "skip", "undo"]


@pytest.mark.slow
def test_a_failing_disk_is_said_and_what_was_decided_arrives_once_it_works_again(page):
    log = Log()
    opened(page, panel_of(outputs(4), log)).focus()
    log.error = OSError(28, "No space left on device")
    press(page, "a", "a")
    page.get_by_text("No space left on device").wait_for()
    assert "2 unsaved, kept in this browser" in page.locator(".arislab-saved").inner_text()
    assert shown(page) == "answer 2 is a good one"
    log.error = None
    saved(page)
    assert summary(log) == [("r-0", "approve"), ("r-1", "approve")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } });", "denied"),
        ("Storage.prototype.setItem = (key) => { if (!key.endsWith('try')) throw new DOMException('full'); };", "full"),
    ],
)
def test_a_browser_that_keeps_nothing_says_so_and_reviewing_works(page, script, said):
    log = Log()
    page.add_init_script(script)
    opened(page, panel_of(outputs(3), log)).focus()
    page.evaluate("window.isDead = true")
    press(page, "a")
    text = page.locator(".arislab-saved")
    text.get_by_text(f"{said}).: leave" if said == "none" else "leave this page open").wait_for()
    assert said in text.inner_text()
    page.evaluate("window.isDead = false")
    page.wait_for_function("!document.querySelector('.arislab-saved').textContent.includes('1 unsaved')")
    assert summary(log) == [("r-0", "approve")]


def test_leaving_the_page_is_asked_about_while_something_is_unsaved(page):
    opened(page, panel_of(outputs(3))).focus()
    ask = "window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert page.evaluate(ask) is True
    page.evaluate("window.isDead = true")
    press(page, "a")
    assert page.evaluate(ask) is False, "the browser asks"


def test_text_of_others_is_never_html_and_nothing_is_fetched(page):
    metadata = json.dumps({"company": EVIL, "title": EVIL, "difficulty": EVIL, "category": EVIL, "use_case": EVIL})
    guide = {"labels": [EVIL], "ratings": {EVIL: EVIL}, "categories": [EVIL], "guideline": EVIL}
    rows = outputs(3, input=EVIL, output=EVIL, metadata=metadata, queue=EVIL, model=EVIL)
    panel = review.Panel(rows, reviewer=EVIL, decide=Log(), guide=guide, dwell_s=0, lake=EVIL)
    root = opened(page, panel)
    root.focus()
    for keys in ("g", "m", "c", "Escape", "?", "v", "/"):
        press(page, keys)
        page.wait_for_timeout(30)
    page.keyboard.type("script")
    root.locator("li button").first.wait_for()
    press(page, "Escape", "e", "Escape", "d", "r", "1", "k", "m", "d")
    saved(page)
    assert root.locator("script, img, svg, iframe").count() == 0
    addresses = {link.get_attribute("href") for link in root.locator("a").all()}
    assert addresses <= {"http://evil.test/p.png"}, "an address of http may be followed by hand"
    assert page.evaluate("window.pwned") is None
    assert root.locator("pre", has_text="<script>").count() >= 2


def test_characters_that_nobody_would_see_are_marked_and_survive_an_edit(page):
    log, evil = Log(), "pay \u202e001$ to me\u200b\x00"
    root = opened(page, panel_of(outputs(2, output=evil), log))
    root.focus()
    assert [m.inner_text() for m in page.locator(".arislab-output mark").all()] == ["U+202E", "U+200B", "U+0000"]
    press(page, "e")
    assert "U+202E" in page.locator(".arislab-notice").inner_text()
    page.get_by_label("Edited output").press("End")
    page.keyboard.type("!")
    press(page, "Control+Enter", "k", "d")
    assert page.locator(".arislab-diff ins").inner_text() == "!"
    assert page.locator(".arislab-diff mark").count() == 3
    saved(page)
    assert log.rows[0]["edited_output"] == evil + "!"


def test_markdown_is_shown_beside_raw_and_search_opens_what_was_handed_out(page):
    rows = outputs(3, output="Hire **her** now\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    root = opened(page, panel_of(rows.with_columns(input=pl.Series(["x", "the Zebra case", "z"]))))
    root.focus()
    press(page, "v")
    root.locator("section strong", has_text="her").wait_for()
    assert root.locator("section td").count() == 2
    press(page, "v")
    assert "**her**" in shown(page)
    press(page, "/")
    page.keyboard.type("zebra")
    root.locator("li button", has_text="Zebra").wait_for()
    press(page, "Enter")
    assert page.locator(".arislab-input pre").inner_text() == "the Zebra case"
    assert page.evaluate("document.activeElement.className") == "arislab-core"


def test_pairs_are_judged_by_1_2_and_0_and_their_decisions_go_to_the_desk(page):
    heard = []

    class Pairs:
        name = "pairs"

        def take(self, reviewer, n):
            texts = [[f"left {i}", f"right {i}"] for i in range(6)] if not heard else []
            return [
                {"kind": "pair", "custom_id": f"p-{i}", "input": f"question {i}", "left": left, "right": right,
                 "shown_sha256": sha256(json.dumps([left, right], ensure_ascii=False))}
                for i, (left, right) in enumerate(texts)
            ]  # fmt: skip

        def decide(self, events, reviewer):
            heard.extend(events)
            return {event["event_id"]: {"revealed": {"left": "arm A"}} for event in events}

        def counts(self, reviewer):
            return {"total": 6, "decided": len(heard), "skipped": 0, "left": 6 - len(heard)}

        def trail(self, reviewer):
            return []

        def row(self, custom_id, queue=None):
            return None

    panel = review.Panel(Pairs(), reviewer="Ada", dwell_s=0)
    root = opened(page, panel)
    root.focus()
    assert root.locator(".arislab-left pre").inner_text() == "left 0"
    assert not root.get_by_role("button", name="Approve").is_visible()
    press(page, "1", "2", "0", "ArrowLeft", "a")
    root.get_by_role("button", name="Right", exact=True).click()
    press(page, "s")
    saved(page)
    assert [event["decision"] for event in heard] == ["left", "right", "tie", "left", "right", "skip"]
    assert heard[0]["shown_sha256"] == sha256('["left 0", "right 0"]')


def test_a_name_is_asked_for_before_the_first_decision_and_changes_whose_items_are_shown(page):
    log = Log()
    panel = review.Panel(outputs(3), reviewer="", decide=log, dwell_s=0)
    opened(page, panel).focus()
    press(page, "a")
    assert "Enter your name first" in page.locator(".arislab-notice").inner_text()
    sent = []
    panel.widget.children[1].send = sent.append
    panel.widget.children[0].value = "Grace"
    page.evaluate("(message) => window.tell(message)", json.loads(json.dumps(sent[-1])))
    panel.widget.children[1].send = None
    opened(page, panel).focus()
    press(page, "a")
    saved(page)
    assert [(row["reviewer"], row["custom_id"]) for row in log.rows] == [("Grace", "r-0")]
    panel.widget.children[1].answer({"kind": "events", "reviewer": "Ada", "events": [{}]})  # of another: not heard
    assert len(log.rows) == 1


WATCHED = """
window.said = [];
window.seen = [];
new MutationObserver(() => {
  for (const [name, texts] of [[".arislab-saved", window.said], [".arislab-output pre", window.seen]]) {
    const text = document.querySelector(name)?.textContent;
    if (text && text !== texts.at(-1)) texts.push(text);
  }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
"""Notes what is said of storing, and what output is shown, each change of it."""


def test_a_browser_remembers_the_name_under_which_something_may_be_unsaved(page):
    log = Log()
    opened(page, panel_of(outputs(3), log)).focus()
    page.evaluate("window.isDead = true")
    press(page, "a")
    later = review.Panel(outputs(3), reviewer="", decide=log, dwell_s=0)
    assert later.reviewer == ""
    page.add_init_script(WATCHED)
    opened(page, later)
    page.wait_for_function("document.querySelector('.arislab-saved').textContent === 'all saved'")
    page.wait_for_function("document.querySelector('.arislab-output pre').textContent.includes('answer 1')")
    assert page.evaluate("window.said")[0] == "1 unsaved, kept in this browser", "not before its name is known"
    assert page.evaluate("window.seen") == ["answer 1 is a good one"], "nobody else's items are shown before"
    assert (later.reviewer, later.widget.children[0].value) == ("Ada", "Ada")
    assert [(row["reviewer"], row["custom_id"]) for row in log.rows] == [("Ada", "r-0")]


def test_fresh_items_come_before_the_last_is_decided_and_the_browser_holds_few(page):
    log = Log()
    opened(page, panel_of(outputs(300), log)).focus()
    press(page, *"a" * 120)
    saved(page)
    assert shown(page) == "answer 120 is a good one"
    sizes = page.evaluate("window.told.filter((m) => m.items && m.items.length).map((m) => m.items.length)")
    assert sum(sizes) <= 120 + 50
    assert max(sizes) <= 50
    assert [name for name, _ in summary(log)] == [f"r-{i}" for i in range(120)]


def test_a_kernel_that_is_busy_is_greeted_now_and_then_or_it_answers_each_greeting_with_all_there_is(page):
    page.clock.install()
    page.add_init_script("Object.defineProperty(window, 'isDead', { get: () => true, set() {} })")
    opened(page, panel_of(outputs(3)))
    page.clock.run_for(60_000)
    assert 15 <= page.evaluate("window.sent.filter((m) => m.kind === 'hello').length") <= 21


def handed(i, queue):
    """A row as the desk of a session hands it out."""
    return {"custom_id": f"r-{i}", "input": "Q", "output": f"answer {i} is a good one", "queue": queue}


def test_a_repeat_is_shown_and_decided_for_itself_and_undo_finds_the_original(page):
    """Else what was planted is never judged, and a correction of the original counts as planted."""
    desk = Handing([handed(0, "t0"), handed(1, "t1"), handed(0, "t2"), handed(2, "t3")])
    panel = review.Panel(desk, reviewer="Ada", dwell_s=0)
    root = opened(page, panel)
    root.focus()
    press(page, "a", "a")
    assert shown(page) == "answer 0 is a good one"
    press(page, "s", "u", "u", "u", "r", "r", "a")
    saved(page)
    told = [(e["custom_id"], e["queue"], e["decision"]) for e in desk.heard]
    assert told[:3] == [("r-0", "t0", "approve"), ("r-1", "t1", "approve"), ("r-0", "t2", "skip")]
    assert told[3:6] == [("r-0", "t2", "undo"), ("r-1", "t1", "undo"), ("r-0", "t0", "undo")]
    assert told[6:] == [("r-0", "t0", "reject"), ("r-1", "t1", "approve")]
    page.reload()
    saved(page)
    assert shown(page) == "answer 0 is a good one", "the repeat waits still, though its row was decided"
    press(page, "a", "a")
    saved(page)
    assert [e["queue"] for e in desk.heard[8:]] == ["t2", "t3"]
    assert "0 left" in root.inner_text()
    assert "All done" in page.locator(".arislab-notice").inner_text()


def test_what_others_leave_is_asked_for_while_something_is_left(page):
    """Else who was done when others held the rest sits before an empty panel for good."""
    desk = Handing([handed(0, "t0")])
    free = desk.counts
    desk.counts = lambda reviewer: free(reviewer) | {"total": 2, "left": 2 - free(reviewer)["decided"]}
    page.clock.install()
    opened(page, review.Panel(desk, reviewer="Ada", dwell_s=0)).focus()
    press(page, "a")
    page.locator(".arislab-notice", has_text="Others have before them what is left").wait_for()
    desk.rows.append(handed(1, "t1"))
    n_asked = len(desk.asked)
    page.clock.run_for(20_000)
    page.wait_for_function("document.querySelector('.arislab-saved').textContent === 'all saved'")
    assert len(desk.asked) == n_asked, "not at each beat"
    page.clock.run_for(15_000)
    page.locator(".arislab-output pre", has_text="answer 1 is").first.wait_for()


def test_a_pair_cannot_be_flagged_for_no_table_of_votes_knows_flags(page):
    pair = {"kind": "pair", "custom_id": "p", "input": "Q", "left": "L", "right": "R", "shown_sha256": "s"}
    desk = Handing([pair])
    root = opened(page, review.Panel(desk, reviewer="Ada", dwell_s=0))
    root.focus()
    assert not root.get_by_role("button", name="Flag").is_visible()
    press(page, "f", "?")
    assert "flag" not in page.locator("aside").inner_text()
    press(page, "1")
    saved(page)
    assert [e["decision"] for e in desk.heard] == ["left"]


def test_an_entry_that_is_no_decision_leaves_the_outbox_and_holds_no_other_up(page):
    """Else one entry of an older panel keeps all that its reviewer decides from being stored, for ever."""
    log = Log()
    panel = panel_of(outputs(3), log)
    opened(page, panel).focus()
    page.evaluate(
        """() => {
          const stream = Object.keys(localStorage).find((key) => key.endsWith(":Ada:stream"));
          const prefix = stream.replace(/stream$/, "event:");
          localStorage.setItem(prefix + "old", JSON.stringify({ event_id: "old", custom_id: "r-0", client_seq: 1 }));
          localStorage.setItem(prefix + "odd", JSON.stringify({ event_id: "odd" }));
        }"""
    )
    opened(page, panel).focus()
    press(page, "a")
    saved(page)
    assert summary(log) == [("r-0", "approve")]
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':event:'))") == []


@pytest.mark.slow
@pytest.mark.parametrize("is_denied", [False, True])
def test_what_is_unsaved_under_another_name_is_counted_and_stored_once_it_is_back(page, is_denied):
    """Else it says "all saved" after a change of the name, and what a browser without storage holds is lost."""
    if is_denied:
        page.add_init_script(
            "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } });"
        )
    log = Log()
    panel = panel_of(outputs(3), log)
    opened(page, panel).focus()
    core_side = panel.widget.children[1]

    def rename(name):
        answers = []
        core_side.send = answers.append
        panel.reviewer = name
        page.evaluate("(message) => window.tell(message)", json.loads(json.dumps(answers[-1])))
        page.kernels["now"] = answering(core_side)

    page.evaluate("window.isDead = true")
    press(page, "a")
    rename("Grace")
    page.get_by_text("1 unsaved").wait_for(timeout=6000)
    page.evaluate("window.isDead = false")
    rename("Ada")
    page.wait_for_function("!document.querySelector('.arislab-saved').textContent.includes('1 unsaved')", timeout=9000)
    assert [(row["reviewer"], row["custom_id"]) for row in log.rows] == [("Ada", "r-0")]


# ---- a model of the panel


class Model:
    """What keys do, in a few lines: decisions, undos and where one stands."""

    def __init__(self, n):
        self.n, self.at, self.mode = n, 0, "look"
        self.trail, self.log = [], []

    def verdict(self, i):
        return next((d for j, d in reversed(self.trail) if j == i and d != "flag"), None)

    def go(self):
        open_ = [i for i in range(self.n) if self.verdict(i) is None]
        self.at = next((i for i in open_ if self.at is not None and i > self.at), open_[0] if open_ else None)
        self.mode = "look"

    def settle(self, decision, label=None):
        if self.at is None:
            return
        self.trail.append((self.at, decision))
        self.log.append((f"r-{self.at}", decision, label))
        self.go()

    def press(self, key):
        if self.mode == "reason":
            if key in "123r":
                self.settle("reject", GUIDE["labels"][int(key) - 1] if key != "r" else None)
            elif key == "Escape":
                self.mode = "look"
        elif self.mode == "category":
            self.mode = "look" if key in ("a", "b", "Escape") else self.mode
        elif key == "u" and self.trail:
            self.at, _ = self.trail.pop()
            self.log.append((f"r-{self.at}", "undo", None))
        elif key == "k":
            self.at = self.n - 1 if self.at is None else max(self.at - 1, 0)
        elif self.at is not None:
            self.decide(key)

    def decide(self, key):
        if key in "as":
            self.settle({"a": "approve", "s": "skip"}[key])
        elif key in "rc":
            self.mode = {"r": "reason", "c": "category"}[key]
        elif key == "f":
            self.trail.append((self.at, "flag"))
            self.log.append((f"r-{self.at}", "flag", None))
        elif key == "j":
            self.at = min(self.at + 1, self.n - 1)


FUZZED = """(keys) => {
  const root = document.querySelector(".arislab-core");
  root.focus();
  for (const key of keys) {
    const target = root.contains(document.activeElement) ? document.activeElement : root;
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  }
}"""


@pytest.mark.parametrize("seed", range(5))
def test_of_1000_random_keys_the_decisions_are_those_that_a_model_predicts(page, seed):
    """Five times: 5,000 keys. Few enough rows that all of them stay in the browser."""
    n, draw, log = 18, random.Random(seed), Log()
    opened(page, panel_of(outputs(n), log)).focus()
    keys = draw.choices([*"aarrssuuuffjjkkgmvd?c123456789bxyz", *["Escape"] * 2, "Tab", "Delete", "ArrowDown"], k=1000)
    model = Model(n)
    for key in keys:
        model.press(key)
    page.evaluate(FUZZED, keys)
    saved(page)
    told = [(r["custom_id"], r["decision"], next(iter(json.loads(r["labels"])), None)) for r in log.rows]
    assert told == model.log
    assert len(told) > 100
    current = None if model.at is None else f"answer {model.at} is a good one"
    assert shown(page) == current or current is None


# ---- the kernel side


def test_the_kernel_side_believes_the_browser_only_what_is_its_own_to_say(tmp_path):
    desk = review.QueueDesk(outputs(2), folder=tmp_path / "s")
    panel = review.Panel(desk, reviewer="Ada", dwell_s=0)
    side = panel.widget.children[1]
    said = {
        "event_id": "e", "client_seq": 1, "custom_id": "r-0", "decision": "approve", "labels": ["x"], "ratings": {},
        "category": None, "note": None, "shown_sha256": sha256("answer 0 is a good one"), "asked_sha256": None,
        "queue": "q", "shown_at": "2026-01-01T00:00:00.000Z", "decided_at": "2026-01-01T00:00:02.000Z",
        "dwell_ms": 2000, "edited_output": None, "undoes": None,
        "reviewer": "Grace", "inclusion_prob": 1.0, "planted": "gold", "seq": 1,
        "blind": False, "session": "other", "why": "mine",
    }  # fmt: skip
    sent = []
    side.send = sent.append
    side.answer(
        {"kind": "events", "reviewer": "Ada", "events": [said, said | {"event_id": "w", "decision": "adjudicate"}]}
    )
    assert list(sent[0]["told"]) == ["e"]
    assert "adjudicate" in sent[0]["refused"]["w"]
    [row] = journal.read(tmp_path).to_dicts()
    known = {"reviewer": "Ada", "session": "s", "why": "kept", "blind": True, "planted": None, "inclusion_prob": None}
    assert known.items() <= row.items()


def test_an_item_holds_nothing_that_a_blind_reviewer_must_not_know():
    row = outputs(1, inclusion_prob=0.123, planted="gold", stale="approve", stale_by="Grace").row(0, named=True)
    row["metadata"] = json.dumps({"title": "Nurse", "model": "toy-9", "quality": 0.777, "judge": "great"})
    text = json.dumps(core.item(row | {"quality_score": 0.654}))
    for secret in ("0.123", "gold", "stale", "Grace", "0.654", "toy-9", "0.777", "great", "kept"):
        assert secret not in text, secret


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a\nb", [["p", ["a", "\n", "b"], ""]]),
        ("- one\n- two", [["ul", [["li", ["one"], ""], ["li", ["two"], ""]], ""]]),
        ("`x\u202e` ~~no~~", [["p", [["code", ["x", ["mark", ["U+202E"], ""]], ""], " ", ["s", ["no"], ""]], ""]]),
        ("<b>x</b>", [["p", ["<b>x</b>"], ""]]),
        (
            "[a](https://e.org) [b](data:text/html,x)",
            [["p", [["a", ["a"], "https://e.org"], " [b](data:text/html,x)"], ""]],
        ),
        ("[a](java\nscript:x) ![i](http://e/i.png)", None),
    ],
)
def test_markdown_becomes_a_tree_of_known_elements(text, tree):
    made = markup.tree(text)
    assert made == tree or tree is None

    def walk(nodes):
        for node in nodes:
            if not isinstance(node, str):
                assert node[0] in markup.ELEMENTS
                assert node[2] == "" or node[2].startswith(("http", "mailto"))
                walk(node[1])

    walk(made)
    assert "javascript" not in str([n for n in made if n[0] == "a"])


def test_the_module_is_small_and_goes_by_text_alone():
    source = (CHECKOUT / "arislab/review/core.js").read_text()
    assert len(source.encode()) < 30_000
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "http",
        "import ",
        "randomUUID",
    ):
        assert word not in source, word
    assert "url(" not in (CHECKOUT / "arislab/review/core.css").read_text()


def test_a_desk_that_cannot_store_is_told_to_the_browser_not_raised():
    log = Log()
    log.error = LakeError("reviews is locked")
    panel = panel_of(outputs(1), log)
    sent = []
    panel.widget.children[1].send = sent.append
    event = {"event_id": "e", "custom_id": "r-0", "decision": "skip", "labels": [], "ratings": {}, "dwell_ms": 1,
             "client_seq": 1, "shown_at": "2026-01-01T00:00:00Z", "decided_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    panel.widget.children[1].answer({"kind": "events", "reviewer": "Ada", "events": [event]})
    assert sent == [{"kind": "failed", "reason": "reviews is locked"}]


def test_what_a_browser_says_is_made_fit_to_be_stored_or_refused_each_for_itself(tmp_path):
    desk = review.QueueDesk(outputs(4), folder=tmp_path / "s")
    side = review.Panel(desk, reviewer="Ada", dwell_s=0).widget.children[1]
    sent = []
    side.send = sent.append
    good = {"event_id": "e", "custom_id": "r-0", "decision": "skip", "labels": [], "ratings": {}, "dwell_ms": 1,
            "client_seq": 1, "shown_at": "2026-01-01T00:00:00Z", "decided_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    odd = good | {"event_id": "odd", "note": "half \ud83d, whole \ud83d\ude00", "labels": ["\udfff"],
                  "ratings": {"\ud800": 1}, "client_seq": 2**80, "dwell_ms": 2**80, "shown_sha256": 7}  # fmt: skip
    bad = {
        "left": good | {"decision": "left"},
        "late": good | {"decided_at": "yesterday"},
        "many": good | {"client_seq": "many"},
        "none": {"custom_id": "r-0"},
        "null": good | {"labels": None},
    }
    events = [one | {"event_id": name} for name, one in bad.items()]
    side.answer({"kind": "events", "reviewer": "Ada", "events": [events[0], good, *events[1:], None, odd]})
    assert [message["kind"] for message in sent] == ["acks"]
    assert sorted(sent[0]["told"]) == ["e", "odd"]
    assert sorted(sent[0]["refused"]) == sorted(bad)
    stored = {row["event_id"]: row for row in journal.read(tmp_path).to_dicts()}
    assert sorted(stored) == ["e", "odd"]
    row = stored["odd"]
    assert (row["note"], row["labels"], row["ratings"]) == (
        "half \ufffd, whole \U0001f600",
        '["\ufffd"]',
        '{"\ufffd": 1}',
    )
    assert (row["client_seq"], row["dwell_ms"], row["shown_sha256"]) == (2**53, 2**53, "7")


def test_a_desk_that_refuses_one_decision_by_raising_stores_its_neighbours():
    class Strict(Handing):
        def decide(self, events, reviewer):
            if any(event["custom_id"] == "r-1" for event in events):
                raise ParameterError("r-1 cannot be judged here.")
            return super().decide(events, reviewer)

    desk = Strict([handed(i, f"t{i}") for i in range(3)])
    side = review.Panel(desk, reviewer="Ada", dwell_s=0).widget.children[1]
    sent = []
    side.send = sent.append
    said = {"decision": "skip", "labels": [], "ratings": {}, "dwell_ms": 1, "client_seq": 1,
            "shown_at": "2026-01-01T00:00:00Z", "decided_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    events = [said | {"event_id": f"e{i}", "custom_id": f"r-{i}", "queue": f"t{i}"} for i in range(3)]
    side.answer({"kind": "events", "reviewer": "Ada", "events": events})
    assert sorted(sent[0]["told"]) == ["e0", "e2"]
    assert sent[0]["refused"] == {"e1": "r-1 cannot be judged here."}
    assert sent[0]["counts"]["decided"] == 2
