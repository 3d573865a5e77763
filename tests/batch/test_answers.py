"""Answers that are recorded are not asked for again."""

import json
from pathlib import Path

import polars as pl
import pytest
from toys import nothing_recorded, people
from toys import question as ask
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.errors import BatchError


def test_candidates_with_the_same_profile_share_one_request():
    twins = pl.concat([people(3), people(1).with_columns(candidate_id=pl.lit("twin"))])
    frame = batch.build_requests(twins, ask, model="echo")
    assert (frame.height, frame["custom_id"].n_unique()) == (4, 3)
    assert batch.states(frame, nothing_recorded().frame) == {"same_request": 1, "unsent": 3}


def test_text_with_line_separators_survives(echo, root):
    odd = "a\u2028b\u2029c\u0085d\r\ne\x0bf \U0001f600"
    frame = pl.DataFrame({"candidate_id": ["x"], "profile": [json.dumps({"text": odd})]})
    _, url = echo()
    recorded = nothing_recorded()
    got = batch.answer(
        batch.build_requests(frame, ask, model="echo"),
        server=batch.connect(url, folder=root / "b"),
        folder=root / "b",
        recorded=recorded,
        task="t",
    )
    assert got["llm_output"].to_list() == [odd]


def test_recorded_answers_are_not_asked_again(echo, root):
    _, url = echo()
    server, recorded = batch.connect(url, folder=root / "b"), nothing_recorded()
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    batch.answer(requests(5), **how)
    job = batch.submit(requests(8), server=server, folder=root / "b", answered=recorded.answered)
    assert job.requests.height == 3
    job.wait(poll_s=0.05)
    again = batch.answer(requests(5), **how)
    assert again["status"].to_list() == ["ok"] * 5
    assert len(list((root / "b" / "requests").iterdir())) == 2


def test_answers_are_written_before_they_count_as_recorded(echo, root):
    """A kill, or a full disk, between the two leaves what stands in the folder, and the next try pays for nothing."""
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    written = []

    def write(rows):
        if not written:
            written.append("failed")
            raise OSError("no space")
        written.append((rows["custom_id"].to_list(), recorded.frame.height))

    recorded = nothing_recorded(write)
    how = {"server": server, "folder": root / "b", "recorded": recorded, "task": "t"}
    with pytest.raises(OSError, match="no space"):
        batch.answer(requests(4), **how)
    assert recorded.answered.to_list() == []
    assert batch.answer(requests(4), **how)["status"].to_list() == ["ok"] * 4
    assert written[1:] == [(requests(4)["custom_id"].to_list(), 0)]
    assert sorted(recorded.answered) == sorted(requests(4)["custom_id"])
    assert len(list(server.client.batches.list())) == 1


def test_a_row_that_is_written_again_takes_the_place_of_the_earlier_one():
    recorded = nothing_recorded()
    recorded.add(pl.DataFrame({"custom_id": ["a", "b"], "status": ["error", "ok"], "attempt": [1, 1]}))
    recorded.add(pl.DataFrame({"custom_id": ["a"], "status": ["ok"], "llm_output": ["fine"]}))
    assert recorded.frame.columns == batch.RECORDED
    assert recorded.frame.select("custom_id", "status", "llm_output").rows() == [("b", "ok", None), ("a", "ok", "fine")]
    assert recorded.of(pl.DataFrame({"custom_id": ["a", "a", "c"]}))["custom_id"].to_list() == ["a"]


def test_rows_without_an_answer_are_sent_again_as_a_new_attempt(scripted):
    kind, url, folder = scripted
    frame, recorded = requests(3), nothing_recorded()
    how = {"server": batch.connect(url, folder=folder), "folder": folder, "recorded": recorded, "task": "t"}
    nothing = pytest.warns(UserWarning, match="batch batch-. of 3 requests completed without a single answer")
    with nothing, pytest.raises(BatchError, match="none of 3 requests has an answer"):
        batch.answer(frame, **how)
    assert recorded.frame.height == 0  # the phase stops
    assert kind.creates == 3  # attempts of one run
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    assert batch.answer(frame, **how)["status"].to_list() == ["ok"] * 3
    assert kind.creates == 4


def test_raising_max_tokens_asks_only_what_was_cut_off(scripted):
    kind, url, folder = scripted
    recorded = nothing_recorded()
    how = {"server": batch.connect(url, folder=folder), "folder": folder, "recorded": recorded, "task": "t"}
    short = batch.build_requests(people(3), ask, model="m", max_tokens=2)
    long = batch.build_requests(people(3), ask, model="m", max_tokens=50)
    assert [json.loads(b)["seed"] for b in short["body"]] == [json.loads(b)["seed"] for b in long["body"]]
    assert (short["stem"] == long["stem"]).all()
    assert not set(short["custom_id"]) & set(long["custom_id"])
    a, b, c = short["custom_id"]
    kind.output = line(a) + line(b, "cut o", reason="length") + line(c)
    batch.answer(short, **how)
    again = batch.reuse_finished(long, recorded.frame)
    assert again["custom_id"].to_list() == [a, long["custom_id"][1], c]
    assert again["request_sha256"].to_list() == [
        short["request_sha256"][0],
        *long["request_sha256"][1:2],
        short["request_sha256"][2],
    ]
    kind.output = line(long["custom_id"][1], "cut off no more")
    rows = batch.answer(again, **how)
    assert (rows["llm_output"].to_list(), rows["status"].to_list()) == (["fine", "cut off no more", "fine"], ["ok"] * 3)
    assert Path(folder / "requests").is_dir()
    assert sorted(len(f.read_bytes().splitlines()) for f in (folder / "requests").iterdir()) == [1, 3]
    tiny = batch.build_requests(people(3), ask, model="m", max_tokens=1)  # what has two tokens does not fit into one
    assert batch.reuse_finished(tiny, recorded.frame)["custom_id"].to_list() == tiny["custom_id"].to_list()


def test_what_became_of_requests_is_known_without_their_texts(root, echo):
    _, url = echo()
    written = []
    bare = batch.Recorded(nothing_recorded().frame.select(batch.OUTCOMES), write=written.append)
    with batch.connect(url, folder=root / "b") as server:
        how = {"server": server, "folder": root / "b", "recorded": bare, "task": "t"}
        assert batch.dry_run(requests(6), **how, n=2).n_failed == 0
        rows = batch.answer(requests(6), **how)
    assert rows["status"].to_list() == ["ok"] * 6
    assert "llm_output" not in rows.columns
    assert set(bare.frame.columns) == set(batch.OUTCOMES)
    assert pl.concat(rows.select("llm_output") for rows in written)["llm_output"].null_count() == 0  # stored whole
    assert batch.states(requests(6), bare.frame) == {"ok": 6}


@pytest.mark.parametrize(
    ("states", "n_open", "status"),
    [({"ok": 3, "truncated": 1}, 0, "complete"), ({"ok": 2, "lost": 1, "unsent": 1}, 2, "partial")],
)
def test_the_row_of_a_run_says_whether_every_request_has_its_answer(states, n_open, status):
    asked = requests(2, samples=2)
    assert batch.unanswered(states | {"same_request": 5}) == n_open
    facts = {"run_id": "r", "task": "t", "batch_ids": ["b1"], "parameters": {"seed": 1}}
    (row,) = batch.run_row(asked, states, **facts).to_dicts()
    assert row == {
        "run_id": "r", "task": "t", "batch_ids": ["b1"], "total_candidates": 2, "model": "echo", "params": '{"seed":1}',
        "status": status,
    }  # fmt: skip
