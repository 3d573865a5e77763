"""What arislab found, in the forms that others read: a run record as an RO-Crate or a run of MLflow, chosen examples as chat messages.

    ro-crate-metadata.json   {"@context": […], "@graph": [{"@id": "./", "@type": "Dataset", "mentions": {"@id": "#run"}, …}, …]}

What a record does not know is left out: who ran it, and under which licence its data may be used. Tables stay in the lake; the crate
names them with version and digest. This module writes nothing into a record.
Source: https://w3id.org/ro/wfrun/process/0.5 (Process Run Crate), https://w3id.org/ro/crate/1.1
"""

import hashlib
import json
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from arislab import batch, chat
from arislab.errors import PrerequisiteError
from arislab.records import files as run_files
from arislab.records.headline import as_text
from arislab.system import files as whole_files
from arislab.system import masking
from arislab.task import Task

CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_SHA256 = "http://schema.org/sha256"  # not yet in the context of 1.1
_DESCRIPTIONS = {
    "run.json": "The record: status, parameters, code, environment, tables read and written, headline",
    "notebook.ipynb": "The executed notebook",
    "code.diff": "Changes to the code that were not committed",
    "env.lock": "Name and version of every installed package",
    "events.jsonl": "The run as OpenLineage events",
    "log.txt": "What the kernel printed",
    "servers.jsonl": "What the batch servers said of themselves",
    "tables.jsonl": "Every read and write of the lake",
    "task.py": "The task file: what was asked, and what is good",
}


def _ended(run: Mapping[str, Any]) -> Path:
    """Return the folder of a run that has a verdict."""
    if run["status"] in ("created", "running", "unreadable"):
        raise PrerequisiteError(f"{run['run_id']} is {run['status']}; only a run that has ended can be exported.")
    return Path(run["folder"])


def _files(run: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files of a record with bytes and sha256, as they are now.

    Raises:
        PrerequisiteError: One is not what the record says.
    """
    folder = _ended(run)
    if links := run_files.links(folder):
        raise PrerequisiteError(
            f"{links[0]} of {run['run_id']} is a link, and an export follows none: it might lead out of the record. Nothing was exported; "
            "remove it, or put the file itself there."
        )
    for path in run_files.files(folder):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".") or name == "heartbeat":
            continue
        found, told = whole_files.of_file(path), run.get("files", {}).get(name)
        if told is not None and told["sha256"] != found["sha256"]:
            raise PrerequisiteError(
                f"{name} of {run['run_id']} was changed after the run (sha256 {found['sha256'][:12]}, the record says {told['sha256'][:12]}); "
                f"nothing was exported. `arislab verify {run['run_id']} --level 0` tells more."
            )
        yield name, found


# ---- RO-Crate ---------------------------------------------------------------------------------------------------------


def ro_crate(run: Mapping[str, Any], folder: Path) -> Path:
    """Write a record as a Process Run Crate, whole or not at all.

    Args:
        run: A record from ``records.find``.
        folder: Folder to make; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        PrerequisiteError: The run has not ended, a file was changed since, or the folder cannot be made.
    """
    files = dict(_files(run))
    folder = folder.resolve()
    if folder.is_relative_to(Path(run["folder"]).resolve()):
        raise PrerequisiteError(f"{folder} is inside the record, which stays as it is; give a folder elsewhere.")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        for name in files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(run["folder"]) / name, part / name, follow_symlinks=False)
        text = json.dumps(metadata(run, files), indent=1, ensure_ascii=False)
        (part / "ro-crate-metadata.json").write_text(text + "\n", encoding="utf-8")
        part.replace(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise PrerequisiteError(
            f"cannot make {folder} ({error.strerror or error}); give a folder that does not exist, or is empty."
        ) from None
    return folder


def metadata(run: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON-LD of a crate.

    Args:
        run: A record.
        files: Name to bytes and sha256 of the files that stand in the crate.
    """
    finished = run.get("finished_at") or run.get("started_at") or run["created_at"]
    notebook = Path(run.get("notebook", {}).get("path") or run["phase"]).name
    parameters = [
        {"@id": f"#parameter-{name}", "@type": "PropertyValue", "name": name, "value": _plain(value)}
        for name, value in run["parameters"].items()
    ]
    read = [_table(name, told, "read") for name, told in (run.get("tables_read") or {}).items()]
    written = [_table(name, told, "written") for name, told in (run.get("tables_written") or {}).items()]
    given = [name for name in ("task.py",) if name in files]
    made = [name for name in files if name == "notebook.ipynb" or name.startswith("outputs/")]
    action: dict[str, Any] = {
        "@id": f"#{run['run_id']}",
        "@type": "CreateAction",
        "name": f"Run {run['run_id']} of phase {run['phase']}",
        "description": as_text(run["headline"]) if run.get("headline") else f"Ended as {run['status']}",
        "instrument": _ref("#notebook"),
        "object": [*map(_path, given), *map(_link, [*read, *parameters])],
        "result": [*map(_path, made), *map(_link, written)],
        "startTime": run.get("started_at") or run["created_at"],
        "actionStatus": f"http://schema.org/{'Completed' if run['status'] == 'ok' else 'Failed'}ActionStatus",
    }
    if run.get("finished_at"):
        action["endTime"] = run["finished_at"]
    if run["status"] != "ok":
        action["error"] = ": ".join(str(run[name]) for name in ("status", "reason") if run.get(name))
    commit = (run.get("code") or {}).get("commit")
    instrument = {
        "@id": "#notebook",
        "@type": "SoftwareSourceCode",
        "name": notebook,
        "description": f"The notebook of phase {run['phase']}, as it was before the run",
        "programmingLanguage": _ref("#python"),
        **({"version": commit} if commit else {}),
        **_digest("sha256", (run.get("notebook") or {}).get("sha256")),
        **({"softwareRequirements": _ref("env.lock")} if "env.lock" in files else {}),
    }
    python = (run.get("environment") or {}).get("python")
    language = {"@id": "#python", "@type": "ComputerLanguage", "name": "Python"} | (
        {"version": python} if python else {}
    )
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"arislab run {run['run_id']}",
        "description": f"Record of one run of the notebook {notebook}: {run['status']}.",
        "datePublished": finished,
        "identifier": run["run_id"],
        "license": _ref("#license"),
        "conformsTo": _ref(PROFILE),
        "hasPart": [_path(name) for name in files],
        "mentions": _link(action),
    }
    licence = {"@id": "#license", "@type": "CreativeWork", "name": "No licence stated"}
    licence["description"] = "The record does not say under which terms its contents may be used; ask who made the run."
    graph = [
        {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "conformsTo": _ref(CRATE), "about": _ref("./")},
        root,
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        licence,
        action,
        instrument,
        language,
        *read,
        *written,
        *parameters,
        *(_file(name, told) for name, told in files.items()),
    ]
    return {"@context": [f"{CRATE}/context", {"sha256": _SHA256}], "@graph": [_compact(entity) for entity in graph]}


def _compact(entity: Mapping[str, Any]) -> dict[str, Any]:
    """An entity without empty lists, and one thing as itself, not as a list of one."""
    kept = {name: value for name, value in entity.items() if value != []}
    return {name: v[0] if isinstance(v, list) and len(v) == 1 else v for name, v in kept.items()}


def _ref(name: str) -> dict[str, str]:
    return {"@id": name}


def _path(name: str) -> dict[str, str]:
    return {"@id": quote(name)}


def _link(entity: Mapping[str, Any]) -> dict[str, str]:
    return {"@id": entity["@id"]}


def _plain(value: Any) -> Any:
    """What a PropertyValue may hold; lists and the like as JSON."""
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _digest(name: str, value: str | None) -> dict[str, str]:
    return {name: value} if value else {}


def _table(name: str, told: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What a run read of a table, or left in it; the rows stay in the lake, so the crate has their digest."""
    version = told.get("version")
    state = (
        f"version {version} of the table {name}" if version is not None else f"the table {name}, which did not exist"
    )
    rows = f": {told['rows']:,} rows" if isinstance(told.get("rows"), int) else ""
    return {
        "@id": f"#{what}-{name}",
        "@type": "CreativeWork",
        "name": name,
        "description": f"What the run {'read of' if what == 'read' else 'left in'} {state}{rows}",
        **({} if version is None else {"version": str(version)}),
        **_digest("identifier", told.get("digest")),
    }


def _file(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {".ipynb": "application/x-ipynb+json", ".jsonl": "application/jsonl", ".diff": "text/x-diff"}
    kind = kinds.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    found = {**_path(name), "@type": "File", "name": name, "encodingFormat": kind, "contentSize": str(told["bytes"])}
    return found | {"description": _DESCRIPTIONS.get(name, "An output of the run"), "sha256": told["sha256"]}


# ---- MLflow -----------------------------------------------------------------------------------------------------------

INSTALL = 'pip install -e ".[mlflow]"'
_EXPERIMENT = "arislab"
_RUN_ID, _DONE = "arislab.run_id", "arislab.record_sha256"
_ARTIFACTS = ("run.json", "notebook.ipynb")


@dataclass(frozen=True)
class Exported:
    """What became of an export to MLflow."""

    mlflow_run_id: str
    is_new: bool
    """False: the run stood there already, whole, and nothing was written."""
    artifacts: str
    """What was stored, or why nothing was."""


def mlflow(run: Mapping[str, Any], uri: str) -> Exported:
    """Write a record as a run of the experiment ``arislab`` in an MLflow store; a run that is there already is not made again.

    Parameters become params; numbers of the headline metrics, with the ends of an interval as ``name.low`` and ``name.high`` and its n
    as ``name.n`` (characters that MLflow refuses become ``_``); status, phase, run_key and commit tags; run.json and the notebook
    artifacts, beside the file of an SQLite store. MLflow's telemetry is switched off.

    Args:
        run: A record from ``records.find``.
        uri: Tracking URI: ``sqlite:///mlflow.db``, ``http://…``; folders, if this MLflow still takes them.

    Raises:
        PrerequisiteError: The run has not ended, MLflow is not installed, or refused; the message is its own.
    """
    files = dict(_files(run))
    missing = [name for name, needed in _needed(uri) if needed and find_spec(name) is None]
    if missing:
        raise PrerequisiteError(f"the export to MLflow needs {', '.join(missing)}, not installed here; run: {INSTALL}")
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default waits for minutes
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    refusals: tuple[type[Exception], ...] = (MlflowException, OSError)
    if find_spec("sqlalchemy"):
        from sqlalchemy.exc import SQLAlchemyError

        refusals += (SQLAlchemyError,)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return _write(client, run, uri, artifacts=[name for name in _ARTIFACTS if name in files])
    except refusals as error:
        told = masking.masked([uri, str(error).strip().splitlines()[0]])
        raise PrerequisiteError(f"MLflow refused {told[0]!r}: {told[1]}") from None


def _needed(uri: str) -> list[tuple[str, bool]]:
    database = uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")
    return [("mlflow", True), ("sqlalchemy", database), ("alembic", database)]


def _write(client: Any, run: Mapping[str, Any], uri: str, *, artifacts: list[str]) -> Exported:
    from mlflow.entities import Metric, Param

    experiment = _experiment(client, uri)
    name = run["run_id"]
    if "'" in name:  # MLflow's filters have no parameters, and no way to write a quote
        raise PrerequisiteError(f"{name!r} is no id of a run; mend run_id in its run.json.")
    found = client.search_runs([experiment], filter_string=f"tags.`{_RUN_ID}` = '{name}'", max_results=1)
    digest = run.get("record_sha256") or whole_files.of_file(Path(run["folder"]) / "run.json")["sha256"]
    if found and found[0].data.tags.get(_DONE) == digest:
        return Exported(str(found[0].info.run_id), False, "as they are")
    began = _milliseconds(run.get("started_at") or run["created_at"])
    ended = _milliseconds(run["finished_at"]) if run.get("finished_at") else began
    told = {"status": run["status"], "phase": run["phase"], "run_key": run.get("run_key"), "commit": run.get("commit")}
    tags = {_RUN_ID: name} | {key: str(value) for key, value in told.items() if value}
    made = found[0] if found else client.create_run(experiment, start_time=began, tags=tags, run_name=name)
    params = [Param(_name(key), _text(value)) for key, value in run["parameters"].items()]
    metrics = [Metric(_name(key), value, ended, 0) for key, value in numbers(run.get("headline") or {}).items()]
    for some in range(0, max(len(params), len(metrics)), 100):  # most that one call takes
        client.log_batch(made.info.run_id, metrics=metrics[some : some + 100], params=params[some : some + 100])
    stored = _store(client, made.info.run_id, [Path(run["folder"]) / name for name in artifacts])
    state = {"ok": "FINISHED", "interrupted": "KILLED", "killed": "KILLED"}.get(run["status"], "FAILED")
    client.set_terminated(made.info.run_id, status=state, end_time=ended)
    client.set_tag(
        made.info.run_id, _DONE, digest
    )  # last: a run without it was not written whole, and is written again
    return Exported(str(made.info.run_id), True, stored)


def _store(client: Any, mlflow_run_id: str, paths: list[Path]) -> str:
    """Store artifacts where the store can take them; params and metrics do not depend on it."""
    from mlflow.exceptions import MlflowException

    try:
        for path in paths:
            client.log_artifact(mlflow_run_id, str(path))
    except (
        MlflowException,
        OSError,
        ImportError,
    ) as error:  # ImportError: the client of an object store is not installed
        return f"none, {str(error).strip().splitlines()[0]}"
    return ", ".join(path.name for path in paths)


def _experiment(client: Any, uri: str) -> str:
    found = client.get_experiment_by_name(_EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):  # else MLflow would take the working directory
        place = (Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve().parent / "mlartifacts").as_uri()
    return str(client.create_experiment(_EXPERIMENT, artifact_location=place))


def numbers(headline: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a headline by name; an interval gives name, name.low, name.high and name.n.

    Example:
        >>> numbers({"n": 3, "verdict": "promote", "icl": {"mean": 0.8, "low": 0.7, "high": None, "n": 500}})
        {'n': 3.0, 'icl': 0.8, 'icl.low': 0.7, 'icl.n': 500.0}
    """
    found: dict[str, Any] = {}
    for name, value in headline.items():
        if name == "account":
            found |= {"account.total": value["total"]} | {f"account.{k}": n for k, n in value["states"].items()}
        elif isinstance(value, dict):
            found |= {name: value.get("mean")} | {f"{name}.{part}": value.get(part) for part in ("low", "high", "n")}
        else:
            found[name] = value
    return {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _name(text: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", text, flags=re.ASCII)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


# ---- in-context examples ----------------------------------------------------------------------------------------------

QUESTION = "{{question}}"


def messages(chosen: Mapping[str, Any], curated: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> dict[str, Any]:
    """Return a chosen set of examples as a message list for any OpenAI-compatible client, with where it comes from.

    The messages are those that phase 5 sends: system, one turn a side for each example, and the question, for which ``{{question}}``
    stands. A client puts its question there, worded as the examples' are, and sends the list with ``model`` and ``parameters``.

    Args:
        chosen: A row of ``icl_examples``.
        curated: Rows of ``training_data_curated`` at the version that ``chosen`` names: id, candidate_id, input, output.
        candidates: Rows of ``candidates`` behind the examples.
        task: The task file that asked.

    Raises:
        PrerequisiteError: An example or its candidate is gone, or the task's prompt is more than a fixed system message and one question.
    """
    from arislab.icl import with_examples  # numpy, which records do not need

    ids = list(chosen["example_ids"])
    rows = {row["id"]: row for row in curated.filter(pl.col("id").is_in(ids)).to_dicts()}
    if gone := [name for name in ids if name not in rows]:
        raise PrerequisiteError(
            f"example {gone[0]!r} of {chosen['id']} is not in {chosen['data_version']} of this lake; run `arislab run icl` again."
        )
    write = with_examples(task.to_messages, [(rows[i]["input"], rows[i]["output"]) for i in ids])
    people = candidates.filter(pl.col("candidate_id").is_in([row["candidate_id"] for row in rows.values()]))
    if not people.height:
        raise PrerequisiteError(f"the candidates behind {chosen['id']} are not in this lake; import them again.")
    written = [write(row | {"profile": json.loads(row["profile"])}) for row in people.sort("candidate_id").to_dicts()]
    heads = [one[:-1] for one in written]
    n_turns = sum(m["role"] != "system" for m in heads[0])
    if any(head != heads[0] for head in heads) or n_turns != 2 * len(ids) or written[0][-1]["role"] != "user":
        raise PrerequisiteError(
            f"to_messages of {task.path.name} writes more than one fixed system message and one question, so no fixed list can stand for it; "
            "call to_messages of the task file in your client."
        )
    found = [*heads[0], {"role": "user", "content": QUESTION}]
    number = {
        "low": chosen["ci_low"],
        "high": chosen["ci_high"],
        "n": chosen["n_validation"],
        "n_holdout_uses": chosen["n_holdout_uses"],
    }
    parameters = json.loads(chosen["params"]) if chosen["params"] else {}
    found = chat.in_role(found, parameters.pop("system_role", ""))  # a client sends the list as it is
    seed = parameters.pop("seed", None)  # of which phase 5 makes one for each request
    facts = ("id", "search_id", "run_id", "task", "use_case", "use_case_column", "scorer_version", "data_version")
    return {
        "messages": found,
        "question": f"{QUESTION} stands for the question, worded as in the examples (to_messages of {task.path.name})",
        "model": chosen["model"],
        "parameters": parameters,
        "provenance": {
            **{name: chosen[name] for name in facts},
            "k": chosen["k"],
            "example_ids": ids,
            "validation_score": {"mean": chosen["validation_score"], **number},
            "verdict": chosen["verdict"],
            "approve_policy": chosen["approve_policy"],
            "seed": seed,
            "task_now": task.version,
            "sha256": hashlib.sha256(batch.canonical(found).encode()).hexdigest(),
        },
    }
