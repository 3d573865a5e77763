"""What the panel shows, and which clicks count."""

import json
from datetime import timedelta

import polars as pl
from toys import curated_rows

from arislab import review


def test_text_of_models_candidates_and_errors_is_never_html(log):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    metadata = json.dumps({"company": evil, "title": evil, "difficulty": evil, "category": evil, "use_case": evil})
    for output in (evil, json.dumps({evil: [evil]})):
        frame = curated_rows(1, input=evil, output=output, metadata=metadata).with_columns(why=pl.lit(evil))
        panel = review.Panel(frame, reviewer=evil, decide=log, backend="buttons", labels=(evil,))
        log.error = OSError(evil)
        panel.buttons["approve"].click()
        log.error = None
        shown = panel._view.card.value + panel._view.notice.value + panel._view.head.value
        shown += str(panel._repr_mimebundle_()["text/html"])
        assert "<script" not in shown
        assert "<img" not in shown
        assert shown.count("&lt;script&gt;") >= 7


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


def test_an_unexpected_error_in_a_click_is_shown_too(panel, log, caplog):
    log.error = KeyError("surprise")
    panel.buttons["approve"].click()
    assert "KeyError" in panel.notice[1]
    assert panel.current["custom_id"] == "r-0"


def test_characters_that_nobody_would_see_are_shown_by_their_number(log):
    order, shy, stop = "\u202e", "\xad", "\x00"
    evil = f"pay {order}001$ to me{shy}{stop}\u200b"
    panel = review.Panel(curated_rows(1, input=evil, output=evil), reviewer="Ada", decide=log, backend="buttons")
    assert panel.widget
    for name in ("U+202E", "U+00AD", "U+0000", "U+200B"):
        assert panel._view.card.value.count(f"<mark>{name}</mark>") == 2
    assert not {order, shy, stop, "\u200b"} & set(panel._view.card.value)
    panel.buttons["edit"].click()
    assert "U+202E" in panel._view.notice.value, "the text field cannot mark them"
    inside = json.dumps({"a" + order: [evil]}, ensure_ascii=False)
    shown = review.Panel(curated_rows(1, output=inside), reviewer="Ada", decide=log, backend="buttons")
    assert shown.widget
    assert order not in shown._view.card.value
