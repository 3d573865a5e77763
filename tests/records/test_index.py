"""What was read of ten thousand records is remembered, and the memory may go at any time."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import arislab_command, ids, plant

from arislab.errors import ParameterError
from arislab.records import find as records
from arislab.records import index as run_index
from arislab.system import processes


def test_the_index_follows_what_is_on_disk(three):
    assert ids(records.as_json(three)) == ["cccc", "bbbb", "aaaa"]
    index = three / "papermill_runs" / ".index.sqlite"
    assert index.is_file()
    plant(three, "20260104T000000Z-icl-dddd")
    path = three / "papermill_runs" / "20260101T000000Z-icl-aaaa" / "run.json"
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "timeout"'))
    (three / "papermill_runs" / "20260102T000000Z-icl-bbbb" / "run.json").unlink()
    listed = records.as_json(three)
    assert [(run["run_id"][-4:], run["status"]) for run in listed] == [
        ("dddd", "ok"),
        ("cccc", "failed"),
        ("bbbb", "unreadable"),
        ("aaaa", "timeout"),
    ]
    index.write_bytes(b"this is no database")
    assert records.as_json(three) == listed
    index.unlink()
    assert records.as_json(three) == listed


def test_an_index_that_cannot_be_written_is_done_without(three, monkeypatch):
    assert ids(records.as_json(three)) == ["cccc", "bbbb", "aaaa"]
    index = three / "papermill_runs" / ".index.sqlite"
    before = index.read_bytes()
    on_disk = run_index._on_disk

    def read_only(base):
        stored = on_disk(base)
        stored.execute("pragma query_only = on")
        return stored

    monkeypatch.setattr(run_index, "_on_disk", read_only)
    plant(three, "20260104T000000Z-icl-dddd", headline={"new": 1})
    assert ids(records.as_json(three)) == ["dddd", "cccc", "bbbb", "aaaa"]
    assert ids(records.select(three, where="new = 1")) == ["dddd"]
    assert index.read_bytes() == before


def filtered(root):
    return ids(records.select(root, where="phase = 'icl' and gain > 0.4", sort="gain"))


@pytest.mark.parametrize("damage", ["gone", "garbage", "older", "folder", "locked"])
def test_a_filter_answers_the_same_whatever_became_of_the_index(three, damage, monkeypatch):
    monkeypatch.setattr(run_index, "_PATIENCE_S", 0.1)
    before = filtered(three)
    assert before[0] == "bbbb"
    index = three / "papermill_runs" / ".index.sqlite"
    other = sqlite3.connect(index)
    if damage == "locked":
        other.execute("begin exclusive")
    elif damage == "older":
        other.executescript(
            "drop table listed; create table listed (name text, stamp text, brief blob, whole blob);"
            "pragma user_version = 0"
        )
    else:
        index.unlink()
        if damage == "garbage":
            index.write_bytes(b"no database " * 1000)
        elif damage == "folder":
            index.mkdir()
    plant(three, "20260104T000000Z-icl-dddd", headline={"gain": 0.95, "so far unknown": 7})
    assert filtered(three) == ["dddd", *before]
    assert ids(records.select(three, where='"so far unknown" = 7')) == ["dddd"]
    other.close()


def test_names_with_quotes_and_operators_can_be_asked_for(three):
    plant(three, "20260104T000000Z-icl-dddd", headline={'icl - it\'s "best"': 1, "a'b+c": 2, "ok": True})
    assert ids(records.select(three, where='"a\'b+c" = 2 and ok')) == ["dddd"]
    assert ids(records.select(three, sort="a'b+c"))[0] == "dddd"
    assert ids(records.select(three, where='"icl - it\'s ""best""" = 1')) == ["dddd"]


def test_what_no_column_can_hold_is_shown_as_it_was_written(three):
    huge, lone = 10**30, "\ud800"
    plant(
        three,
        "20260104T000000Z-icl-dddd",
        parameters={"huge": huge, "text": lone, "gone": float("nan"), "lr": float("inf")},
        headline={"gain": 10**400, "list": [1]},
        reason=f"why {lone}",
    )
    plain = records.as_json(three, limit=1)
    for where in ("huge > 1e29", "gain > 1e300", "reason like 'why%'", "text is not null and gone is null", "lr > 1"):
        assert repr(records.select(three, where=where)) == repr(plain), where  # nan is not itself
    assert repr(records.as_json(three)[:1]) == repr(plain)
    assert plain[0]["parameters"]["huge"] == huge
    assert ids(records.select(three, where="parameters like '%k%'")) == ["bbbb", "aaaa"]
    listed = arislab_command(three, "runs")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 4), listed


def test_a_misspelt_name_in_double_quotes_is_no_text(three):
    plant(three, "20260104T000000Z-icl-dddd", headline={"Ärger": 2})
    with pytest.raises(ParameterError, match=r"no run has \"gane\"; did you mean 'gain'"):
        records.select(three, where='"gane" > 0.4')
    assert ids(records.select(three, where='phase = \'say "gane"\' or "GAIN" > 0.8')) == ["bbbb"]
    assert ids(records.select(three, where='"Ärger" > 1')) == ["dddd"]
    assert ids(records.select(three, sort="ÄRGER"))[0] == "dddd"
    for odd in ("1); drop table listed; --", "phase = 'a", "gain > '\ud800'"):
        with pytest.raises(ParameterError, match="cannot be answered"):
            records.select(three, where=odd)
    assert ids(records.select(three, where="true", limit=10**20))[0] == "dddd"


def test_a_name_is_known_as_long_as_a_run_has_it(three):
    assert ids(records.select(three, sort="gain"))[0] == "bbbb"
    for name in ("20260101T000000Z-icl-aaaa", "20260102T000000Z-icl-bbbb"):
        shutil.rmtree(three / "papermill_runs" / name)
    with pytest.raises(ParameterError, match="no run has it"):
        records.select(three, sort="gain")


def test_parameters_headline_and_folder_can_be_asked_for_as_text(three):
    assert ids(records.select(three, where="parameters like '%\"k\":5%'")) == ["bbbb"]
    assert ids(records.select(three, where="json_extract(headline, '$.gain.low') > 0.8")) == ["bbbb"]
    assert ids(records.select(three, where="folder like '%/papermill_runs/2026%-curate-cccc'")) == ["cccc"]


def test_a_filter_sees_what_became_of_runs_without_a_verdict(root):
    me = processes.identity(os.getpid())
    plant(root, "20260101T000000Z-icl-aaaa", status="running", supervisor=me)
    plant(root, "20260102T000000Z-icl-bbbb", status="running", supervisor=me | {"start_ticks": 1})
    for _ in range(2):  # read from the files, then from the index
        assert ids(records.select(root, where="status = 'running'")) == ["aaaa"]
        assert ids(records.select(root, where="status = 'lost' and reason like '%no verdict%'")) == ["bbbb"]


def test_any_damaged_page_of_the_index_is_mended(root):
    for number in range(60):
        plant(root, f"20260101T0000{number:02}Z-icl-{number:04x}", parameters={f"p{i}": i for i in range(number % 7)})
    before, filtered_before = records.as_json(root), records.select(root, where="p3 = 3", sort="p5")
    index = root / "papermill_runs" / ".index.sqlite"
    whole = index.read_bytes()
    pages = range(0, len(whole), 4096)
    assert len(pages) > 15
    for start in pages:
        for name in ("as_json", "find", "select"):
            index.write_bytes(whole[:start] + b"\x07" * 4096 + whole[start + 4096 :])
            if name == "as_json":
                assert records.as_json(root) == before, start
            elif name == "find":
                assert records.find(root, "0007") == records.read(Path(before[60 - 8]["folder"])), start
            else:
                assert records.select(root, where="p3 = 3", sort="p5") == filtered_before, start
    index.write_bytes(b"no database " * 1000)
    assert records.as_json(root) == before
    with sqlite3.connect(index) as made:
        assert made.execute("select count(*) from listed").fetchone() == (60,)
    made.close()


def test_a_damaged_index_that_cannot_be_removed_is_done_without(three, monkeypatch):
    monkeypatch.chdir(three)
    index = Path("papermill_runs", ".index.sqlite")
    index.write_bytes(b"no database " * 1000)

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert ids(records.select(Path(), where="k > 0")) == ["bbbb", "aaaa"]
    assert index.read_bytes().startswith(b"no database")


@pytest.mark.slow
def test_several_processes_list_while_runs_are_made(root):
    """None may miss a run that was there before it looked, show one twice, or end in an error."""
    code = (
        "import sys, time; from pathlib import Path; from arislab.records import find as records\n"
        "root, ends = Path(sys.argv[1]), time.monotonic() + 6\n"
        "while time.monotonic() < ends:\n"
        "    there = {p.name for p in (root / 'papermill_runs').glob('2*')}\n"
        "    for found in (records.select(root, where='k > 0'), records.as_json(root)):\n"
        "        names = [run['run_id'] for run in found]\n"
        "        assert there <= set(names), there - set(names)\n"
        "        assert len(names) == len(set(names))\n"
    )
    plant(root, "20260101T000000Z-icl-ffff", parameters={"k": 1})
    listers = [subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.PIPE) for _ in range(3)]
    number = 0
    while any(lister.poll() is None for lister in listers):
        number += 1
        made = plant(root / "aside", f"20260102T000000Z-icl-{number:04x}", parameters={"k": number})
        made.rename(root / "papermill_runs" / made.name)
        if number % 20 == 0:
            (root / "papermill_runs" / ".index.sqlite").unlink(missing_ok=True)
        time.sleep(0.02)
    assert [lister.communicate()[1].decode() for lister in listers] == ["", "", ""]
    assert number > 20
