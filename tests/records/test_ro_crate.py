"""Records in the forms of others: what they say is what the record says, and nothing is written into a record."""

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import nbformat
import polars as pl
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from toys import CHECKOUT, need

from arislab import batch, evaluate, icl, runs
from arislab.__main__ import main
from arislab.errors import PrerequisiteError
from arislab.icl import prompt
from arislab.records import find as records
from arislab.records import mlflow as mlflow_runs
from arislab.records import ro_crate
from arislab.review import decisions
from arislab.task import load
from arislab.tiny.candidates import compose

PARAMETERS = 'n: int = 3  # rows\nnames: list[str] = ["a"]  # of rows\nnote: str = ""  # free text'
GOOD = """\
import polars as pl
from arislab import runs
from arislab.lake import Lake
lake = Lake()
lake["candidates"].read()
rows = {"candidate_id": ["c"], "profile": ["{}"], "group_id": ["g"], "split": ["train"]}
lake["candidates"].append(pl.DataFrame(rows))
runs.headline(runs.account(3, ok=3), **{"icl+tuned": (0.5, 0.4, 0.6, 9), "verdict": "keep", "loss": float("nan"), "k": 5})"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A root with one run that is ok and one that failed."""
    root = tmp_path_factory.mktemp("root")
    for name, source in (("good", GOOD), ("bad", "raise ValueError('no such luck')")):
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), root / f"{name}.ipynb")
        runs.execute(str(root / f"{name}.ipynb"), {"n": 4}, root=root)
    return root


@pytest.fixture
def good(recorded):
    return records.find(recorded, "good")


@pytest.fixture
def bad(recorded):
    return records.find(recorded, "bad")


def graph(folder):
    found = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in found["@graph"]}


def references(value):
    if isinstance(value, dict):
        yield from [value["@id"]] if set(value) == {"@id"} else []
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- RO-Crate


@pytest.mark.parametrize("phase", ["good", "bad"])
def test_a_crate_refers_only_to_what_it_has(recorded, phase, tmp_path):
    found = graph(ro_crate.ro_crate(records.find(recorded, phase), tmp_path / "crate"))
    open_ends = {r for entity in found.values() for r in references(entity)} - found.keys()
    assert open_ends == {ro_crate.CRATE}
    assert found["./"]["conformsTo"] == {"@id": ro_crate.PROFILE}
    assert found["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert Counter(e["@type"] for e in found.values())["CreateAction"] == 1
    assert {"name", "description", "datePublished", "license"} <= found["./"].keys()


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
    found = graph(ro_crate.ro_crate(good, tmp_path / "crate"))
    action = found["#" + good["run_id"]]
    assert (action["startTime"], action["endTime"]) == (good["started_at"], good["finished_at"])
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in action
    assert found[action["instrument"]["@id"]]["sha256"] == good["notebook"]["sha256"]
    given = [found[r["@id"]] for r in action["object"]]
    assert {e["name"]: e["value"] for e in given if e["@type"] == "PropertyValue"} == {
        "n": 4,
        "names": '["a"]',
        "note": "",
    }
    read, written = found["#read-candidates"], found["#written-candidates"]
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
NEW += ("servers", "launched_by", "resumed_from", "rerun_of", "cause", "signal", "root")
"""Fields that records of the first version lack."""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("phase", runs.PHASES)
def test_a_real_record_of_either_version_can_be_exported(phase, version, tmp_path):
    folder = shutil.copytree(CHECKOUT / "papermill_runs" / "example" / phase, tmp_path / "record")
    told = json.loads((folder / "run.json").read_text())
    if version == 1:
        (folder / "run.json").write_text(json.dumps({k: v for k, v in told.items() if k not in NEW}))
    found = graph(ro_crate.ro_crate(records.read(folder), tmp_path / "crate"))
    assert {r for entity in found.values() for r in references(entity)} - found.keys() == {ro_crate.CRATE}


# ---- MLflow


def arislab(*arguments, root):
    """The command in a process of its own, so that no warning or thread of MLflow stays in this one."""
    return subprocess.run(
        [sys.executable, "-m", "arislab", "runs", "export", *arguments, "--root", root],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT) + os.pathsep + os.environ.get("PYTHONPATH", "")},
    )


@pytest.fixture
def mlflow():
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if find_spec(name) is None]
    need("mlflow", present=not missing, why=f"{', '.join(missing)} not installed ({mlflow_runs.INSTALL})")


def test_numbers_of_a_headline_are_metrics_and_intervals_are_four():
    headline = {"account": {"total": 3, "label": "rows", "states": {"ok": 3}}, "a": (1), "b": "text", "c": True}
    interval = {"icl": {"mean": 0.5, "low": None, "high": 0.6, "n": 9}}
    assert mlflow_runs.numbers(headline | interval) == {
        "account.total": 3.0,
        "account.ok": 3.0,
        "a": 1.0,
        "icl": 0.5,
        "icl.high": 0.6,
        "icl.n": 9.0,
    }


def test_without_mlflow_one_error_names_the_extra(good, monkeypatch):
    monkeypatch.setattr(mlflow_runs, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError) as error:
        mlflow_runs.mlflow(good, "sqlite:///x.db")
    assert str(error.value) == (
        'the export to MLflow needs mlflow, sqlalchemy, alembic, not installed here; run: pip install -e ".[mlflow]"'
    )
    with pytest.raises(PrerequisiteError, match="needs mlflow, not installed"):
        mlflow_runs.mlflow(good, "http://127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_a_run_is_in_the_store_once_with_all_it_says(good, bad, recorded, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for phase, says in (("good", "written"), ("good", "stands already"), ("bad", "written")):
        done = arislab(phase, "--mlflow", uri, root=recorded)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        found = {row[0]: row[1:] for row in store.execute("select name, run_uuid, status, start_time from runs")}
        assert {name: row[1] for name, row in found.items()} == {good["run_id"]: "FINISHED", bad["run_id"]: "FAILED"}
        mine = found[good["run_id"]][0]

        def values(table):
            return dict(store.execute(f"select key, value from {table} where run_uuid = ?", [mine]))

        assert values("params") == {"n": "4", "names": '["a"]', "note": ""}
        numbers = {"icl_tuned": 0.5, "icl_tuned.low": 0.4, "icl_tuned.high": 0.6, "icl_tuned.n": 9.0, "k": 5.0}
        assert values("metrics") == numbers | {"account.total": 3.0, "account.ok": 3.0}
        tags = values("tags")
    assert (tags["arislab.run_id"], tags["status"], tags["phase"]) == (good["run_id"], "ok", "good")
    assert tags["run_key"] == good["run_key"]
    stored = tmp_path / "mlartifacts" / mine / "artifacts"
    for name in ("run.json", "notebook.ipynb"):
        assert sha256(stored / name) == sha256(Path(good["folder"]) / name)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_an_export_that_was_cut_off_is_finished_not_doubled(recorded, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = arislab("good", "--mlflow", uri, root=recorded)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("delete from tags where key = 'arislab.record_sha256'")
    again = arislab("good", "--mlflow", uri, root=recorded)
    assert again.stdout == first.stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select count(*) from runs").fetchone() == (1,)
        assert store.execute("select count(*), count(distinct key) from metrics").fetchone() == (7, 7)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_nothing_leaves_the_machine(good, tmp_path):
    code = (
        "import sys, json; seen = []\n"
        "sys.addaudithook(lambda e, a: seen.append(e) if e in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto') else None)\n"
        "from pathlib import Path; from arislab.records import mlflow as export; from arislab.records import find as records\n"
        f"export.mlflow(records.read(Path({good['folder']!r})), 'sqlite:///' + {str(tmp_path / 'x.db')!r})\n"
        "import time; time.sleep(2); print(json.dumps(seen))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_a_store_that_cannot_be_used_is_one_error_without_its_password(recorded, tmp_path):
    (tmp_path / "bad.db").write_text("rubbish, and more than a few bytes of it")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for uri in (f"sqlite:///{tmp_path / 'bad.db'}", "nonsense://x", f"http://me:sk-planted@127.0.0.1:{port}"):
        done = arislab("good", "--mlflow", uri, root=recorded)
        assert done.returncode == 2
        assert "MLflow refused" in done.stderr
        assert "Traceback" not in done.stderr
        assert "sk-planted" not in done.stderr


# ---- the command


def test_the_command_makes_a_crate_or_says_what_it_needs(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARISLAB_ROOT", str(recorded))
    for more, code in ((["--ro-crate", str(tmp_path / "crate")], 0), ([], 2)):
        monkeypatch.setattr(sys, "argv", ["arislab", "runs", "export", "good", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    told = capsys.readouterr()
    assert f"RO-Crate in {tmp_path / 'crate'}" in told.out
    assert told.err == "arislab: runs export needs --ro-crate DIR or --mlflow URI: what to write.\n"


# ---- in-context examples

IDS = ["e2", "e0", "e1"]
FORM = {"temperature": 0.9, "max_tokens": 40}


@pytest.fixture
def chosen(lake):
    """A lake with three examples, chosen for general and for tech."""
    lake["candidates"].append(compose(60, seed=3))
    spec = load("candidate_evaluation")
    authors = evaluate.texts(lake["candidates"].read(where="split = 'train'").head(3), spec.to_messages)
    rows = [
        {
            "id": f"e{i}", "candidate_id": row["candidate_id"], "custom_id": f"e{i}", "task": spec.name, "input": row["text"],
            "output": f'{{"score": 0.{i}}}', "quality_score": 0.9, "needs_review": True, "approved": False, "split": "train",
        }
        for i, row in enumerate(authors.to_dicts())
    ]  # fmt: skip
    lake["training_data_curated"].append(pl.DataFrame(rows))
    sets = [
        {
            "id": f"s-{name}", "search_id": "s", "task": spec.name, "example_ids": ids, "k": len(ids), "validation_score": 0.8,
            "ci_low": 0.7, "ci_high": 0.9, "n_validation": 300, "n_holdout_uses": 1, "verdict": "improves", "use_case": name,
            "use_case_column": "use_case", "approve_policy": "score", "model": "m", "scorer_version": spec.version,
            "params": json.dumps({**FORM, "seed": 1}), "data_version": "training_data_curated@0",
        }
        for name, ids in (("general", IDS), ("tech", IDS[:2]))
    ]  # fmt: skip
    lake["icl_examples"].append(pl.DataFrame(sets))
    return lake


def exported(capsys, monkeypatch, *more):
    monkeypatch.setattr(sys, "argv", ["arislab", "export", "--icl", *more])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_an_example_that_was_rejected_since_is_named_and_an_edit_by_then_is_shown(chosen, capsys, monkeypatch):
    rows = {row["id"]: row for row in chosen["training_data_curated"].read().to_dicts()}
    mended = '{"score": 0.5}'
    chosen["reviews"].append(decisions.event(rows[IDS[1]], "edit", reviewer="Ada", edited_output=mended))
    row = chosen["icl_examples"].read(where={"use_case": "general"}).drop("run_id", "created_at")
    chosen["icl_examples"].upsert(row.with_columns(data_version=pl.lit("training_data_curated@0 reviews@0")))
    code, out, err = exported(capsys, monkeypatch)
    assert (code, err) == (0, "")
    answers = [m["content"] for m in json.loads(out)["messages"] if m["role"] == "assistant"]
    assert answers == [mended if i == IDS[1] else rows[i]["output"] for i in IDS]
    chosen["reviews"].append(decisions.event(rows[IDS[0]], "reject", reviewer="Ada"))
    code, out, err = exported(capsys, monkeypatch)
    assert (code, f"1 of 3 examples may not be used any more by the decisions of today (first: {IDS[0]!r})" in err) == (
        0,
        True,
    )
    assert [m["content"] for m in json.loads(out)["messages"] if m["role"] == "assistant"] == answers, (
        "the set as it was chosen"
    )


def test_the_message_list_holds_the_chosen_examples_in_order_and_says_where_it_comes_from(chosen, capsys, monkeypatch):
    code, out, err = exported(capsys, monkeypatch)
    assert (code, err) == (0, "")
    found = json.loads(out)
    spec = load("candidate_evaluation")
    texts = {row["id"]: row for row in chosen["training_data_curated"].read().to_dicts()}
    turns = [(m["role"], m["content"]) for m in found["messages"]]
    assert turns[0] == ("system", spec.SYSTEM)
    assert turns[1:-1] == [t for i in IDS for t in (("user", texts[i]["input"]), ("assistant", texts[i]["output"]))]
    assert turns[-1] == ("user", "{{question}}")
    assert (found["model"], found["parameters"]) == ("m", FORM)
    told = found["provenance"]
    assert (told["example_ids"], told["k"], told["use_case"], told["seed"]) == (IDS, 3, "general", 1)
    assert told["validation_score"] == {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 300, "n_holdout_uses": 1}
    assert (told["task"], told["scorer_version"], told["task_now"]) == (spec.name, spec.version, spec.version)
    assert told["run_id"] == "interactive"
    compact = json.dumps(found["messages"], sort_keys=True, separators=(",", ":"))
    assert told["sha256"] == hashlib.sha256(compact.encode()).hexdigest()


def test_a_set_for_a_model_without_a_system_role_is_exported_as_it_was_asked(chosen, capsys, monkeypatch):
    row = chosen["icl_examples"].read(where={"use_case": "general"}).drop("run_id", "created_at")
    params = json.dumps({**FORM, "seed": 1, "system_role": "user", "chat_template_kwargs": {"enable_thinking": False}})
    chosen["icl_examples"].upsert(row.with_columns(params=pl.lit(params)))
    found = json.loads(exported(capsys, monkeypatch)[1])
    assert found["parameters"] == FORM | {"chat_template_kwargs": {"enable_thinking": False}}
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 3 + ["user"]
    assert found["messages"][0]["content"].startswith(load("candidate_evaluation").SYSTEM + "\n\n")


def test_each_use_case_has_its_set_and_a_file_can_be_written(chosen, capsys, monkeypatch, tmp_path):
    path = tmp_path / "icl.json"
    code, out, _ = exported(capsys, monkeypatch, "--use-case", "tech", "--out", str(path))
    assert code == 0
    assert out == f"2 examples of s-tech for tech, as 6 messages, in {path}\n"
    assert json.loads(path.read_text())["provenance"]["example_ids"] == IDS[:2]


def test_exported_messages_are_the_requests_of_phase_5_at_the_embedded_server(chosen, capsys, monkeypatch):
    """Phase 5 asks its arm; a client that fills the exported list has the same requests, so nothing is left to ask."""
    spec, lake = load("candidate_evaluation"), chosen
    with batch.connect("embedded", folder=lake.batches) as server:
        name = server.model()
        lake["icl_examples"].upsert(
            lake["icl_examples"].read(where="use_case = 'general'").with_columns(model=pl.lit(name))
        )
        texts = {row["id"]: (row["input"], row["output"]) for row in lake["training_data_curated"].read().to_dicts()}
        shown = icl.with_examples(spec.to_messages, [texts[i] for i in IDS])  # as 5_evaluate does
        who = lake["candidates"].read(where="split = 'validation'").head(6)
        arm = batch.build_requests(who, shown, model=name, seed=1, pair_by_candidate=True, **FORM)
        table = lake["training_data_raw"]
        recorded = batch.Recorded(table.read(columns=batch.RECORDED), write=table.upsert)
        how = {"server": server, "folder": lake.batches, "recorded": recorded, "task": spec.name}
        answers = batch.answer(arm, **how)
        assert answers["status"].is_in(["ok", "truncated"]).all()

        _, out, _ = exported(capsys, monkeypatch, "--model", name)
        found = json.loads(out)

        def fill(candidate):
            question = spec.to_messages(candidate)[-1]["content"]
            *before, last = found["messages"]
            return [*before, {"role": last["role"], "content": last["content"].replace("{{question}}", question)}]

        mine = batch.build_requests(
            who, fill, model=found["model"], seed=1, pair_by_candidate=True, **found["parameters"]
        )
        assert mine["body"].to_list() == arm["body"].to_list()
        assert mine["custom_id"].to_list() == arm["custom_id"].to_list()
        n_batches = len(list(server.client.batches.list()))
        assert batch.answer(mine, **how)["llm_output"].to_list() == answers["llm_output"].to_list()
        assert len(list(server.client.batches.list())) == n_batches
        direct = server.client.chat.completions.create(**json.loads(mine["body"][0]))
        assert direct.usage.prompt_tokens == answers["prompt_tokens"][0]
        assert direct.choices[0].message.content


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--use-case", "executive"],
            "no examples were chosen for use case 'executive'; there are: general (candidate_evaluation, m), tech",
        ),
        (["--model", "gpt"], "no examples were chosen for use case 'general', model 'gpt'; there are: general"),
        (["--out", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
    ],
)
def test_a_set_that_cannot_be_exported_is_one_clear_error(chosen, capsys, monkeypatch, more, message):
    code, out, err = exported(capsys, monkeypatch, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("lake")
def test_a_lake_without_a_search_says_how_to_make_one(capsys, monkeypatch):
    code, _, err = exported(capsys, monkeypatch)
    assert code == 2
    assert err == (
        "arislab: no examples were chosen for use case 'general'; there are: none. `arislab run icl -p use_case general` searches some.\n"
    )
    monkeypatch.setattr(sys, "argv", ["arislab", "export"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "arislab: export needs --icl: what to write.\n"


def test_a_prompt_that_is_not_one_fixed_list_is_refused_and_a_changed_task_is_told(
    chosen, capsys, monkeypatch, tmp_path
):
    source = load("candidate_evaluation").source
    path = tmp_path / "candidate_evaluation.py"
    path.write_text(source + "\n# edited\n")
    code, out, err = exported(capsys, monkeypatch, "--task", str(path))
    assert code == 0
    assert "the task file is another one now" in err
    assert json.loads(out)["provenance"]["task_now"] == load(path).version
    asked = '[{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]'
    assert asked in source
    path.write_text(source.replace(asked, asked.replace("SYSTEM}", "SYSTEM + user}")))
    code, out, err = exported(capsys, monkeypatch, "--task", str(path))
    assert (code, out) == (2, "")
    assert "writes more than one fixed system message and one question" in err


def test_an_example_that_is_gone_is_named(chosen):
    row = chosen["icl_examples"].read(where="use_case = 'tech'").row(0, named=True)
    curated, authors = chosen["training_data_curated"].read(), chosen["candidates"].read()
    with pytest.raises(PrerequisiteError, match="example 'e0' of s-tech is not in training_data_curated@0"):
        prompt.messages(row, curated.filter(pl.col("id") != "e0"), authors, load("candidate_evaluation"))
    with pytest.raises(PrerequisiteError, match="the candidates behind s-tech are not in this lake"):
        prompt.messages(row, curated, authors.head(0), load("candidate_evaluation"))
