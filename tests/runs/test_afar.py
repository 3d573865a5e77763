"""A run on a lake by URL is recorded, verified and run again as one on a folder is."""

import json
import os
from pathlib import Path

import pytest
import stores
from toys import HEADLINE, READ, WRITE, events, git, here, notebook, people, ran

from arislab import runs
from arislab.lake import Lake
from arislab.records import find as records
from arislab.review import journal
from arislab.runs import compare, rerun, verify


@pytest.fixture
def project(afar, tmp_path):
    """A repository of notebooks, and a root beside it whose lake lies elsewhere, with candidates."""
    notebooks = notebook(tmp_path / "repo" / "notebooks", READ, WRITE, HEADLINE)
    git(notebooks.parent, "init", "-q")
    git(notebooks.parent, "add", ".")
    git(notebooks.parent, "commit", "-q", "-m", "toy")
    Lake()["candidates"].append(people(5))
    return tmp_path, notebooks


@pytest.mark.slow
def test_a_run_on_a_lake_by_url_names_it_and_is_verified_and_run_again(afar, project, tmp_path):
    root, _ = project
    run = ran(project, n=3)
    folder = Path(run["folder"])
    assert (run["lake"], run["tables_written"]["reviews"]["rows"]) == (afar, 3)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert {one["namespace"] for event in events for one in event["inputs"] + event["outputs"]} == {afar}
    assert not (root / "data" / "lake").exists(), "nothing of it lies in the root"
    assert verify.check_files(run).findings == []
    Lake()["candidates"].upsert(people(9))  # since then: the table grew
    made = rerun.rerun(run, into=tmp_path / "again")
    assert (made["status"], made["rerun_of"]) == ("ok", run["run_id"])
    assert made["lake"] == str(tmp_path / "again" / "data" / "lake"), "what a rerun writes is not in the real one"
    assert compare.compare(run, made).findings == []
    assert (Lake()["reviews"].rows, Lake()["candidates"].rows) == (3, 9)
    done = here("verify", run["run_id"], "--root", root)
    assert (done.returncode, "V1 equal" in done.stdout) == (0, True), done


@pytest.mark.slow
def test_no_key_of_the_store_is_in_any_file_below_the_root(afar, project):
    root, notebooks = project
    told = 'import os\nprint(os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"])\nLake().nothing'
    shown = notebook(notebooks.parent / "shown", READ, told)
    assert runs.execute("curate", {}, root=root, notebooks=shown).status == "failed"
    ran(project, n=2)
    files = [path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    held = [path for path in files for key in (stores.SECRET, stores.KEY_ID) if key.encode() in path.read_bytes()]
    assert held == []
    assert b"[hidden]" in b"".join(path.read_bytes() for path in files if path.name == "notebook.ipynb")


@pytest.mark.slow
def test_a_record_of_a_lake_that_is_gone_or_changed_is_not_equal(afar, project, monkeypatch):
    run = ran(project, n=2)
    Lake()["reviews"].rewrite(lambda every: every.collect().head(1))
    assert verify.check_files(run).findings == [], "the version that it left is still there"
    table = Lake()["reviews"]
    for path in list(table.folder.glob("*.parquet")):
        path.unlink()
    (finding,) = verify.check_files(run).findings
    assert finding.where == "reviews"
    assert "cannot be read" in finding.what


@pytest.mark.slow
def test_a_record_lies_where_it_lies_and_names_its_lake_whatever_holds_there(afar, project, monkeypatch):
    root, _ = project
    run = ran(project, n=2)
    monkeypatch.delenv("ARISLAB_LAKE")
    assert verify.check_files(records.find(root, run["run_id"])).findings == []
    assert "ARISLAB_LAKE" not in os.environ


@pytest.mark.slow
def test_what_people_decided_is_folded_into_the_lake_as_a_run_begins_and_lies_in_the_root_until_then(afar, project):
    root, _ = project
    one = journal.Journal(Lake().review / "s", reviewer="Ada")
    one.append(events({"event_id": "e0", "decision": "approve", "seq": 0, "labels": "[]"}).to_dicts())
    one.close()
    assert [path.parts[-4:-2] for path in root.rglob("*.jsonl")] == [("review", Lake().review.name)]
    run = ran(project, n=2)
    assert Lake()["reviews"].read(version=0)["event_id"].to_list() == ["e0"]
    assert run["tables_written"]["reviews"]["rows"] == 2
    assert list((root / "data").rglob("*.jsonl")) == []
