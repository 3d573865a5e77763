"""Ten thousand records are listed, filtered and compared without a server.

The index is only a memory and may go at any time.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from toys import notebook, plant

import arislab
from arislab import runs
from arislab.errors import ParameterError, PrerequisiteError
from arislab.records import diff as run_diff
from arislab.records import find as records
from arislab.records import index as run_index
from arislab.system import processes


@pytest.fixture
def three(root):
    interval = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 10}
    plant(root, "20260101T000000Z-icl-aaaa", parameters={"k": 3}, headline={"gain": interval})
    plant(
        root, "20260102T000000Z-icl-bbbb", parameters={"k": 5}, headline={"gain": interval | {"mean": 0.9, "low": 0.85}}
    )
    plant(root, "20260103T000000Z-curate-cccc", status="failed", reason="ValueError: no")
    return root


def ids(found):
    return [run["run_id"][-4:] for run in found]


def test_the_index_follows_what_is_on_disk(three):
    assert ids(records.as_json(three)) == ["cccc", "bbbb", "aaaa"]
    index = three / "papermill_runs" / ".index.sqlite"
    assert index.is_file()
    plant(three, "20260104T000000Z-icl-dddd")
    path = three / "papermill_runs" / "20260101T000000Z-icl-aaaa" / "run.json"
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "timeout"'))
    (three / "papermill_runs" / "20260102T000000Z-icl-bbbb" / "run.json").unlink()
    found = records.as_json(three)
    assert [(run["run_id"][-4:], run["status"]) for run in found] == [
        ("dddd", "ok"),
        ("cccc", "failed"),
        ("bbbb", "unreadable"),
        ("aaaa", "timeout"),
    ]
    index.write_bytes(b"this is no database")
    assert records.as_json(three) == found
    index.unlink()
    assert records.as_json(three) == found


def test_an_index_that_cannot_be_written_is_done_without(three, monkeypatch):
    assert ids(records.as_json(three)) == ["cccc", "bbbb", "aaaa"]
    index = three / "papermill_runs" / ".index.sqlite"
    before = index.read_bytes()
    on_disk = run_index._on_disk

    def read_only(base):
        found = on_disk(base)
        found.execute("pragma query_only = on")
        return found

    monkeypatch.setattr(run_index, "_on_disk", read_only)
    plant(three, "20260104T000000Z-icl-dddd", headline={"new": 1})
    assert ids(records.as_json(three)) == ["dddd", "cccc", "bbbb", "aaaa"]
    assert ids(records.select(three, where="new = 1")) == ["dddd"]
    assert index.read_bytes() == before


def test_runs_are_found_by_phase_by_ends_and_by_numbers(three):
    assert ids(records.select(three, where="phase = 'icl' and gain > 0.8")) == ["bbbb"]
    assert ids(records.select(three, where="k = 3 or status = 'failed'")) == ["cccc", "aaaa"]
    assert ids(records.select(three, sort="gain")) == ["bbbb", "aaaa", "cccc"]
    assert ids(records.select(three, limit=2)) == ["cccc", "bbbb"]
    assert records.find(three, "aaaa")["run_id"] == "20260101T000000Z-icl-aaaa"
    assert records.find(three, "20260103")["phase"] == "curate"
    assert records.find(three, "icl")["run_id"].endswith("bbbb"), "the newest of a phase"
    with pytest.raises(PrerequisiteError, match="there is no run 'zzzz'"):
        records.find(three, "zzzz")
    with pytest.raises(PrerequisiteError, match="3 runs match"):
        records.find(three, "2026")
    with pytest.raises(ParameterError, match=r"'nonsense = 1' .*cannot be answered.*gain"):
        records.select(three, where="nonsense = 1")
    with pytest.raises(ParameterError, match=r"--sort 'gane'"):
        records.select(three, sort="gane")


def test_a_silent_run_on_another_machine_is_lost(root):
    far = processes.identity(os.getpid()) | {"boot_id": "other", "hostname": "elsewhere"}
    folder = plant(root, "20260101T000000Z-icl-aaaa", status="running", supervisor=far)
    (folder / "heartbeat").touch()
    assert records.as_json(root)[0]["status"] == "running"
    os.utime(folder / "heartbeat", (0, 0))
    assert records.as_json(root)[0]["status"] == "lost"


def test_a_record_of_the_first_version_is_read(root):
    folder = plant(root, "20260101T000000Z-icl-aaaa", started_at="2026-01-01T00:00:01.000+00:00")
    old = json.loads((folder / "run.json").read_text())
    del old["created_at"]
    (folder / "run.json").write_text(json.dumps(old))
    assert records.as_json(root)[0]["created_at"] == "2026-01-01T00:00:01.000+00:00"


def test_what_differs_between_two_runs_is_said_by_heading(three):
    one, other = (records.find(three, name) for name in ("aaaa", "bbbb"))
    (Path(one["folder"]) / "task.py").write_text("SYSTEM = 'a'\n")
    (Path(other["folder"]) / "task.py").write_text("SYSTEM = 'b'\n")
    (Path(one["folder"]) / "env.lock").write_text("polars==1\nx==1\n")
    (Path(other["folder"]) / "env.lock").write_text("polars==2\nx==1\n")
    found = run_diff.diff(one, other)
    assert found == {
        "parameters": ["k: 3 → 5"],
        "task file": ["-SYSTEM = 'a'", "+SYSTEM = 'b'"],
        "environment": ["-polars==1", "+polars==2"],
        "headline": ["gain: 0.700 [0.600, 0.800] n=10 → 0.900 [0.850, 0.800] n=10 (intervals apart)"],
    }
    assert run_diff.diff(one, one) == {}


def test_cell_outputs_are_compared_without_clocks(root):
    book = notebook(
        root / "notebooks", "print(n)", "import time\nprint('x' * n)\nprint(time.time(), file=__import__('sys').stderr)"
    )
    made = [runs.execute("curate", {"n": n}, root=root, notebooks=book) for n in (3, 3, 4)]
    one, same, other = (records.find(root, record.run_id) for record in made)
    assert run_diff.diff(one, same) == {}
    found = run_diff.diff(one, other)
    assert found["parameters"] == ["n: 3 → 4"]
    assert len(found["cells"]) == 3, found["cells"]  # injected, and both that print


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


def arislab_command(root, *words):
    command = [sys.executable, "-m", "arislab", *words, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_lists_filters_sorts_shows_and_compares(three):
    listed = arislab_command(three, "runs", "--where", "phase = 'icl'", "--sort", "gain", "-n", "1")
    assert listed.returncode == 0, listed
    assert listed.stdout.split()[0].endswith("bbbb")
    assert [line[:8] for line in listed.stdout.splitlines()] == ["20260102", "and more"]
    assert [run["status"] for run in json.loads(arislab_command(three, "runs", "--json").stdout)] == [
        "failed",
        "ok",
        "ok",
    ]
    nothing = arislab_command(three, "runs", "--where", "phase = 'icl' -- or more")
    assert len(nothing.stdout.splitlines()) == 2, "a comment does not cut off the order"
    nothing = arislab_command(three, "runs", "--where", "phase = 'evaluate'")
    assert (nothing.returncode, nothing.stdout, "no run fulfils that" in nothing.stderr) == (0, "", True)
    refused = arislab_command(three, "runs", "--sort", "gane")
    assert (refused.returncode, "known: " in refused.stderr.lower()) == (2, True)
    shown = arislab_command(three, "runs", "show", "bbbb").stdout
    assert "k " in shown
    assert "gain" in shown
    assert json.loads(arislab_command(three, "runs", "show", "bbbb", "--json").stdout)["parameters"] == {"k": 5}
    assert "k: 3 → 5" in arislab_command(three, "runs", "diff", "aaaa", "bbbb").stdout
    assert arislab_command(three, "runs", "diff", "aaaa", "aaaa").stdout == "no difference\n"
    gone = arislab_command(three, "runs", "show", "nope")
    assert (gone.returncode, "Traceback" in gone.stderr) == (2, False)


def test_a_run_that_failed_is_resumed_as_a_new_one_with_the_same_parameters(root):
    book = notebook(root / "notebooks", "from pathlib import Path\nassert Path('go').exists(), 'not yet'")
    runs.execute(str(book / "2_curate.ipynb"), {"n": 4, "label": "007"}, root=root)
    first = records.as_json(root)[0]
    assert first["status"] == "failed"
    (book / "go").touch()
    done = arislab_command(root, "resume", first["run_id"][-4:])
    assert done.returncode == 0, done
    new, old = records.as_json(root)
    assert (new["resumed_from"], old["run_id"]) == (first["run_id"], first["run_id"])
    assert new["parameters"] == old["parameters"]
    again = arislab_command(root, "resume", new["run_id"])
    assert (again.returncode, "only a run that ended without being ok" in again.stderr) == (2, True)


def filtered(root):
    return ids(records.select(root, where="phase = 'icl' and gain > 0.4", sort="gain"))


@pytest.mark.parametrize("damage", ["gone", "garbage", "older", "folder", "locked"])
def test_a_filter_answers_the_same_whatever_became_of_the_index(three, damage):
    before = filtered(three)
    assert before[0] == "bbbb"
    index = three / "papermill_runs" / ".index.sqlite"
    other = sqlite3.connect(index)
    if damage == "locked":
        other.execute("begin exclusive")
    elif damage == "older":
        other.executescript(
            "drop table listed; create table listed (name text, stamp text, brief blob, whole blob); pragma user_version = 0"
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


@pytest.mark.parametrize(
    "odd",
    [
        {"duration_s": "long"},
        {"duration_s": True},
        {"headline": ["gain"]},
        {"headline": "gain"},
        {"status": None},
        {"status": ["ok"]},
        {"phase": ["icl"]},
        {"reason": {"not": "a text"}},
        {"started_at": "soon"},
        {"created_at": "0001-01-01T00:00:00+12:00"},
        {"created_at": "2026-01-04"},
        {"status": "running", "supervisor": {"pid": "one"}},
        {"status": "running", "supervisor": {"pid": 2**70}},
        {"status": "running"},
        {"status": "running", "supervisor": {"pid": 1.5}},
        {"code": None},
        {"code": "a" * 40},
        {"parameters": None},
        {"run_id": 7},
    ],
)
def test_a_record_with_a_field_of_another_type_is_unreadable_and_the_others_are_listed(three, odd):
    folder = plant(three, "20260104T000000Z-icl-dddd", **odd)
    for found in (records.as_json(three, limit=9), records.as_json(three), records.select(three, where="true")):
        assert [run["status"] for run in found] == ["unreadable", "failed", "ok", "ok"]
        assert found[0]["reason"].startswith("run.json: ")
    assert len(arislab_command(three, "runs").stdout.splitlines()) == 4
    assert arislab.runs(three).height == 4
    shown = arislab_command(three, "runs", "show", folder.name)
    assert (shown.returncode, "unreadable" in shown.stdout) == (0, True), shown
    assert run_diff.diff(records.find(three, folder.name), records.find(three, "aaaa"))["status"] == ["unreadable → ok"]


def test_a_record_nested_too_deeply_is_unreadable(three):
    (three / "papermill_runs" / "20260101T000000Z-icl-aaaa" / "run.json").write_text("[" * 100_000)
    assert [run["status"] for run in records.select(three, where="true")] == ["failed", "ok", "unreadable"]


def test_a_record_that_could_not_be_read_is_read_again(three, monkeypatch):
    text = Path.read_text

    def fail(path, *rest, **more):
        if path.parent.name.endswith("aaaa"):
            raise OSError(5, "Input/output error")
        return text(path, *rest, **more)

    monkeypatch.setattr(Path, "read_text", fail)
    assert ids(records.select(three, where="status = 'unreadable'")) == ["aaaa"]
    monkeypatch.undo()
    assert records.select(three, where="status = 'unreadable'") == []
    assert ids(records.select(three, where="k = 3")) == ["aaaa"]


def test_runs_of_one_second_are_in_one_order_everywhere(root):
    made = [("ffff", "00.100+00:00"), ("0000", "00.900+00:00"), ("8888", "00.500+00:00")]
    for name, moment in made:
        plant(root, f"20260101T000000Z-icl-{name}", created_at=f"2026-01-01T00:00:{moment}")
    plant(root, "20260101T000001Z-icl-aaaa", created_at="2026-01-01T02:00:01.000+02:00")
    plant(root, "20260101T000002Z-icl-bbbb", created_at="2026-01-01T00:00:02.000+00:00")
    expected = ["bbbb", "aaaa", "0000", "8888", "ffff"]
    assert ids(records.as_json(root)) == ids(records.as_json(root, limit=9)) == expected
    assert ids(records.select(root, where="true")) == expected
    assert ids(records.as_json(root, limit=3)) == ids(records.select(root, where="true", limit=3)) == expected[:3]
    assert records.find(root, "icl")["run_id"].endswith("bbbb")


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


def test_the_newest_from_their_files_are_those_of_the_index(three):
    base = three / "papermill_runs"
    plant(three, "20261399T000000Z-icl-eeee")  # digits that are no time
    (base / "20261399T000000Z-icl-eeee" / "run.json").write_text("{}")
    (base / "20260102T120000Z-icl-ffff").mkdir()  # a run that left nothing
    (base / "20260105T000000Z-icl-ffff").write_text("a file")
    (base / "20260105T000000Z-icl-ffff copy").mkdir()
    (base / "notes").mkdir()
    example = plant(three, "20260102T180000Z-icl-aaaa").rename(base / "example")
    every = records.as_json(three)
    assert [Path(run["folder"]).name[-4:] for run in every] == ["eeee", "cccc", "mple", "ffff", "bbbb", "aaaa"]
    assert [run["status"] for run in every] == ["unreadable", "failed", "ok", "unreadable", "ok", "ok"]
    for limit in range(1, 8):
        assert records.as_json(three, limit=limit) == every[:limit]
    assert records.find(three, "example") == records.read(example)


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


def test_a_reader_that_has_seen_enough_ends_the_list_quietly(three):
    for number in range(200):
        plant(three, f"20260201T000000Z-icl-{number:04x}", reason="x" * 2_000)
    command = f"'{sys.executable}' -m arislab runs --json -n 500 --root '{three}' | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout[0], done.stderr) == ("[", "")
