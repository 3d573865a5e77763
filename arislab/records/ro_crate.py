"""A run record as an RO-Crate, which archives and other tools read without arislab.

    ro-crate-metadata.json   {"@context": […], "@graph": [{"@id": "./", "@type": "Dataset", "mentions": {"@id": "#run"},
    …}, …]}

What a record does not know is left out: who ran it, and under which licence its data may be used. Tables stay in the
lake; the crate names them with version and digest. This module writes nothing into a record.
Source: https://w3id.org/ro/wfrun/process/0.5 (Process Run Crate), https://w3id.org/ro/crate/1.1
"""

import json
import mimetypes
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arislab.errors import PrerequisiteError
from arislab.records import digests
from arislab.records import files as run_files
from arislab.records.headline import as_text
from arislab.system import files as whole_files

CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_SHA256 = "http://schema.org/sha256"  # not yet in the context of 1.1
_DESCRIPTIONS = {
    "run.json": "The record: status, parameters, code, environment, tables read and written, headline",
    "notebook.ipynb": "The executed notebook",
    "code.diff": "Changes to the code that were not committed",
    "env.lock": "Name and version of every installed package",
    "examples.jsonl": "The examples that phase 1 showed",
    "events.jsonl": "The run as OpenLineage events",
    "log.txt": "What the kernel printed",
    "quality_model.json": "What was learned from reviews: how signals become the chance that a person approves",
    "servers.jsonl": "What the batch servers said of themselves",
    "tables.jsonl": "Every read and write of the lake",
    "task.py": "The task file: what was asked, and what is good",
}


def _ended(run: Mapping[str, Any]) -> Path:
    """Return the folder of a run that has a verdict."""
    if run["status"] in ("created", "running", "unreadable"):
        raise PrerequisiteError(f"{run['run_id']} is {run['status']}; only a run that has ended can be exported.")
    return Path(run["folder"])


def unchanged_files(run: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files of a record with bytes and sha256, as they are now.

    Raises:
        PrerequisiteError: One is not what the record says.
    """
    folder = _ended(run)
    if links := run_files.links(folder):
        raise PrerequisiteError(
            f"{links[0]} of {run['run_id']} is a link, and an export follows none: it might lead out of the record. "
            "Nothing was exported; remove it, or put the file itself there."
        )
    for path in run_files.files(folder):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".") or name == "heartbeat":
            continue
        recorded = run.get("files", {}).get(name)
        if recorded is not None and (change := digests.change(path, recorded)):
            raise PrerequisiteError(
                f"{name} of {run['run_id']} {change}; nothing was exported. "
                f"`arislab verify {run['run_id']} --level 0` tells more."
            )
        yield name, whole_files.of_file(path)


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
    files = dict(unchanged_files(run))
    folder = folder.resolve()
    if folder.is_relative_to(Path(run["folder"]).resolve()):
        raise PrerequisiteError(f"{folder} is inside the record, which stays as it is; give a folder elsewhere.")
    try:
        with whole_files.made(folder) as part:
            for name in files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(run["folder"]) / name, part / name, follow_symlinks=False)
            text = json.dumps(metadata(run, files), indent=1, ensure_ascii=False)
            (part / "ro-crate-metadata.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
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
    read = [_table(name, table, "read") for name, table in (run.get("tables_read") or {}).items()]
    written = [_table(name, table, "written") for name, table in (run.get("tables_written") or {}).items()]
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
        *(_file(name, digest) for name, digest in files.items()),
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


def _table(name: str, table: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What a run read of a table, or left in it; the rows stay in the lake, so the crate has their digest."""
    version = table.get("version")
    state = (
        f"version {version} of the table {name}" if version is not None else f"the table {name}, which did not exist"
    )
    rows = f": {table['rows']:,} rows" if isinstance(table.get("rows"), int) else ""
    return {
        "@id": f"#{what}-{name}",
        "@type": "CreativeWork",
        "name": name,
        "description": f"What the run {'read of' if what == 'read' else 'left in'} {state}{rows}",
        **({} if version is None else {"version": str(version)}),
        **_digest("identifier", table.get("digest")),
    }


def _file(name: str, digest: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {".ipynb": "application/x-ipynb+json", ".jsonl": "application/jsonl", ".diff": "text/x-diff"}
    kind = kinds.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    entity = {**_path(name), "@type": "File", "name": name, "encodingFormat": kind, "contentSize": str(digest["bytes"])}
    return entity | {"description": _DESCRIPTIONS.get(name, "An output of the run"), "sha256": digest["sha256"]}
