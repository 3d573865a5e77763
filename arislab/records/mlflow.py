"""A run record as a run of MLflow: parameters, numbers, files. What MLflow cannot hold is said, not dropped."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError
from arislab.records.ro_crate import unchanged_files
from arislab.system import files as whole_files
from arislab.system import masking

INSTALL = 'pip install "arislab[mlflow]"'
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
    """Write a record as a run of the experiment ``arislab`` in an MLflow store.

    A run that is there already is not made again.

    Parameters become params; numbers of the headline metrics, with the ends of an interval as ``name.low`` and
    ``name.high`` and its n as ``name.n`` (characters that MLflow refuses become ``_``); status, phase, run_key and
    commit tags; run.json and the notebook artifacts, beside the file of an SQLite store. MLflow's telemetry is switched
    off.

    Args:
        run: A record from ``records.find``.
        uri: Tracking URI: ``sqlite:///mlflow.db``, ``http://…``; folders, if this MLflow still takes them.

    Raises:
        PrerequisiteError: The run has not ended, MLflow is not installed, or refused; the message is its own.
    """
    files = dict(unchanged_files(run))
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
        message = masking.masked([uri, str(error).strip().splitlines()[0]])
        raise PrerequisiteError(f"MLflow refused {message[0]!r}: {message[1]}") from None


def _needed(uri: str) -> list[tuple[str, bool]]:
    database = uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")
    return [("mlflow", True), ("sqlalchemy", database), ("alembic", database)]


def _write(client: Any, run: Mapping[str, Any], uri: str, *, artifacts: list[str]) -> Exported:
    from mlflow.entities import Metric, Param

    experiment = _experiment(client, uri)
    name = run["run_id"]
    if "'" in name:  # MLflow's filters have no parameters, and no way to write a quote
        raise PrerequisiteError(f"{name!r} is no id of a run; mend run_id in its run.json.")
    written = client.search_runs([experiment], filter_string=f"tags.`{_RUN_ID}` = '{name}'", max_results=1)
    digest = run.get("record_sha256") or whole_files.of_file(Path(run["folder"]) / "run.json")["sha256"]
    if written and written[0].data.tags.get(_DONE) == digest:
        return Exported(str(written[0].info.run_id), False, "as they are")
    began = _milliseconds(run.get("started_at") or run["created_at"])
    ended = _milliseconds(run["finished_at"]) if run.get("finished_at") else began
    facts = {"status": run["status"], "phase": run["phase"], "run_key": run.get("run_key"), "commit": run.get("commit")}
    tags = {_RUN_ID: name} | {key: str(value) for key, value in facts.items() if value}
    made = written[0] if written else client.create_run(experiment, start_time=began, tags=tags, run_name=name)
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
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
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
    values: dict[str, Any] = {}
    for name, value in headline.items():
        if name == "account":
            values |= {"account.total": value["total"]} | {f"account.{k}": n for k, n in value["states"].items()}
        elif isinstance(value, dict):
            values |= {name: value.get("mean")} | {f"{name}.{part}": value.get(part) for part in ("low", "high", "n")}
        else:
            values[name] = value
    return {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _name(text: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", text, flags=re.ASCII)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)
