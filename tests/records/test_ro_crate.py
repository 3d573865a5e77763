"""Records in the forms of others: what they say is what the record says, and nothing is written into a record."""

import json
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from toys import CHECKOUT, sha256

from arislab import runs
from arislab.errors import PrerequisiteError
from arislab.records import find as records
from arislab.records import ro_crate


def graph(folder):
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in crate["@graph"]}


def references(value):
    if isinstance(value, dict):
        yield from [value["@id"]] if set(value) == {"@id"} else []
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("phase", ["good", "bad"])
def test_a_crate_refers_only_to_what_it_has(recorded, phase, tmp_path):
    crate = graph(ro_crate.ro_crate(records.find(recorded, phase), tmp_path / "crate"))
    open_ends = {r for entity in crate.values() for r in references(entity)} - crate.keys()
    assert open_ends == {ro_crate.CRATE}
    assert crate["./"]["conformsTo"] == {"@id": ro_crate.PROFILE}
    assert crate["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert Counter(e["@type"] for e in crate.values())["CreateAction"] == 1
    assert {"name", "description", "datePublished", "license"} <= crate["./"].keys()


def test_every_file_stands_in_the_crate_with_its_digest_and_size(good, tmp_path):
    (Path(good["folder"]) / "outputs").mkdir(exist_ok=True)
    (Path(good["folder"]) / "outputs" / "a plot.png").write_bytes(b"png")
    crate = ro_crate.ro_crate(good, tmp_path / "deep" / "crate")
    files = {name: entity for name, entity in graph(crate).items() if entity["@type"] == "File"}
    assert {r["@id"] for r in graph(crate)["./"]["hasPart"]} == set(files)
    assert {"run.json", "notebook.ipynb", "env.lock", "events.jsonl", "outputs/a%20plot.png"} <= set(files)
    for name, entity in files.items():
        path = crate / unquote(name)
        assert (entity["sha256"], entity["contentSize"]) == (sha256(path), str(path.stat().st_size))
        assert sha256(path) == sha256(Path(good["folder"]) / unquote(name))
    on_disk = {p.relative_to(crate).as_posix() for p in crate.rglob("*") if p.is_file()}
    assert on_disk == {unquote(name) for name in files} | {"ro-crate-metadata.json"}


def test_the_action_says_what_ran_on_what_and_what_came_of_it(good, tmp_path):
    crate = graph(ro_crate.ro_crate(good, tmp_path / "crate"))
    action = crate["#" + good["run_id"]]
    assert (action["startTime"], action["endTime"]) == (good["started_at"], good["finished_at"])
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in action
    assert crate[action["instrument"]["@id"]]["sha256"] == good["notebook"]["sha256"]
    given = [crate[r["@id"]] for r in action["object"]]
    assert {e["name"]: e["value"] for e in given if e["@type"] == "PropertyValue"} == {
        "n": 4,
        "names": '["a"]',
        "note": "",
    }
    read, written = crate["#read-candidates"], crate["#written-candidates"]
    assert {"@id": "#read-candidates"} in action["object"]
    assert {"@id": "#written-candidates"} in action["result"]
    assert {"@id": "notebook.ipynb"} in action["result"]
    assert "version" not in read, "there was no table yet"
    assert (written["version"], written["identifier"]) == ("0", good["tables_written"]["candidates"]["digest"])
    assert "agent" not in action, "the record does not know who ran it"


def test_a_failed_run_is_a_failed_action_with_its_error(bad, tmp_path):
    action = graph(ro_crate.ro_crate(bad, tmp_path / "crate"))["#" + bad["run_id"]]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "failed: ValueError: no such luck"


def test_a_crate_names_no_folder_and_no_host_of_the_machine(good, recorded, tmp_path):
    text = (ro_crate.ro_crate(good, tmp_path / "crate") / "ro-crate-metadata.json").read_text()
    assert str(recorded) not in text
    assert str(CHECKOUT) not in text
    assert good["supervisor"]["boot_id"] is None or good["supervisor"]["boot_id"] not in text


def test_a_crate_is_made_whole_or_not_at_all(good, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(PrerequisiteError, match="give a folder that does not exist, or is empty"):
        ro_crate.ro_crate(good, tmp_path / "full")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["full", "full/mine"]
    with pytest.raises(PrerequisiteError, match="inside the record"):
        ro_crate.ro_crate(good, Path(good["folder"]) / "crate")
    (tmp_path / "empty").mkdir()
    ro_crate.ro_crate(good, tmp_path / "empty")


def test_what_has_not_ended_or_was_changed_is_not_exported(good, recorded, tmp_path):
    with pytest.raises(PrerequisiteError, match="is running; only a run that has ended"):
        ro_crate.ro_crate(good | {"status": "running"}, tmp_path / "crate")
    notebook = Path(good["folder"]) / "notebook.ipynb"
    before = notebook.read_bytes()
    try:
        notebook.write_bytes(before.replace(b"runs.account(3, ok=3)", b"runs.account(4, ok=4)"))
        with pytest.raises(
            PrerequisiteError, match=r"notebook\.ipynb of .* was changed after the run: cell 3 .* its source"
        ):
            ro_crate.ro_crate(good, tmp_path / "crate")
        assert list(tmp_path.iterdir()) == []
        notebook.write_bytes(before + b"\n")  # saved anew, with the same cells
        crate = ro_crate.ro_crate(good, tmp_path / "crate")
        assert graph(crate)["notebook.ipynb"]["sha256"] == sha256(crate / "notebook.ipynb") == sha256(notebook)
    finally:
        notebook.write_bytes(before)


NEW = (
    "schema_version",
    "run_key",
    "files",
    "record_sha256",
    "created_at",
    "cells",
    "parameters_from",
    "parameter_types",
)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("phase", runs.PHASES)
def test_a_real_record_of_either_version_can_be_exported(phase, version, tmp_path):
    folder = shutil.copytree(CHECKOUT / "papermill_runs" / "example" / phase, tmp_path / "record")
    record = json.loads((folder / "run.json").read_text())
    if version == 1:
        (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k not in NEW}))
    crate = graph(ro_crate.ro_crate(records.read(folder), tmp_path / "crate"))
    assert {r for entity in crate.values() for r in references(entity)} - crate.keys() == {ro_crate.CRATE}
