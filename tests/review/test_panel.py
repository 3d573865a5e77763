"""The review panel, driven by its buttons without a browser, and the fold of decisions into the curated rows."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from toys import CHECKOUT, FUZZ

from arislab import review
from arislab.errors import LakeError, ParameterError
from arislab.lake import tables
from arislab.review import decisions

OUTPUT = '{"strengths": ["7 years"], "score": 0.90, "recommendation": "hire"}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def curated_rows(n=6, **more):
    metadata = json.dumps({"company": "Acme", "title": "Nurse", "difficulty": 0.4, "category": "Health"})
    rows = [
        {
            "id": f"r-{i}", "custom_id": f"r-{i}", "candidate_id": f"s1-{i}", "task": "t", "input": f"input {i}", "messages": "[]",
            "output": OUTPUT, "quality_score": 0.5 + i / 100, "needs_review": True, "approved": False, "reviewed_by": None,
            "metadata": metadata, "split": "train", "updated_at": None,
        } | more
        for i in range(n)
    ]  # fmt: skip
    schema = {c: tables.columns_of("training_data_curated")[c].dtype for c in rows[0]} if rows else None
    return pl.DataFrame(rows, schema=schema or tables.empty("training_data_curated").schema)


def events(*rows):
    full = [
        {
            "event_id": f"e{i}",
            "custom_id": "r-0",
            "reviewer": "Ada",
            "decided_at": NOON + timedelta(seconds=i),
            "shown_sha256": decisions.sha256(OUTPUT),
        }
        | row
        for i, row in enumerate(rows)
    ]
    return pl.DataFrame(full, schema=decisions.SCHEMA)  # fmt: skip


def folded(*rows, custom_id="r-0", curated=None):
    frame = review.fold(curated_rows() if curated is None else curated, events(*rows))
    return frame.row(by_predicate=pl.col("custom_id") == custom_id, named=True)


class Log:
    """Where the decisions of a test go."""

    def __init__(self):
        self.frames = []
        self.error = None

    def __call__(self, frame):
        if self.error:
            raise self.error
        self.frames.append(frame)

    @property
    def rows(self):
        return pl.concat(self.frames).to_dicts() if self.frames else []

    @property
    def reviews(self):
        return pl.concat(self.frames) if self.frames else pl.DataFrame(schema=decisions.SCHEMA)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def panel(log):
    return review.Panel(curated_rows(3), reviewer="Ada", decide=log)


# the panel


def test_the_schema_of_events_is_the_contract_of_the_table_reviews():
    contract = {n: c.dtype for n, c in tables.columns_of("reviews").items() if n not in ("run_id", "created_at")}
    assert contract == decisions.SCHEMA
    assert tuple(tables.columns_of("reviews")["decision"].allowed) == tables.DECISIONS


@pytest.mark.parametrize("button", ["approve", "reject", "skip"])
def test_a_click_stores_one_valid_row_and_then_shows_the_next_output(panel, log, button):
    shown = []
    panel._decide = lambda frame: (shown.append(panel.current["custom_id"]), log(frame))
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
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log)
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
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log)
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
    panel = review.Panel(curated_rows(1, output=output), reviewer="Ada", decide=log)
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
    panel = review.Panel(curated_rows(1, output='{"score": 0.4}'), reviewer="Ada", decide=log, schema=SCORE)
    assert not panel.edit(typed)
    assert why in panel.notice[1]
    assert not log.rows
    broken = review.Panel(curated_rows(1, output="about a half"), reviewer="Ada", decide=log, schema=SCORE)
    assert broken.edit("about 0.5"), "the output never fitted it"


def test_plain_text_can_be_edited_but_not_emptied(log):
    panel = review.Panel(curated_rows(1, output="Hello wrld"), reviewer="Ada", decide=log)
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


def test_an_unexpected_error_in_a_click_is_shown_too(panel, log, caplog):
    log.error = KeyError("surprise")
    panel.buttons["approve"].click()
    assert "KeyError" in panel.notice[1]
    assert panel.current["custom_id"] == "r-0"


def test_a_decision_needs_a_name(log):
    panel = review.Panel(curated_rows(2), reviewer="  ", decide=log)
    panel.buttons["approve"].click()
    assert not log.rows
    assert "Enter your name" in panel._view.notice.value
    panel._view.name.value = "Grace"
    panel.buttons["approve"].click()
    assert log.rows[0]["reviewer"] == "Grace"


def test_reopening_continues_where_this_reviewer_stopped(log):
    first = review.Panel(curated_rows(4), reviewer="Ada", decide=log)
    first.approve(), first.skip()
    again = review.Panel(curated_rows(4), reviewer="Ada", decide=log, reviews=log.reviews)
    assert again.current["custom_id"] == "r-2"
    assert again.counts == {"total": 4, "decided": 1, "skipped": 1, "left": 2}
    again.undo(), again.undo()
    assert again.current["custom_id"] == "r-0"
    other = review.Panel(curated_rows(4), reviewer="Grace", decide=log, reviews=log.reviews)
    assert other.current["custom_id"] == "r-0"
    other.reviewer = "Ada"
    assert other.current["custom_id"] == "r-0"
    other.approve(), other.approve()
    other.reviewer = "Grace"
    assert other.current["custom_id"] == "r-0"


def test_reopening_takes_the_reviews_as_the_lake_gives_them(log):
    reviews = tables.empty("reviews")
    assert review.Panel(curated_rows(1), reviewer="Ada", decide=log, reviews=reviews).counts["left"] == 1


def test_an_event_of_another_queue_can_be_undone(log):
    review.Panel(curated_rows(1), reviewer="Ada", decide=log).approve()
    panel = review.Panel(curated_rows(4)[2:], reviewer="Ada", decide=log, reviews=log.reviews)
    assert panel.undo()
    assert "not in this queue" in panel.notice[1]
    assert panel.current["custom_id"] == "r-2"


def test_the_second_half_of_a_double_click_does_not_decide_the_next_output(panel, log, monkeypatch):
    monkeypatch.setattr("arislab.review.view._sent_by_browser", lambda: True)
    panel.shown_at -= timedelta(seconds=1)
    panel.buttons["approve"].click()
    panel.buttons["approve"].click()
    assert [row["custom_id"] for row in log.rows] == ["r-0"]
    assert "not counted" in panel._view.notice.value
    panel.shown_at -= timedelta(seconds=1)
    panel.buttons["approve"].click()
    assert len(log.rows) == 2


def test_progress_and_the_end_are_shown(panel):
    assert "1 of 3" in panel.widget.children[1].children[0].value
    panel.approve(), panel.skip(), panel.reject()
    assert "2 decided by you · 1 skipped · 0 left" in panel._view.head.value
    assert panel.current is None
    assert "All done" in panel._view.card.value
    assert panel.buttons["approve"].disabled
    assert not panel.buttons["undo"].disabled
    assert not panel.approve()
    assert not panel.edit("x")


def test_text_of_models_candidates_and_errors_is_never_html(log):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    metadata = json.dumps({"company": evil, "title": evil, "difficulty": evil, "category": evil, "use_case": evil})
    for output in (evil, json.dumps({evil: [evil]})):
        frame = curated_rows(1, input=evil, output=output, metadata=metadata).with_columns(why=pl.lit(evil))
        panel = review.Panel(frame, reviewer=evil, decide=log, labels=(evil,))
        log.error = OSError(evil)
        panel.buttons["approve"].click()
        log.error = None
        shown = panel._view.card.value + panel._view.notice.value + panel._view.head.value
        shown += str(panel._repr_mimebundle_()["text/html"])
        assert "<script" not in shown
        assert "<img" not in shown
        assert shown.count("&lt;script&gt;") >= 7


def test_json_is_laid_out_without_changing_a_character_of_a_value():
    from arislab.review import layout

    text = '{"a": 0.90, "a": [], "b": {"c": "x, y: {z}", "d": [1, "q\\"r"]}, "e": {}}'
    pretty = layout.laid_out(text)
    assert pretty.splitlines()[:3] == ["{", '  "a": 0.90,', '  "a": [],']
    assert layout.as_typed(pretty, original=text) == text
    tight = text.replace(", ", ",").replace(": ", ":")
    assert layout.as_typed(layout.laid_out('{"a":[1,3]}'), original='{"a":[1,2]}') == '{"a":[1,3]}'
    assert json.loads(layout.laid_out(tight)) == json.loads(tight)
    assert layout.laid_out("[" * 100_000) == "[" * 100_000, "too deep: shown as it is"


@settings(max_examples=FUZZ, deadline=None)
@given(JSON)
def test_any_json_comes_back_from_the_text_field_as_it_was(value):
    from arislab.review import layout

    for text in (json.dumps({"v": value}), json.dumps({"v": value}, separators=(",", ":"), ensure_ascii=False)):
        assert layout.as_typed(layout.laid_out(text), original=text) == text


def test_in_a_run_the_panel_is_a_static_summary(panel, monkeypatch):
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Review panel: 0 of 3 decided by Ada, 0 skipped, 3 left."
    monkeypatch.setenv("ARISLAB_RUN_ID", "r1")
    assert set(panel._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_an_empty_queue_says_what_to_run_first(log):
    panel = review.Panel(review.queue(curated_rows(0), tables.empty("reviews"), n=5, seed=0), reviewer="", decide=log)
    assert "arislab run curate" in repr(panel)
    assert "arislab run curate" in (panel.widget and panel._view.card.value)


def test_a_queue_without_the_needed_columns_is_refused(log):
    with pytest.raises(ParameterError, match="'output'"):
        review.Panel(curated_rows(1).drop("output"), reviewer="", decide=log)


def test_characters_that_nobody_would_see_are_shown_by_their_number(log):
    order, shy, stop = "\u202e", "\xad", "\x00"
    evil = f"pay {order}001$ to me{shy}{stop}\u200b"
    panel = review.Panel(curated_rows(1, input=evil, output=evil), reviewer="Ada", decide=log)
    assert panel.widget
    for name in ("U+202E", "U+00AD", "U+0000", "U+200B"):
        assert panel._view.card.value.count(f"<mark>{name}</mark>") == 2
    assert not {order, shy, stop, "\u200b"} & set(panel._view.card.value)
    panel.buttons["edit"].click()
    assert "U+202E" in panel._view.notice.value, "the text field cannot mark them"
    inside = json.dumps({"a" + order: [evil]}, ensure_ascii=False)
    shown = review.Panel(curated_rows(1, output=inside), reviewer="Ada", decide=log)
    assert shown.widget
    assert order not in shown._view.card.value


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم", "👩\u200d💻 ❤\ufe0f", "1\ufe0f\u20e3", "two\n\tlines, no\u00a0break", "שלום"]
)
def test_joiners_of_letters_and_signs_stay_what_they_are(text):
    from arislab.review import layout

    assert layout.visible(text) == text
    assert layout.hidden(text) == []


def test_selectors_and_joiners_that_carry_a_secret_are_shown():
    from arislab.review import layout

    assert layout.hidden("😀\ufe00\ufe05\ufe03 a\u200db \U000e0041") == ["U+FE05", "U+FE03", "U+200D", "U+E0041"]


# the fold


def test_an_approval_approves_and_a_rejection_does_not():
    row = folded({"decision": "approve"})
    assert (row["approved"], row["needs_review"], row["reviewed_by"], row["output"]) == (True, False, "Ada", OUTPUT)
    assert row["updated_at"] == NOON
    row = folded({"decision": "reject"})
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, False, "Ada")


def test_an_edit_replaces_the_output_and_keeps_the_original():
    better = OUTPUT.replace("7", "9")
    row = folded({"decision": "edit", "edited_output": better})
    assert (row["approved"], row["needs_review"], row["output"]) == (True, False, better)
    assert json.loads(row["metadata"])["original_output"] == OUTPUT
    assert json.loads(row["metadata"])["company"] == "Acme"
    row = folded({"decision": "edit", "edited_output": better}, curated=curated_rows(1, metadata=None))
    assert json.loads(row["metadata"]) == {"original_output": OUTPUT}


@pytest.mark.parametrize("decision", ["skip", "label"])
def test_skips_and_labels_settle_nothing(decision):
    before, after = curated_rows(), review.fold(curated_rows(), events({"decision": decision, "labels": '["helpful"]'}))
    assert_frame_equal(before, after)
    assert folded({"decision": "approve"}, {"decision": decision})["approved"], "nor take they a decision back"


def test_the_latest_decision_wins_unless_somebody_adjudicated():
    ada, grace = {"reviewer": "Ada"}, {"reviewer": "Grace"}
    assert folded({"decision": "approve"} | ada, {"decision": "reject"} | grace)["reviewed_by"] == "Grace"
    third = {"decision": "adjudicate", "reviewer": "Alan"}
    row = folded(third, {"decision": "reject"} | grace)
    assert (row["approved"], row["reviewed_by"]) == (True, "Alan")
    assert not folded(third | {"labels": '["reject"]'}, {"decision": "approve"} | grace)["approved"]
    assert folded(third | {"edited_output": "{}"}, {"decision": "reject"} | grace)["output"] == "{}"


def test_a_reviewer_takes_back_only_their_own_events():
    approve = {"decision": "approve", "event_id": "a"}
    assert folded(approve, {"decision": "undo", "undoes": "a", "reviewer": "Grace"})["approved"]
    assert not folded(approve, {"decision": "undo", "undoes": "a"})["approved"]


def test_an_undo_after_a_fold_restores_the_row():
    before, edit = curated_rows(), {"decision": "edit", "edited_output": "{}", "event_id": "a"}
    once = review.fold(before, events(edit))
    back = review.fold(once, events(edit, {"decision": "undo", "undoes": "a"}))
    assert_frame_equal(back.drop("updated_at"), before.drop("updated_at"), check_dtypes=True)


def test_events_of_unknown_outputs_change_nothing_and_types_stay():
    before = curated_rows().with_columns(pl.col("quality_score").cast(pl.Float32))
    assert_frame_equal(review.fold(before, events({"decision": "reject", "custom_id": "elsewhere"})), before)
    assert review.fold(before, events({"decision": "edit", "edited_output": "{}"})).schema == before.schema
    assert_frame_equal(review.fold(before, tables.empty("reviews")), before)
    assert_frame_equal(review.fold(before[:0], events({"decision": "reject"})), before[:0])


def edit(i):
    return json.dumps({"edit": i})


# a decision belongs to the text that was shown


def test_a_decision_about_another_text_is_stale_and_never_applied():
    then, now = curated_rows(3, output="answer A"), curated_rows(3, output="answer B")
    log = Log()
    panel = review.Panel(then, reviewer="Ada", decide=log)
    assert panel.approve()
    assert panel.reject()
    assert panel.edit("answer A, mended")
    assert review.fold(then, log.reviews)["approved"].to_list() == [True, False, True]
    assert_frame_equal(review.fold(now, log.reviews), now)
    assert_frame_equal(
        review.fold(review.fold(then, log.reviews).with_columns(output=pl.lit("answer A")), log.reviews),
        review.fold(then, log.reviews),
    )
    told = decisions.standing(now, log.reviews)
    assert told["stale"].to_list() == ["approve", "reject", "edit"]
    assert dict(review.progress(now, log.reviews).select("state", "rows").iter_rows())["stale"] == 3
    again = review.queue(now, log.reviews, n=5, seed=0)
    assert set(again["stale"]) == {"approve", "reject", "edit"}
    panel = review.Panel(again, reviewer="Ada", decide=log, reviews=log.reviews)
    assert panel.counts["left"] == 3, "what Ada decided about another text is not decided"
    assert f"{panel.current['stale']} by Ada, of another text" in (panel.widget and panel._view.card.value)
    assert panel.approve()
    assert review.fold(now, log.reviews)["approved"].sum() == 1
    assert review.fold(then, log.reviews)["approved"].sum() == 2, "the old text has its old verdict, or none"


def test_a_decision_belongs_to_the_question_too():
    log = Log()
    assert review.Panel(curated_rows(1), reviewer="Ada", decide=log).approve()
    asked_otherwise = curated_rows(1, input="input 0, but of another year")
    assert not review.fold(asked_otherwise, log.reviews)["approved"].item()
    older = log.reviews.drop("asked_sha256", "seq")  # an event of a lake that never recorded the question
    assert review.fold(asked_otherwise, older)["approved"].item()
    assert not review.fold(curated_rows(1, output="another"), older)["approved"].item()


def test_a_row_that_was_approved_for_an_earlier_text_waits_again():
    stored = curated_rows(1, output="answer B").with_columns(
        approved=True, needs_review=False, reviewed_by=pl.lit("Ada")
    )
    row = review.fold(stored, events({"decision": "approve", "shown_sha256": decisions.sha256("answer A")})).row(
        0, named=True
    )
    assert (row["approved"], row["needs_review"], row["reviewed_by"]) == (False, True, None)


def test_an_event_that_does_not_say_what_was_shown_applies_to_nothing():
    told = decisions.standing(curated_rows(1), events({"decision": "approve", "shown_sha256": None}))
    assert (told["approved"].item(), told["stale"].item()) == (False, "approve")


def test_who_was_shown_an_edited_text_and_approves_it_approves_that_text():
    edited = '{"strengths": []}'
    edit = {"decision": "edit", "edited_output": edited, "event_id": "a"}
    seen = {"decision": "approve", "reviewer": "Grace", "shown_sha256": decisions.sha256(edited)}
    row = folded(edit, seen)
    assert (row["output"], row["reviewed_by"], row["approved"]) == (edited, "Grace", True)
    undone = folded(edit, seen, {"decision": "undo", "undoes": "a"})
    assert (undone["output"], undone["approved"], undone["needs_review"]) == (OUTPUT, False, True)


@pytest.mark.parametrize("edited", ['{"score": NaN}', '{"score": 1, "score": 2}', "not JSON any more"])
def test_an_edit_of_an_older_panel_that_is_no_json_is_stale(edited):
    told = decisions.standing(curated_rows(1), events({"decision": "edit", "edited_output": edited}))
    assert (told["output"].item(), told["approved"].item(), told["stale"].item()) == (OUTPUT, False, "edit")


# clocks


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where it is put."""
    times = [NOON]
    monkeypatch.setattr(decisions, "_now", lambda: times[-1])
    return times


def test_a_clock_that_is_set_back_reorders_no_decision(clock, log):
    panel = review.Panel(curated_rows(1), reviewer="Ada", decide=log)
    assert panel.approve()
    clock.append(NOON - timedelta(days=1))
    assert panel.undo()
    assert panel.reject()
    assert [row["decided_at"] for row in log.rows] == sorted((row["decided_at"] for row in log.rows), reverse=True)
    assert not review.fold(curated_rows(1), log.reviews)["approved"].item()
    clock.append(NOON - timedelta(days=2))
    other = review.Panel(
        review.queue(curated_rows(1), log.reviews[:0], n=1, seed=0), reviewer="Grace", decide=log, reviews=log.reviews
    )
    assert other.approve()
    assert review.fold(curated_rows(1), log.reviews)["reviewed_by"].item() == "Grace", "she saw what Ada decided"


def test_two_sessions_that_know_nothing_of_each_other_are_ordered_by_time(clock):
    logs = [Log(), Log()]
    panels = [
        review.Panel(curated_rows(4), reviewer=name, decide=log)
        for name, log in zip(("Ada", "Grace"), logs, strict=True)
    ]
    for panel, decide in [(0, "approve"), (0, "approve"), (0, "reject"), (1, "reject"), (1, "approve"), (0, "approve")]:
        clock.append(clock[-1] + timedelta(seconds=1))
        assert getattr(panels[panel], decide)()
    rows = review.fold(curated_rows(4), pl.concat([log.reviews for log in reversed(logs)]))
    assert rows["reviewed_by"].to_list() == ["Grace", "Grace", "Ada", "Ada"]
    assert rows["approved"].to_list() == [False, True, False, True]


def test_a_decision_that_is_sent_again_after_an_error_counts_once(panel, log):
    def stores_and_fails(frame):
        log(frame)
        raise OSError("the disk went away after the write")

    panel._decide = stores_and_fails
    assert not panel.approve()
    panel._decide = log
    assert panel.approve()
    assert panel.undo()
    assert review.live(log.reviews).is_empty(), "undo takes back both writes of one decision"


ACTS = st.lists(
    st.tuples(st.sampled_from(["approve", "reject", "edit", "skip", "undo"]), st.integers(-90, 90), st.booleans()),
    max_size=10,
)


@settings(max_examples=FUZZ, deadline=None)
@given(ACTS)
def test_what_a_reviewer_did_last_counts_whatever_the_clock_says(acts):
    rows, log, done, now = curated_rows(1), Log(), [], NOON
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "_now", lambda: now)
        panel = review.Panel(rows, reviewer="Ada", decide=log)
        for n, (act, days, is_new) in enumerate(acts):
            now += timedelta(days=days)
            if is_new or act != "undo":  # another session, of whoever comes back to the row
                panel = review.Panel(rows, reviewer="Ada", decide=log, reviews=log.reviews)
                panel._current = "r-0"
            if act == "undo":
                assert panel.undo() == bool(done)
                done = done[:-1]
            else:
                assert panel.edit(edit(n)) if act == "edit" else getattr(panel, act)()
                done.append((act, edit(n) if act == "edit" else OUTPUT))
    verdict = [one for one in done if one[0] != "skip"][-1:]
    row = review.fold(rows, log.reviews[random.Random(0).sample(range(len(log.rows)), len(log.rows))]).row(
        0, named=True
    )
    if not verdict:
        assert (row["approved"], row["needs_review"]) == (False, True)
    else:
        ((act, text),) = verdict
        assert (row["approved"], row["needs_review"], row["output"]) == (act != "reject", False, text)


def test_two_people_who_decide_at_once_lose_nothing(lake):
    rows = curated_rows(6)
    panels = [review.Panel(rows, reviewer=name, decide=lake["reviews"].append) for name in ("Ada", "Grace")]

    def work(panel):
        return [panel.approve() if i % 2 else panel.reject() for i in range(6)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, panels)) == [[True] * 6] * 2
    reviews = lake["reviews"].read()
    assert reviews.group_by("reviewer").len().sort("reviewer").rows() == [("Ada", 6), ("Grace", 6)]
    assert review.fold(rows, reviews)["approved"].to_list() == [False, True] * 3
    again = review.Panel(rows, reviewer="Ada", decide=lake["reviews"].append, reviews=reviews)
    assert again.counts["left"] == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["r-0", "r-1", "r-2", "gone"]),
        st.sampled_from(["Ada", "Grace"]),
        st.sampled_from(tables.DECISIONS),
        st.integers(0, 3),  # seconds: many ties
        st.integers(0, 11),  # what an undo takes back
        st.sampled_from([OUTPUT, "another text", *(edit(i) for i in range(12))]),  # what was shown
    ),
    max_size=12,
)


def made(drawn):
    """Events whose clocks say anything and whose sequence numbers are missing, equal or against the clock."""
    return pl.DataFrame(
        [
            {
                "event_id": f"e{i:02d}", "custom_id": custom_id, "reviewer": who, "decision": decision,
                "labels": ["[]", '["reject"]', None, "reject"][at],
                "edited_output": edit(i) if decision in ("edit", "adjudicate") and i % 2 == 0 else None,
                "shown_sha256": decisions.sha256(shown), "asked_sha256": decisions.sha256("input 0") if back % 3 == 0 else None,
                "decided_at": NOON + timedelta(seconds=at), "undoes": f"e{back:02d}" if decision == "undo" else None,
                "seq": None if back % 4 == 0 else at * 1_000_000 + back,
            }
            for i, (custom_id, who, decision, at, back, shown) in enumerate(drawn)
        ],
        schema=decisions.SCHEMA,
    )  # fmt: skip


@settings(max_examples=FUZZ, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_fold_loses_nothing_and_depends_on_no_order(drawn, shuffle, cut):
    before, reviews = curated_rows(3), made(drawn)
    after = review.fold(before, reviews)
    assert after.select("id", "input", "quality_score").equals(before.select("id", "input", "quality_score"))
    assert after.schema == before.schema
    assert after["output"].null_count() == 0
    order = list(range(reviews.height))
    shuffle.shuffle(order)
    assert_frame_equal(review.fold(before, reviews[order]), after)
    assert_frame_equal(review.fold(before, pl.concat([reviews, reviews[order]])), after)
    assert_frame_equal(review.fold(after, reviews), after)
    said = {decisions.sha256(text) for text in reviews["edited_output"].drop_nulls()} | set(reviews["shown_sha256"])
    assert {decisions.sha256(text) for text in after.filter("approved")["output"]} <= said, (
        "nobody saw, or wrote, that text"
    )
    stepwise = review.fold(review.fold(before, reviews[:cut]), reviews)
    assert_frame_equal(stepwise.drop("updated_at"), after.drop("updated_at"))
    assert review.progress(before, reviews)["rows"].sum() == 3


@settings(max_examples=FUZZ, deadline=None)
@given(EVENTS, st.integers(0, 11))
def test_an_undone_event_counts_as_if_it_had_never_been(drawn, i):
    reviews, before = made(drawn), curated_rows(3)
    target = reviews[i : i + 1].filter(pl.col("decision") != "undo")
    undo = target.with_columns(event_id=pl.lit("u"), decision=pl.lit("undo"), undoes="event_id")
    without = reviews.join(target, on="event_id", how="anti")
    assert_frame_equal(review.fold(before, pl.concat([reviews, undo])), review.fold(before, without))


# the queue


def test_the_queue_mixes_the_cut_the_top_and_chance_and_says_with_what_probability():
    curated = curated_rows(100)
    chosen = review.queue(curated, tables.empty("reviews"), n=20, seed=1)
    groups = {why: set(rows["custom_id"]) for (why,), rows in chosen.group_by("why")}
    assert groups["near the cut"] == {f"r-{i}" for i in range(8)}
    assert groups["top"] == {f"r-{i}" for i in range(96, 100)}
    assert len(groups["random"]) == 8
    assert dict(chosen.select("why", "inclusion_prob").unique().iter_rows()) == {
        "near the cut": 1.0, "top": 1.0, "random": pytest.approx(8 / 88),
    }  # fmt: skip
    assert_frame_equal(
        chosen, review.queue(curated[random.Random(0).sample(range(100), 100)], tables.empty("reviews"), n=20, seed=1)
    )
    assert not chosen.equals(review.queue(curated, tables.empty("reviews"), n=20, seed=2))


def test_the_queue_holds_only_waiting_rows_that_nobody_settled():
    curated = curated_rows(5).with_columns(needs_review=pl.col("id") != "r-4")
    reviews = events(
        {"decision": "approve"}, {"decision": "skip", "custom_id": "r-1"}, {"decision": "label", "custom_id": "r-2"}
    )
    chosen = review.queue(curated, reviews, n=50, seed=0)
    assert set(chosen["custom_id"]) == {"r-1", "r-2", "r-3"}
    assert set(chosen["inclusion_prob"]) == {1.0}
    assert chosen.columns == [*curated.columns, "why", "inclusion_prob", "stale", "stale_by"]
    assert review.queue(curated_rows(0), reviews, n=3, seed=0).is_empty()
    with pytest.raises(ParameterError, match="at least 1"):
        review.queue(curated, reviews, n=0, seed=0)


def test_every_waiting_row_counts_once_in_the_estimate_of_the_whole():
    """Hájek weights 1 / inclusion_prob sum to the number of waiting rows."""
    chosen = review.queue(curated_rows(73), tables.empty("reviews"), n=30, seed=4)
    assert (1 / chosen["inclusion_prob"]).sum() == pytest.approx(73)


def test_progress_sums_to_all_rows():
    curated = curated_rows(6).with_columns(needs_review=pl.col("id") != "r-4")
    reviews = events(
        {"decision": "approve"}, {"decision": "reject", "custom_id": "r-1"},
        {"decision": "edit", "edited_output": "{}", "custom_id": "r-2"}, {"decision": "skip", "custom_id": "r-3"},
        {"decision": "approve", "custom_id": "r-5", "shown_sha256": decisions.sha256("what it was then")},
    )  # fmt: skip
    counts = dict(review.progress(curated, reviews).select("state", "rows").iter_rows())
    assert counts == {"approved": 1, "edited": 1, "rejected": 1, "stale": 1, "waiting": 1, "not queued": 1}


@pytest.mark.parametrize("notebook", ["review", "explore"])
def test_the_notebook_says_what_to_run_first_when_the_lake_is_empty(notebook, root, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    cells = json.loads((CHECKOUT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "`arislab run curate`" in repr(names["panel" if notebook == "review" else "explorer"])
