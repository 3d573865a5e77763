"""Decisions are on disk before they are acknowledged, and each comes into the lake once."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ, HEADLINE, disk, notebook
from toys import events as made

from arislab import runs
from arislab.errors import LakeError, ParameterError
from arislab.lake import Lake
from arislab.review import decisions, journal


def some(n, start=0):
    return made(*({"event_id": f"e{i}", "decision": "approve", "seq": i, "labels": "[]"} for i in range(start, n)))


def test_what_is_appended_is_read_back_as_it_was(tmp_path):
    full = some(2).with_columns(
        note=pl.lit('a "quoted"\nline \u2028 😀'),
        dwell_ms=pl.lit(7),
        blind=pl.lit(value=True),
        inclusion_prob=pl.lit(0.25),
    )
    one = journal.Journal(tmp_path / "s", reviewer="Ada\n../x")
    one.append([])
    assert not (tmp_path / "s").exists()
    one.append(full.to_dicts())
    assert journal.read(tmp_path).equals(full)
    assert len(list((tmp_path / "s").iterdir())) == 1


def test_a_torn_last_line_is_no_event_and_what_stands_before_it_counts(tmp_path):
    one = journal.Journal(tmp_path, reviewer="Ada")
    one.append(some(3).to_dicts())
    [path] = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert journal.read(tmp_path)["event_id"].to_list() == ["e0", "e1"]


@pytest.mark.parametrize("line", [b"{}", b"[]", b"3", b"\xff", b'{"event_id": "e9", "decided_at": "soon"}', b""])
def test_a_line_that_is_no_event_is_named_and_nothing_is_removed(tmp_path, line):
    lake = Lake(tmp_path / "lake")
    one = journal.Journal(lake.review, reviewer="Ada")
    one.append(some(1).to_dicts())
    one.close()
    [path] = lake.review.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(LakeError, match=r"line 2 of the review journal .*\.jsonl is no event"):
        journal.fold(lake.review, lake["reviews"])
    assert path.exists()


def test_a_full_disk_is_an_oserror_and_leaves_no_half_line(tmp_path):
    with disk(tmp_path / "small", size="64k") as small:
        one = journal.Journal(small / "s", reviewer="Ada")
        rows, n = some(4000).to_dicts(), 0

        def fill():
            nonlocal n
            for n in range(len(rows)):
                one.append(rows[n : n + 1])

        with pytest.raises(OSError, match=r"No space left|could be written"):
            fill()
        assert n > 50
        assert journal.read(small)["event_id"].to_list() == [f"e{i}" for i in range(n)]
        [path] = (small / "s").glob("*.jsonl")
        assert path.read_bytes().endswith(b"\n")


def test_what_an_error_of_the_disk_left_undone_can_be_sent_again(tmp_path, monkeypatch):
    one = journal.Journal(tmp_path, reviewer="Ada")
    one.append(some(1).to_dicts())

    def fails(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            one.append(some(2, 1).to_dicts())
    assert journal.read(tmp_path)["event_id"].to_list() == ["e0"]
    one.append(some(2, 1).to_dicts())
    assert journal.read(tmp_path)["event_id"].to_list() == ["e0", "e1"]


def test_a_fold_is_one_commit_and_a_second_one_adds_nothing(tmp_path):
    lake = Lake(tmp_path / "lake")
    table = lake["reviews"]
    assert journal.fold(lake.review, table) == 0
    assert table.version is None
    for name in ("Ada", "Grace"):
        one = journal.Journal(lake.review / "s", reviewer=name)
        one.append(some(200 if name == "Ada" else 300).to_dicts())
        one.close()
    assert journal.fold(lake.review, table) == 300
    assert (table.version, table.rows) == (0, 300)
    assert journal.fold(lake.review, table) == 0
    assert table.version == 0
    assert not list(lake.review.rglob("*.jsonl"))


def test_a_journal_that_is_still_written_is_folded_and_stays(tmp_path):
    lake = Lake(tmp_path / "lake")
    one = journal.Journal(lake.review / "s", reviewer="Ada")
    one.append(some(2).to_dicts())
    assert journal.fold(lake.review, lake["reviews"]) == 2
    one.append(some(3, 2).to_dicts())
    assert journal.fold(lake.review, lake["reviews"]) == 1
    assert journal.fold(lake.review, lake["reviews"]) == 0
    one.close()
    assert journal.fold(lake.review, lake["reviews"]) == 0
    assert not list(lake.review.rglob("*.jsonl"))
    assert lake["reviews"].read()["event_id"].sort().to_list() == ["e0", "e1", "e2"]


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from arislab.review import journal
from test_journal import some
name = sys.argv[1]
one = journal.Journal(Path({folder!r}) / "s", reviewer=name)
for row in some(10_000).to_dicts():
    row |= {{"event_id": name + row["event_id"], "reviewer": name}}
    one.append([row])
    print(row["event_id"], flush=True)
"""


def test_writers_killed_at_any_time_lose_nothing_that_they_acknowledged(tmp_path):
    """Two at once, each killed with -9 between a write and its acknowledgement, while a fold runs."""
    lake = Lake(tmp_path / "lake")
    tests = Path(__file__).parent
    code = WRITER.format(tests=str(tests), folder=str(lake.review))
    path = os.pathsep.join([str(tests), str(tests.parent)])
    writers = [
        subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True,
                         env=os.environ | {"PYTHONPATH": path})
        for name in ("ada", "grace")
    ]  # fmt: skip
    acknowledged = []
    for writer in writers:
        acknowledged += [writer.stdout.readline().strip() for _ in range(40)]
    journal.fold(lake.review, lake["reviews"])
    for writer in writers:
        acknowledged += [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout.readlines() if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
    journal.fold(lake.review, lake["reviews"])
    stored = lake["reviews"].read()["event_id"]
    assert stored.is_unique().all()
    assert set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 2, "more than what was on its way"
    assert not list(lake.review.rglob("*.jsonl"))


def test_folds_at_once_store_each_event_once(tmp_path):
    lake = Lake(tmp_path / "lake")
    for i in range(6):
        one = journal.Journal(lake.review / f"s{i}", reviewer="Ada")
        one.append(some(50 * (i + 1)).to_dicts())
        one.close()
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: journal.fold(lake.review, lake["reviews"]), range(4)))
    assert sum(added) == 300
    assert lake["reviews"].rows == 300


@settings(max_examples=FUZZ, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=8), st.integers(0, 4000))
def test_of_any_writes_cut_anywhere_whole_lines_are_read_each_once(tmp_path_factory, writes, cut):
    folder = tmp_path_factory.mktemp("journal")
    one = journal.Journal(folder, reviewer="Ada")
    for start, n in writes:
        one.append(some(start + n, start).to_dicts())
    paths = list(folder.glob("*.jsonl"))
    lines = []
    for path in paths:
        data = path.read_bytes()[:cut]
        path.write_bytes(data)
        lines = [json.loads(line)["event_id"] for line in data.split(b"\n")[:-1]]
    read = journal.read(folder)
    assert read["event_id"].to_list() == list(dict.fromkeys(lines))
    assert read.schema == pl.DataFrame(schema=decisions.SCHEMA).schema


def test_a_run_counts_what_people_decided_and_does_not_claim_to_have_written_it(tmp_path):
    lake = Lake(tmp_path / "data" / "lake")
    one = journal.Journal(lake.review / "s", reviewer="Ada")
    one.append(some(3).to_dicts())
    one.close()
    code = "from arislab import runs\nfrom arislab.lake import Lake\nassert Lake().collect() == 0"
    record = runs.execute("curate", {"n": 2}, root=tmp_path, notebooks=notebook(tmp_path / "nb", code, HEADLINE))
    assert record.status == "ok", record
    assert lake["reviews"].read()["run_id"].to_list() == ["interactive"] * 3
    assert record.tables_written == {}
    assert lake.collect() == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"note": "half a character: \ud800"}, "surrogate"),
        ({"decision": "left"}, "'left'"),
        ({"planted": "maybe"}, "planted"),
        ({"client_seq": 2**70}, "column"),
        ({"client_seq": 0}, "at least 1"),
        ({"dwell_ms": "long"}, "column"),
        ({"custom_id": None}, "custom_id"),
    ],
)
def test_what_the_table_could_never_take_is_refused_before_it_is_acknowledged(tmp_path, more, why):
    keeping = journal.Journal(tmp_path, reviewer="Ada")
    good = {"event_id": "e1", "custom_id": "r-1", "decision": "skip", "reviewer": "Ada"}
    keeping.append([good])
    with pytest.raises(ParameterError, match=why):
        keeping.append([good | {"event_id": "e2"}, good | {"event_id": "e3"} | more])
    assert journal.read(tmp_path)["event_id"].to_list() == ["e1"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"event_id": "e", "custom_id": "r-1", "reviewer": "Ada", "decision": "left"}',
        b'{"event_id": "e", "custom_id": "r-1", "reviewer": "Ada", "decision": "skip", "client_seq": 1e30}',
        b'{"event_id": "e", "custom_id": "r-1", "reviewer": "Ada", "decision": "skip", "note": "\\ud800"}',
        b'{"event_id": "e", "custom_id": "r-1", "reviewer": "Ada", "decision": ["skip"]}',
        b"[1, 2]",
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_named_whatever_is_wrong_with_it(tmp_path, line):
    good = b'{"event_id": "g", "custom_id": "r-1", "reviewer": "Ada", "decision": "skip"}'
    (tmp_path / "one.jsonl").write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(LakeError, match=r"line 2 of the review journal .*one\.jsonl"):
        journal.read(tmp_path)
