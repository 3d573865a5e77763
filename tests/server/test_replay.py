"""A run is repeated from its recorded answers.

Each row comes back as it was, and each server says what it said then.
"""

import json

import pytest
from toys import people

from arislab import batch
from arislab.errors import PrerequisiteError
from arislab.runs import rerun

COLUMNS = ("status", "error", "llm_output", "finish_reason", "prompt_tokens", "completion_tokens", "logprob_mean")
COLUMNS += ("logprob_tail", "logprob_window", "first_token_logprobs")
TEXT = "a b\u2028c \N{GRINNING FACE}"
ROWS = [
    ("ok", None, TEXT, "stop", 9, 3, None, None, None, None),
    ("ok", None, "likely", "stop", 9, 1, -0.25, -0.125, -0.5, '{"4":-0.25}'),
    ("ok", None, "of an older version", "stop", 9, 4, -0.25, None, None, None),
    ("truncated", None, "to the lim", "length", 9, 160, None, None, None, None),
    ("empty", None, "", "stop", 9, 0, None, None, None, None),
    ("refused", None, "I will not", "stop", 9, 4, None, None, None, None),
    ("refused", None, "cut by a filter", "content_filter", 9, 4, None, None, None, None),
    ("error", '{"code":"invalid_prompt","message":"too long"}', None, None, None, None, None, None, None, None),
]


def asked(model="toy"):
    return batch.build_requests(
        people(len(ROWS)), lambda row: [{"role": "user", "content": row["profile"]["text"]}], model=model
    )


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Write a file of answers, as a rerun does, and have connections replay it."""

    def write(*servers, rows=()):
        lines = [{"connections": rerun._connections(list(servers))}, *rows]
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        monkeypatch.setenv("ARISLAB_REPLAY", str(path))
        return path

    return write


def said(base_url, *models, **about):
    return {"base_url": base_url, "models": list(models), "about": about}


def test_every_kind_of_row_comes_back_as_it_was(recorded, tmp_path):
    requests = asked()
    rows = [
        {"custom_id": name, "model_returned": "toy", **dict(zip(COLUMNS, row, strict=True))}
        for name, row in zip(requests["custom_id"], ROWS, strict=True)
    ]
    recorded(said("http://elsewhere/v1", "toy"), rows=rows)
    with batch.connect("http://elsewhere/v1", folder=tmp_path / "batches") as server:
        job = batch.submit(requests, server=server, folder=tmp_path / "batches")
        answered = job.wait().collect()
    assert answered.sort("candidate_id").select(COLUMNS).rows() == ROWS


def test_times_that_were_measured_then_are_told_again_and_nobody_is_asked(recorded, tmp_path):
    times = [{"base_url": "embedded", "seconds": seconds} for seconds in (0.25, None, 0.5)]
    recorded(said("http://x/v1", "other"), said("embedded", "toy"), *times)
    with batch.connect("embedded", folder=tmp_path / "batches") as server:
        assert [server.seconds({"model": "toy"}) for _ in range(4)] == [0.25, None, 0.5, None]


def test_a_request_that_was_not_asked_then_is_an_error_of_its_row(recorded, tmp_path):
    requests = asked()
    row = {"custom_id": requests["custom_id"][0], "model_returned": "toy", **dict(zip(COLUMNS, ROWS[0], strict=True))}
    recorded(said("embedded", "toy"), rows=[row])
    with batch.connect("embedded", folder=tmp_path / "batches") as server:
        rows = batch.submit(requests, server=server, folder=tmp_path / "batches").wait().collect()
    assert rows["status"].to_list() == ["ok"] + ["error"] * (len(ROWS) - 1)
    assert rows["error"][1:].str.contains("was not asked in the run that is repeated").all()


@pytest.mark.slow
def test_each_server_says_what_it_said_each_time_that_the_run_connected(recorded, tmp_path):
    recorded(
        said("embedded", "tiny", engine="local", response_format=False),
        {"base_url": "embedded", "form": None, "why": "not honoured"},
        said("http://one/v1", "big", "bigger"),
        {"base_url": "http://one/v1", "form": {"type": "json_schema"}, "why": "took it"},
        said("embedded", "tiny", "tiny-tuned", engine="local", response_format=False),
    )
    connections = []
    for url in ("http://one/v1", "embedded", "embedded", "embedded"):
        with batch.connect(url, folder=tmp_path / "batches") as server:
            connections.append((server.models, server.model(), server.about["engine"], server.about["replayed"]))
    assert connections == [
        (["big", "bigger"], "big", None, [{"type": "json_schema"}, "took it"]),
        (["tiny"], "tiny", "local", [None, "not honoured"]),
        (["tiny", "tiny-tuned"], "tiny", "local", None),
        (["tiny", "tiny-tuned"], "tiny", "local", None),
    ]


def test_a_damaged_file_is_refused_in_one_message(tmp_path):
    from arislab.server.engines.replay import ReplayEngine

    (tmp_path / "a.jsonl").write_text('{"connections": []}\n')
    with pytest.raises(PrerequisiteError, match="no file of recorded answers"):
        ReplayEngine(tmp_path / "a.jsonl")
