"""A file is cut within its limits, and a create whose answer was lost is looked for."""

import json

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import people, serving
from toys import question as ask
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.batch import sending
from arislab.batch.ledger import Ledger


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=40, unique=True),
    max_lines=st.integers(1, 7),
    max_bytes=st.integers(300, 2000),
)
def test_cutting_loses_no_request_and_keeps_the_limits(texts, max_lines, max_bytes):
    frame = pl.DataFrame(
        {"candidate_id": [f"{i}" for i in range(len(texts))], "profile": [json.dumps({"text": t}) for t in texts]}
    )
    made = batch.build_requests(frame, ask, model="m")
    files = list(sending.cut(made, max_lines=max_lines, max_bytes=max_bytes))
    lines = [line + b"\n" for _, file in files for line in file.split(b"\n")[:-1]]
    assert [name for ids, _ in files for name in ids] == made["custom_id"].to_list()
    assert [json.loads(line)["custom_id"] for line in lines] == made["custom_id"].to_list()
    assert all(line.endswith(b"\n") and line.isascii() and line.count(b"\n") == 1 for line in lines)
    for ids, file in files:
        assert len(ids) == file.count(b"\n") <= max_lines
        assert len(ids) == 1 or len(file) <= max_bytes


def test_a_file_holds_one_model():
    two = pl.concat([requests(2), batch.build_requests(people(2), ask, model="b")])
    assert [len(ids) for ids, _ in sending.cut(two, max_lines=10, max_bytes=10**6)] == [2, 2]


def test_a_create_whose_answer_was_lost_is_adopted_not_repeated(echo, root):
    _, url = echo()
    server = batch.connect(url, folder=root / "b")
    job = batch.submit(requests(6), server=server, folder=root / "b")
    ledger = Ledger(root / "b")
    ledger.db.execute("update shards set state = 'creating', batch_id = null")  # as after a crash between call and note
    again = batch.submit(requests(6), server=server, folder=root / "b")
    assert again.batch_ids == job.batch_ids
    assert len(list(server.client.batches.list())) == 1


def test_a_list_without_a_cursor_is_asked_for_no_more_than_once_again(root, monkeypatch):
    with serving() as (faults, url):
        server = batch.connect(url, folder=root / "b")
        made = [server.client.files.create(file=(f"{i}.jsonl", b"{}"), purpose="batch").id for i in range(3)]
        asked, fault = [], faults.fault
        monkeypatch.setattr(faults, "fault", lambda route: asked.append(route) or fault(route))
        # its answer says neither that there is more nor that there is not, and is the same from whatever file on
        assert [file.id for file in sending.listed(server, "files")] == made
        assert asked == ["files"] * 2
        assert [file.id for file in sending.listed(server, "files", 2)] == made[:2]
        assert asked == ["files"] * 3


def test_a_lost_answer_to_create_is_reconciled_not_retried(scripted):
    kind, url, folder = scripted
    kind.drop_create = True
    frame = requests(2)
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder).wait(poll_s=0.01).collect()
    assert kind.creates == 1
    assert rows["status"].to_list() == ["ok", "ok"]
