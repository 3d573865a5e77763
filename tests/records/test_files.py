"""The folders of runs as they lie on disk."""

import json
import os

import pytest
from toys import ran_cells

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.records import files as run_files
from arislab.records import find as records
from arislab.records import mlflow, ro_crate
from arislab.runs import verify
from arislab.system.processes import identity


def test_no_link_leads_out_of_a_record(root, tmp_path):
    secret = root / "secret.txt"
    secret.write_text("outside")
    cell = "import os, pathlib; folder = pathlib.Path(os.environ['ARISLAB_RUN_DIR'])\n"
    cell += f"(folder / 'out').symlink_to({str(secret)!r})"
    record = ran_cells(root, cell)
    assert "out" not in record.files
    assert secret.read_text() == "outside"
    run = records.read(record.folder)
    with pytest.raises(PrerequisiteError, match=r"out of .* is a link"):
        ro_crate.ro_crate(run, root / "crate")
    with pytest.raises(PrerequisiteError, match="is a link"):
        mlflow.mlflow(run, f"sqlite:///{root}/m.db")
    assert not (root / "crate").exists()
    assert "V0 out: is a link" in repr(verify.check_files(run))


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a/../../secret.txt"])
def test_a_name_that_leads_out_of_a_record_is_not_read(root, name):
    record = ran_cells(root, "1")
    run = records.read(record.folder) | {"files": {name: {"bytes": 1, "sha256": "0" * 64}}}
    assert f"V0 {name}: is not read" in repr(verify.check_files(run))
    assert run_files.is_linked(record.folder / name, record.folder)


def plant(root, name, **fields):
    folder = root / "papermill_runs" / name
    folder.mkdir(parents=True)
    record = {
        "run_id": name,
        "phase": "icl",
        "status": "ok",
        "started_at": "2026-01-02T00:00:00.000+00:00",
        "parameters": {},
    }
    (folder / "run.json").write_text(json.dumps(record | fields))
    return folder


def test_runs_are_listed_newest_first_and_unreadable_ones_too(root):
    plant(root, "20260101T000000Z-icl-aaaa", started_at="2026-01-01T00:00:00.000+00:00", headline={"x": 1})
    plant(root, "20260102T000000Z-icl-bbbb", duration_s=1.5, parameters={"k": 5})
    (root / "papermill_runs" / "20260103T000000Z-icl-cccc").mkdir()
    (plant(root, "20260104T000000Z-curate-dddd") / "run.json").write_text('{"run_id": "2026')
    (plant(root, "20260105T000000Z-curate-eeee") / "run.json").write_text("[]")
    plant(root, "20260106T000000Z-curate-ffff", status="running", started_at="2026-01-06T00:00:00.000+00:00")
    (root / "papermill_runs" / "example").mkdir()
    (root / "papermill_runs" / ".locks").mkdir()
    (root / "papermill_runs" / "README.md").write_text("log")

    frame = runs.list_runs(root)

    assert [name[-4:] for name in frame["run_id"]] == ["ffff", "eeee", "dddd", "cccc", "bbbb", "aaaa"]
    assert frame["status"].to_list() == ["unreadable"] * 4 + ["ok"] * 2
    assert frame["phase"].to_list()[2:5] == ["curate", "icl", "icl"]
    assert frame["parameters"].to_list()[-2] == '{"k": 5}'
    assert runs.as_json(root)[-1]["headline"] == {"x": 1}
    asked = {"run_id", "phase", "status", "started_at", "duration_s", "parameters", "headline"}
    assert all(asked <= run.keys() for run in runs.as_json(root))
    json.dumps(runs.as_json(root))


def test_no_runs_is_an_empty_list(tmp_path):
    assert runs.as_json(tmp_path) == []
    assert runs.list_runs(tmp_path).height == 0


def test_a_running_record_of_this_process_another_boot_or_another_machine(root):
    me = identity(os.getpid())
    for name, supervisor, status in [
        ("20260101T000000Z-icl-0001", me, "running"),
        ("20260101T000000Z-icl-0002", me | {"start_ticks": 1}, "lost"),
        ("20260101T000000Z-icl-0003", me | {"boot_id": "before"}, "lost"),
        ("20260101T000000Z-icl-0004", me | {"boot_id": "other", "hostname": "elsewhere"}, "running"),
    ]:
        plant(root, name, status="running", supervisor=supervisor)
        assert runs.as_json(root)[0]["status"] == status, name
