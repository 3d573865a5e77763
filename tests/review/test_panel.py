"""The review panel, driven by its buttons without a browser."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CHECKOUT, FUZZ, JSON, NOON, OUTPUT, Handing, Log, curated_rows

from arislab import review
from arislab.errors import LakeError, ParameterError
from arislab.lake import tables


@pytest.mark.parametrize("button", ["approve", "reject", "skip"])
def test_a_click_stores_one_valid_row_and_then_shows_the_next_output(panel, log, button):
    shown = []
    panel.desk.store = lambda frame: (shown.append(panel.current["custom_id"]), log(frame))
    panel.buttons[button].click()
    assert shown == ["r-0"], "the output must still stand while its decision is stored"
    assert panel.current["custom_id"] == "r-1"
    [row] = log.rows
    assert (row["custom_id"], row["reviewer"], row["decision"]) == ("r-0", "Ada", button)
    assert row["shown_at"] <= row["decided_at"]
    assert len(row["shown_sha256"]) == 64
    run = {"run_id": "interactive", "created_at": NOON}
    tables.check("reviews", log.reviews.with_columns(**{k: pl.lit(v) for k, v in run.items()}))


def test_an_edit_opens_the_output_line_by_line_and_stores_it_in_its_own_layout(panel, log):
    panel.buttons["edit"].click()
    text = panel._view.text
    assert text.layout.display == ""
    assert text.value.splitlines()[-2:] == ['  "recommendation": "hire"', "}"]
    text.value = text.value.replace('"hire"', '"reject"')
    panel.buttons["save"].click()
    assert log.rows[0]["decision"] == "edit"
    assert log.rows[0]["edited_output"] == OUTPUT.replace("hire", "reject")
    assert panel.current["custom_id"] == "r-1"
    assert text.layout.display == "none"


def test_cancel_leaves_the_output_undecided(panel, log):
    panel.buttons["edit"].click()
    panel.buttons["cancel"].click()
    assert panel._view.text.layout.display == "none"
    assert not log.rows
    assert panel.current["custom_id"] == "r-0"


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "valid JSON"), ('{"score": }', "valid JSON"), (OUTPUT, "same as the output"), (" \n", "JSON")],
)
def test_an_edit_that_cannot_be_an_example_is_refused_and_the_text_stays(panel, log, text, why):
    panel.buttons["edit"].click()
    panel._view.text.value = text
    panel.buttons["save"].click()
    assert not log.rows
    assert panel.notice[0] == "error"
    assert why in panel.notice[1]
    assert panel._view.text.value == text
    assert panel._view.text.layout.display == ""


LAYOUTS = {
    "indented by a tab": json.dumps({"grade": 3, "notes": ["late", "kind"]}, indent="\t"),
    "indented by three": json.dumps({"grade": 3, "notes": []}, indent=3) + "\n\n",
    "windows line ends": '{\r\n  "grade": 3\r\n}\r\n',
    "wide spaces": '{ "grade" :   3 }',
    "space before": '  {"grade":3}',
    "a list": "[1,2 , 3]",
    "a key twice": '{"grade": 3, "grade": 4}',
    "not a number": '{"grade": NaN}',
    "cut off": '{"grade": 3, "notes": [',
    "a poem": "roses  are red \n\n violets\t",
    "a poem of windows": "roses\r\nare red\r\n",
}


@pytest.mark.parametrize("output", LAYOUTS.values(), ids=LAYOUTS)
def test_an_editor_that_is_opened_and_saved_stores_nothing_whatever_the_layout(log, output):
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log, backend="buttons")
    panel.buttons["edit"].click()
    panel.buttons["save"].click()
    panel._view.text.value = panel._view.text.value.replace("\r\n", "\n")  # what a text field of a browser gives back
    panel.buttons["save"].click()
    assert not log.rows
    assert panel.notice == ("error", "The edited text is the same as the output; approve it instead.")


@settings(max_examples=FUZZ, deadline=None)
@given(JSON, st.sampled_from(["", " ", "\n", "\t ", "  "]), st.integers(0, 5), st.booleans())
def test_white_space_between_the_tokens_of_json_is_no_edit(value, space, indent, ascii):
    output = space + json.dumps({"v": value}, indent=indent or None, ensure_ascii=ascii) + space
    other = json.dumps({"v": value}, indent=4 - indent if indent < 4 else None, ensure_ascii=ascii)
    log = Log()
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log, backend="buttons")
    assert not panel.edit(other)
    assert not log.rows


@pytest.mark.parametrize(
    ("output", "typed", "stored"),
    [
        ("red roses", "red  roses\t\n", "red  roses\t\n"),
        ("red\r\nroses", "red\nwhite\nroses", "red\r\nwhite\r\nroses"),
        ('{"grade":3,"by":"Al B"}', '{\n  "grade": 4,\n  "by": "Al  B"\n}', '{"grade":4,"by":"Al  B"}'),
        ('{"grade":  3}\n', '{"grade": 4}', '{"grade": 4}\n'),
        ('{\n    "grade": 3\n}', '{\n    "grade": 4\n}', '{\n    "grade": 4\n}'),
    ],
)
def test_a_real_edit_is_stored_as_typed_in_the_layout_of_the_output(log, output, typed, stored):
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log, backend="buttons")
    assert panel.edit(typed)
    assert log.rows[0]["edited_output"] == stored


SCORE = {"type": "object", "properties": {"score": {"type": "number", "maximum": 1}}, "required": ["score"]}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ('{"score": NaN}', "NaN"),
        ('{"score": 0.1, "score": 0.2}', "stands twice"),
        ('{"score": 7}', "SCHEMA"),
        ('{"points": 0.5}', "SCHEMA"),
        ('"0.5"', "no object"),
    ],
)
def test_an_edit_stays_json_that_fits_the_schema_where_the_output_was(log, typed, why):
    panel = review.Panel(
        curated_rows(1, output='{"score": 0.4}'), reviewer="Ada", decide=log, backend="buttons", schema=SCORE
    )
    assert not panel.edit(typed)
    assert why in panel.notice[1]
    assert not log.rows
    broken = review.Panel(
        curated_rows(1, output="about a half"), reviewer="Ada", decide=log, backend="buttons", schema=SCORE
    )
    assert broken.edit("about 0.5"), "the output never fitted it"


def test_plain_text_can_be_edited_but_not_emptied(log):
    panel = review.Panel(curated_rows(1, output="Hello wrld"), reviewer="Ada", decide=log, backend="buttons")
    assert not panel.edit("  ")
    assert panel.edit("Hello world")
    assert log.rows[0]["edited_output"] == "Hello world"


def test_chosen_labels_travel_with_the_decision_and_are_off_for_the_next_output(panel, log):
    panel.buttons["label"].click()
    assert panel.notice == ("error", "Choose a label first.")
    panel._view.chips["wrong facts"].value = True
    panel.buttons["label"].click()
    assert panel.current["custom_id"] == "r-0", "a label settles nothing"
    panel.buttons["reject"].click()
    assert [(r["decision"], r["labels"]) for r in log.rows] == [
        ("label", '["wrong facts"]'),
        ("reject", '["wrong facts"]'),
    ]
    assert not any(chip.value for chip in panel._view.chips.values())


def test_undo_walks_back_to_the_first_decision_and_appends_events(panel, log):
    panel.buttons["approve"].click()
    panel.buttons["reject"].click()
    panel.buttons["undo"].click()
    assert panel.current["custom_id"] == "r-1"
    panel.buttons["undo"].click()
    assert panel.current["custom_id"] == "r-0"
    panel.buttons["undo"].click()
    assert panel.notice == ("info", "There is nothing of yours to undo.")
    first, second, third, fourth = log.rows
    assert (third["undoes"], fourth["undoes"]) == (second["event_id"], first["event_id"])
    assert review.live(log.reviews).is_empty()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LakeError("reviews is locked")])
@pytest.mark.parametrize("button", ["approve", "reject", "skip", "undo"])
def test_when_a_decision_cannot_be_stored_the_output_stays_and_the_panel_says_why(panel, log, error, button):
    panel.approve()
    log.error = error
    panel.buttons[button].click()
    assert panel.current["custom_id"] == "r-1"
    assert panel.notice[0] == "error"
    assert str(error) in panel.notice[1]
    assert str(error) in panel._view.notice.value
    assert len(log.rows) == 1
    log.error = None
    panel.buttons["approve"].click()
    assert panel.current["custom_id"] == "r-2"
    assert panel.notice == ("", "")


def test_a_decision_needs_a_name(log):
    panel = review.Panel(curated_rows(2), reviewer="  ", decide=log, backend="buttons")
    panel.buttons["approve"].click()
    assert not log.rows
    assert "Enter your name" in panel._view.notice.value
    panel._view.name.value = "Grace"
    panel.buttons["approve"].click()
    assert log.rows[0]["reviewer"] == "Grace"


def test_reopening_continues_where_this_reviewer_stopped(log):
    first = review.Panel(curated_rows(4), reviewer="Ada", decide=log, backend="buttons")
    first.approve(), first.skip()
    again = review.Panel(curated_rows(4), reviewer="Ada", decide=log, backend="buttons", reviews=log.reviews)
    assert again.current["custom_id"] == "r-2"
    assert again.counts == {"total": 4, "decided": 1, "skipped": 1, "left": 2}
    again.undo(), again.undo()
    assert again.current["custom_id"] == "r-0"
    other = review.Panel(curated_rows(4), reviewer="Grace", decide=log, backend="buttons", reviews=log.reviews)
    assert other.current["custom_id"] == "r-0"
    other.reviewer = "Ada"
    assert other.current["custom_id"] == "r-0"
    other.approve(), other.approve()
    other.reviewer = "Grace"
    assert other.current["custom_id"] == "r-0"


def test_reopening_takes_the_reviews_as_the_lake_gives_them(log):
    reviews = tables.empty("reviews")
    assert (
        review.Panel(curated_rows(1), reviewer="Ada", decide=log, backend="buttons", reviews=reviews).counts["left"]
        == 1
    )


def test_an_event_of_another_queue_can_be_undone(log):
    review.Panel(curated_rows(1), reviewer="Ada", decide=log, backend="buttons").approve()
    panel = review.Panel(curated_rows(4)[2:], reviewer="Ada", decide=log, backend="buttons", reviews=log.reviews)
    assert panel.undo()
    assert "not in this queue" in panel.notice[1]
    assert panel.current["custom_id"] == "r-2"


def test_in_a_run_the_panel_is_a_static_summary(panel, monkeypatch):
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Review panel: 0 of 3 decided by Ada, 0 skipped, 3 left."
    monkeypatch.setenv("ARISLAB_RUN_ID", "r1")
    assert set(panel._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_an_empty_queue_says_what_to_run_first(log):
    panel = review.Panel(
        review.queue(curated_rows(0), tables.empty("reviews"), n=5, seed=0), reviewer="", decide=log, backend="buttons"
    )
    assert "arislab run curate" in repr(panel)
    assert "arislab run curate" in (panel.widget and panel._view.card.value)


def test_a_queue_without_the_needed_columns_is_refused(log):
    with pytest.raises(ParameterError, match="'output'"):
        review.Panel(curated_rows(1).drop("output"), reviewer="", decide=log, backend="buttons")


def test_a_decision_that_is_sent_again_after_an_error_counts_once(panel, log):
    def stores_and_fails(frame):
        log(frame)
        raise OSError("the disk went away after the write")

    panel.desk.store = stores_and_fails
    assert not panel.approve()
    panel.desk.store = log
    assert panel.approve()
    assert panel.undo()
    assert review.live(log.reviews).is_empty(), "undo takes back both writes of one decision"


@pytest.mark.parametrize("notebook", ["review", "explore"])
def test_the_notebook_says_what_to_run_first_when_the_lake_is_empty(notebook, root, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    cells = json.loads((CHECKOUT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "`arislab run curate`" in repr(names["panel" if notebook == "review" else "explorer"])


def handed(i, queue, **more):
    """A row as the desk of a session hands it out: without score and model."""
    return {"custom_id": f"r-{i}", "input": "Q", "output": f"answer {i}", "queue": queue} | more


@pytest.mark.parametrize("backend", review.panel.BACKENDS)
def test_a_correction_after_undo_is_of_the_original_though_its_repeat_was_handed_out(backend):
    """Else it is stored as planted: the correction settles nothing, and nobody is told."""
    desk = Handing([handed(0, "t0"), handed(1, "t1"), handed(0, "t2")])
    panel = review.Panel(desk, reviewer="Ada", backend=backend, dwell_s=0)
    panel.approve(), panel.approve()
    assert panel.current["queue"] == "t2", "the repeat is shown, though its row was decided before"
    panel.undo(), panel.undo()
    panel.reject(), panel.approve(), panel.approve()
    told = [(e["custom_id"], e["queue"], e["decision"]) for e in desk.heard]
    assert told[2:4] == [("r-1", "t1", "undo"), ("r-0", "t0", "undo")]
    assert told[4:] == [("r-0", "t0", "reject"), ("r-1", "t1", "approve"), ("r-0", "t2", "approve")]
    assert panel.current is None


def test_a_panel_asks_for_nothing_before_it_has_a_name():
    """Else the items of a session are held for nobody, and who has a name gets none."""
    desk = Handing([handed(0, "t0")])
    panel = review.Panel(desk, reviewer="", backend="buttons")
    assert panel.current is None
    assert panel.widget
    assert "Enter your name first" in panel._view.card.value
    assert not panel.skip()
    assert (desk.asked, panel.notice) == ([], ("error", "Enter your name first: every decision is signed."))
    panel.reviewer = "Ada"
    assert panel.current["custom_id"] == "r-0"
    assert set(desk.asked) == {"Ada"}


def test_what_another_kernel_handed_out_is_checked_too_before_an_edit_of_it_is_stored():
    """Else an edit that is no JSON, or empty, gets into the training data after a restart."""
    elsewhere = handed(7, "t7", output='{"score": 1}')
    panel = review.Panel(Handing([handed(0, "t0")], known=[elsewhere]), reviewer="Ada", dwell_s=0)
    late = {
        "event_id": "e", "custom_id": "r-7", "queue": "t7", "decision": "edit", "edited_output": "not JSON",
        "shown_sha256": review.decisions.sha256('{"score": 1}'), "undoes": None,
    }  # fmt: skip
    told, refused = panel.hear([late])
    assert told == {}
    assert "valid JSON" in refused["e"]
    told, refused = panel.hear([late | {"queue": "t8", "event_id": "of a queue that nobody knows"}])
    assert refused == {}, "it is kept as it came"


def test_undo_takes_back_what_the_desk_says_and_nothing_else(log):
    """With pairs the trail is of votes: u must never take back an approval of an output."""
    trail = [{"event_id": "v1", "custom_id": "r-9", "decision": "skip", "queue": "t9"}]
    desk = Handing([handed(0, "t0")], known=[handed(9, "t9")], trail=trail)
    panel = review.Panel(desk, reviewer="Ada", dwell_s=0)
    assert panel.undo()
    assert panel.current["custom_id"] == "r-9"
    assert [(e["decision"], e["undoes"], e["queue"]) for e in desk.heard] == [("undo", "v1", "t9")]
    assert not panel.undo()
    assert "nothing of yours" in panel.notice[1]


def test_the_buttons_show_what_a_session_hands_out_and_say_that_pairs_need_the_keys():
    panel = review.Panel(Handing([handed(0, "t0")]), reviewer="Ada", backend="buttons")
    assert panel.widget
    assert "answer 0" in panel._view.card.value
    assert "quality" not in panel._view.card.value
    panel.buttons["edit"].click()
    assert panel._view.text.value == "answer 0"
    pair = {"kind": "pair", "custom_id": "p", "input": "Q", "left": "L", "right": "R", "shown_sha256": "a digest"}
    with pytest.raises(ParameterError, match="backend='keys'"):
        review.Panel(Handing([pair]), reviewer="Ada", backend="buttons")
    desk = Handing([pair])
    assert review.Panel(desk, reviewer="Ada").skip()
    assert desk.heard[0]["shown_sha256"] == "a digest"


@pytest.mark.parametrize(
    ("row", "decision"), [(handed(0, "t0"), "left"), ({"kind": "pair", "output": None}, "approve")]
)
def test_a_decision_of_the_other_kind_is_refused_and_holds_no_other_up(row, decision):
    desk = Handing([handed(0, "t0") | row])
    panel = review.Panel(desk, reviewer="Ada", dwell_s=0)
    said = {"event_id": "e", "custom_id": "r-0", "queue": "t0", "decision": decision, "undoes": None}
    told, refused = panel.hear([said, said | {"event_id": "s", "decision": "skip"}])
    assert [*told] == ["s"]
    assert decision in refused["e"]


def test_an_undo_that_comes_before_its_event_takes_it_back_all_the_same():
    panel = review.Panel(Handing([handed(0, "t0")]), reviewer="Ada", dwell_s=0)
    said = {"event_id": "e", "custom_id": "r-0", "queue": "t0", "decision": "skip", "undoes": None}
    panel.hear([said | {"event_id": "u", "decision": "undo", "undoes": "e"}])
    panel.hear([said])
    assert panel.current["custom_id"] == "r-0"
    assert panel.trail(9) == []
