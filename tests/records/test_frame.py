"""The recorded runs as a frame."""

import polars as pl

import arislab


def test_the_frame_shows_what_a_researcher_compares(three):
    frame = arislab.runs(three)
    assert isinstance(frame, pl.DataFrame)
    assert frame["run_id"].to_list()[0].endswith("cccc")
    shown = frame._repr_html_()
    assert "0.900 [0.850, 0.800] n=10" in shown
    assert "ValueError: no" in shown
    assert "<script" not in shown
    assert frame.filter(pl.col("status") == "ok").height == 2
    assert "arislab demo" in arislab.runs(three / "nowhere")._repr_html_()
