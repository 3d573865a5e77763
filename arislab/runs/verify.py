"""Running a recorded run again from nothing but its record, and comparing bit for bit what must be equal.

A rerun has the code (commit and uncommitted changes, in a worktree of its own), the parameters, and the input tables at
their versions (the tables' logs cut there, in a lake of its own); nothing of the real lake is touched. Levels of
verification:

- V0: the record's files have their digests (the notebook at least those of its cells: opening it saves it anew), and
  the tables still hold what the run read and left.
- V1: a run that asked no model and no people, run again, gives the same notebook outputs, rows, headline and adapter,
  bit for bit.
- V2: a run that did, with the recorded answers and reviews given again, likewise.
- V3: the model asked anew: the headline's numbers within their recorded intervals.

What is left out of the comparison: measured times, names that servers give to batches, progress bars (``digests``).
This module runs other commits of arislab by their own command line, so it knows of them only ``arislab run`` and
``run.json``.
"""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake, digests, tables
from arislab.lake import log as lake_log
from arislab.lake.digests import canonical, column_sha256
from arislab.records import diff as run_diff
from arislab.records import digests as file_digests
from arislab.records import files as run_files
from arislab.records import find as records
from arislab.records import outputs
from arislab.records.record import record_sha256
from arislab.records.text import number_text, short
from arislab.runs import provenance, signing
from arislab.runs.parameters import as_text
from arislab.system import files


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be."""

    level: str
    """V0, V1, V2 or V3."""
    where: str
    """run.json, the name of a file, a table, the notebook, or the headline."""
    what: str
    """The first difference, in words."""

    def __repr__(self) -> str:
        return f"{self.level} {self.where}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What a verification found."""

    run_id: str
    level: str
    """The highest level that was checked."""
    checked: dict[str, int] = field(default_factory=dict)
    """How many of what were compared."""
    findings: list[Finding] = field(default_factory=list)
    """Empty: the run is verified."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.checked.items())
        if not self.findings:
            return f"{self.run_id}: {self.level} equal ({counts})"
        lines = [f"{self.run_id}: NOT equal at {self.level} ({counts})", *(f"  {found}" for found in self.findings)]
        return "\n".join(lines)


_UNREADABLE = (LakeError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What reading a damaged Parquet file raises; polars panics at some."""


# ---- V0: what is recorded is still there
# --------------------------------------------------------------------------------


def check_files(run: dict[str, Any]) -> Verdict:
    """Check at V0 that a record, its files, and the rows that it read and left are what they were.

    Args:
        run: A record from ``records.find``.
    """
    folder, findings = Path(run["folder"]), []
    raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if raw.get("record_sha256") is not None and raw["record_sha256"] != record_sha256(raw):
        findings += _changed_fields(raw, folder)
    findings += [Finding("V0", name, "is a link, which no file of a record is") for name in run_files.links(folder)]
    for name, told in run.get("files", {}).items():
        if run_files.is_linked(folder / name, folder):
            findings.append(Finding("V0", name, "is not read: it lies outside of the record, or behind a link"))
            continue
        try:
            change = file_digests.change(folder / name, told)
        except OSError as error:
            findings.append(Finding("V0", name, f"cannot be read ({error.strerror})"))
            continue
        if change:
            findings.append(Finding("V0", name, change))
    lake = Lake(_root(run) / "data" / "lake")
    n_reads = 0
    for line in lake_log.table_lines(folder / "tables.jsonl"):
        if line["op"] == "read" and line.get("digest") and line["version"] is not None:
            n_reads += 1
            findings += _check_read(lake, line)
    for name, told in run.get("tables_written", {}).items():
        if told.get("columns"):
            findings += _check_left(lake, name, told, run["run_id"])
    checked = {
        "files": len(run.get("files", {})),
        "reads": n_reads,
        "tables written": len(run.get("tables_written", {})),
    }
    return Verdict(run["run_id"], "V0", checked, findings)


def _changed_fields(raw: dict[str, Any], folder: Path) -> list[Finding]:
    """Say what of run.json was changed, where another file of the record tells."""
    found = []
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()[:1]:
        then = json.loads(line)["run"]["facets"]["arislab_run"]["parameters"]
        for name in then:
            if then[name] != raw["parameters"].get(name):
                what = (
                    f"parameter {name!r} is {raw['parameters'].get(name)!r}, was {then[name]!r} when the run was made"
                )
                found.append(Finding("V0", "run.json", what))
    return found or [Finding("V0", "run.json", "was changed after the run (its record_sha256 does not fit)")]


def _check_read(lake: Lake, line: dict[str, Any]) -> list[Finding]:
    name, version = line["table"], line["version"]
    try:
        frame = lake[name].read(columns=line.get("columns"), where=line.get("where"), version=version)
    except _UNREADABLE as error:
        return [Finding("V0", name, f"version {version}, an input, cannot be read: {str(error).splitlines()[0]}")]
    if digests.digest(name, frame) == line["digest"]:
        return []
    what = f"version {version}, an input, is not what was read: {frame.height:,} rows now, {line['rows']:,} then"
    return [Finding("V0", name, what)]


def _check_left(lake: Lake, name: str, told: dict[str, Any], run_id: str) -> list[Finding]:
    try:
        frame = lake[name].read(where={"run_id": run_id}, version=told["version"])
    except _UNREADABLE as error:
        return [
            Finding("V0", name, f"version {told['version']}, an output, cannot be read: {str(error).splitlines()[0]}")
        ]
    now = digests.columns(name, frame)
    changed = sorted(c for c in now.keys() | told["columns"].keys() if now.get(c) != told["columns"].get(c))
    if not changed and frame.height == told["rows"]:
        return []
    which = f"column {', '.join(map(repr, changed))}" if len(changed) < len(now) else "all columns"
    what = (
        f"version {told['version']}, an output, was changed: {which}; {frame.height:,} rows now, {told['rows']:,} then"
    )
    return [Finding("V0", name, what)]


# ---- whose code it is
# ---------------------------------------------------------------------------------------------------

_EXECUTED = ("code.diff", "env.lock", "notebook.ipynb", "task.py")
"""Files of a record that a rerun reads as code, or that say what ran."""


def foreign(run: dict[str, Any]) -> str | None:
    """Say why a record's code is not known to be this user's, as it was when the run was made; null if it is.

    The signature covers run.json, which holds paths, parameters, commit and environment, and the digests of the files;
    so one changed byte of anything that would be executed is found here. The record's own notebook only tells what ran:
    there, its cells count.

    Args:
        run: A record from ``records.find``.
    """
    folder = Path(run["folder"])
    try:
        raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"run.json cannot be read ({error})"
    digest = record_sha256(raw)
    if why := signing.problem(raw.get("signature"), digest):
        return why
    if raw.get("record_sha256") != digest:
        return "run.json was changed after it was signed"
    is_open = (
        not raw.get("files") and raw.get("status") in records.OPEN
    )  # its supervisor was killed: no list of files was written
    for name in _EXECUTED:
        if is_open and name == "notebook.ipynb":
            continue
        path, told = folder / name, _recorded(raw, name, is_open=is_open)
        if not path.is_symlink() and not path.exists():
            if told is not None:
                return f"{name} is gone"
            continue
        if path.is_symlink():
            return f"{name} is a link"
        if told is None:
            return f"{name} was added after the record was signed"
        if change := file_digests.change(path, told, after="the record was signed"):
            return f"{name} {change}"
    return None


def _recorded(raw: dict[str, Any], name: str, *, is_open: bool) -> dict[str, Any] | None:
    """What a record says of a file; one that ended without a verdict knows only its task file, changes and lock."""
    if not is_open:
        told: dict[str, Any] | None = raw.get("files", {}).get(name)
        return told
    known = {"code.diff": raw["code"].get("diff_sha256"), "env.lock": raw["environment"].get("lock_sha256")}
    sha256 = known.get(name) or ((raw.get("task") or {}).get("sha256") if name == "task.py" else None)
    return {"sha256": sha256} if sha256 else None


def would_run(run: dict[str, Any]) -> list[str]:
    """Return what running a record again would execute, one line each: paths, sizes and sha256."""
    folder, code, notebook = Path(run["folder"]), run.get("code", {}), run.get("notebook", {})
    lines = [f"the notebook {notebook.get('path')} (sha256 {notebook.get('sha256')})"]
    if code.get("commit"):
        lines.append(f"the code of commit {code['commit']} in {code.get('checkout')}")
    if run.get("task"):
        lines.append(f"the task file {run['task'].get('path')} (sha256 {run['task'].get('sha256')})")
    for name, what in (("code.diff", "the changes"), ("task.py", "the record's task file")):
        path = folder / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            lines.append(f"{what} {path} ({len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()})")
    lines += [f"with {name} = {as_text(value)!r}" for name, value in (run.get("parameters_passed") or {}).items()]
    return lines


# ---- comparing two runs
# -------------------------------------------------------------------------------------------------


def compare(before: dict[str, Any], now: dict[str, Any]) -> Verdict:
    """Compare two runs that must be equal: status, parameters, code, inputs, rows, notebook outputs, headline.

    Args:
        before: The recorded run.
        now: The run that repeats it, here or under another root.
    """
    level = level_of(before)
    found = [
        *(
            ("status", f"{before['status']} before, {now['status']} now: {now.get('reason')}")
            for _ in _unequal(before, now, "status")
        ),
        *_named("parameter", before["parameters"], now["parameters"], but=("task",)),
        *_named("code", _code(before), _code(now)),
    ]
    one, other = (Lake(_root(run) / "data" / "lake") for run in (before, now))
    for name in sorted(before["tables_read"].keys() | now["tables_read"].keys()):
        told = [run["tables_read"].get(name, {}).get("digest") for run in (before, now)]
        if None not in told and told[0] != told[1]:
            found.append((f"input {name}", "other rows were read"))
    tables = sorted(before["tables_written"].keys() | now["tables_written"].keys())
    for name in tables:
        if name not in before["tables_written"] or name not in now["tables_written"]:
            where = "now" if name in now["tables_written"] else "before"
            found.append((name, f"was written only {where}"))
        elif difference := first_difference(name, _rows(one, name, before), _rows(other, name, now)):
            found.append((name, difference))
    n_cells, n_left_out = 0, 0
    books = [_cells(run) for run in (before, now)]
    if books[0] is not None and books[1] is not None:
        n_cells, n_left_out = len(books[0][0]), books[0][1]
        if difference := outputs.first_differing_cell(books[0][0], books[1][0]):
            found.append(("notebook", difference))
    counts = {
        "code cells": n_cells - n_left_out,
        "cells left out, for they show times": n_left_out,
        "tables": len(tables),
    }
    return Verdict(before["run_id"], level, counts, [Finding(level, where, what) for where, what in found])


def _unequal(before: dict[str, Any], now: dict[str, Any], name: str) -> list[str]:
    return [name] if before[name] != now[name] else []


def _named(kind: str, one: dict[str, Any], other: dict[str, Any], but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    names = [n for n in one.keys() | other.keys() if n not in but and one.get(n) != other.get(n)]
    return [(f"{kind} {n}", f"{one.get(n)!r} before, {other.get(n)!r} now") for n in sorted(names)]


def _code(run: dict[str, Any]) -> dict[str, Any]:
    """Digests of what ran; those that a record of an older version lacks are left out."""
    found = {
        "package": run["code"].get("package_sha256"),
        "notebook": run["notebook"].get("source_sha256") or run["notebook"].get("sha256"),
        "task file": (run["task"] or {}).get("sha256"),
    }
    return {name: value for name, value in found.items() if run.get("schema_version", 1) >= 2 or name == "task file"}


def _rows(lake: Lake, name: str, run: dict[str, Any]) -> pl.DataFrame:
    return lake[name].read(where={"run_id": run["run_id"]}, version=run["tables_written"][name]["version"])


def _cells(run: dict[str, Any]) -> tuple[list[dict[str, Any]], int] | None:
    try:
        notebook = json.loads((Path(run["folder"]) / "notebook.ipynb").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outputs.cells(notebook, places=run_diff.places(run))


def level_of(run: dict[str, Any]) -> str:
    """Return V2 for a run that asked a model or people, V1 for any other."""
    has_people = bool(run["tables_read"].get("reviews", {}).get("rows"))
    return "V2" if has_people or "training_data_raw" in run["tables_written"] else "V1"


def within(before: dict[str, Any], now: dict[str, Any]) -> Verdict:
    """Compare at V3: every number of the headline that has an interval lies, in the repeated run, within the recorded one."""
    findings, n = [], 0
    for name, told in (before["headline"] or {}).items():
        if not isinstance(told, dict) or not {"mean", "low", "high"} <= told.keys():
            continue
        n += 1
        new = (now["headline"] or {}).get(name)
        mean = new.get("mean") if isinstance(new, dict) else None
        if mean is None or not told["low"] <= mean <= told["high"]:
            findings.append(Finding("V3", f"headline {name}", f"{number_text(told)} before, {number_text(new)} now"))
    if before["status"] != now["status"]:
        findings.append(Finding("V3", "status", f"{before['status']} before, {now['status']} now: {now.get('reason')}"))
    return Verdict(before["run_id"], "V3", {"numbers with intervals": n}, findings)


# ---- running again ------------------------------------------------------------------------------------------------------


def rerun(
    run: dict[str, Any], *, into: Path, replay: bool = True, allow_drift: bool = False, trust: bool = False
) -> dict[str, Any]:
    """Run a recorded run again in a root of its own, and return the new record.

    Args:
        run: A record from ``records.find``.
        into: Folder that becomes the root; it must not exist.
        replay: Give the recorded answers again; False asks the model anew.
        allow_drift: Run although the environment is another than the recorded one.
        trust: Run although the record is not signed with this user's key, or was changed since.

    Raises:
        PrerequisiteError: The record is foreign, the environment differs, or code or inputs cannot be had; nothing was
            run.
    """
    if not trust and (why := foreign(run)):
        raise PrerequisiteError(refusal(run, why))
    if run["status"] in (*records.OPEN, "unreadable"):
        raise PrerequisiteError(f"{run['run_id']} is {run['status']}; only a run that has ended can be run again.")
    lines = drift(run)
    if lines and not allow_drift:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise PrerequisiteError(
            f"the environment is not the one of {run['run_id']}: {'; '.join(lines[:5])}{more}. Install {run['folder']}/env.lock, "
            "or run again with --allow-drift."
        )
    into.mkdir(parents=True)
    _lake_as_it_was(run, into)
    with _code_as_it_was(run) as (checkout, package):
        command = [sys.executable, "-m", "arislab", "run", _phase(run, checkout), "--root", str(into)]
        for name, value in run["parameters_passed"].items():
            command += ["-p", name, as_text(value)]
        if run["task"] is not None and not _inside(run["task"]["path"], run):
            command += ["-p", "task", str(_task_as_it_was(run, into))]
        env = {k: v for k, v in os.environ.items() if not k.startswith("ARISLAB_R") and k != "ARISLAB_TASKS"}
        env |= {"PYTHONPATH": str(package), "ARISLAB_RERUN_OF": run["run_id"], "ARISLAB_ROOT": str(into)}
        if replay and (answers := _answers(run, into)):
            env["ARISLAB_REPLAY"] = str(answers)
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    made = records.as_json(into)
    if len(made) != 1:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise PrerequisiteError(f"the run could not be run again (exit code {done.returncode}): {' / '.join(said)}")
    return records.read(Path(made[0]["folder"]))


def refusal(run: dict[str, Any], why: str) -> str:
    """Return the message for a record whose code is not run: why, what would run, and what to do."""
    lines = "".join(f"\n  {line}" for line in would_run(run))
    return (
        f"{run['run_id']} is not run: {why}, and running a record runs its code on this machine, as you. It would run{lines}\n"
        "Read these, then give --trust. (Records are signed with the key of whoever ran them since this version.)"
    )


def drift(run: dict[str, Any]) -> list[str]:
    """Return how this environment differs from a run's, a line a package.

    Arislab's own version is part of the code, not of this.
    """
    state, now = provenance.environment()
    lines = []
    if (was := run["environment"].get("python")) != state["python"]:
        lines.append(f"Python {was} then, {state['python']} now")
    path = Path(run["folder"]) / "env.lock"
    if not path.is_file():
        return [*lines, "no env.lock in the record"]
    then, here = (dict(x.partition("==")[::2] for x in text.split() if "==" in x) for text in (path.read_text(), now))
    for name in sorted(then.keys() | here.keys(), key=str.lower):
        if then.get(name) != here.get(name) and name != "arislab":
            lines.append(f"{name} {then.get(name, 'absent')} then, {here.get(name, 'absent')} now")
    return lines


def _root(run: dict[str, Any]) -> Path:
    return Path(run["folder"]).parent.parent


def _lake_as_it_was(run: dict[str, Any], into: Path) -> None:
    """Make the tables that a run touched what they were when it touched them, and give it the adapters that there were."""
    lake, then = Lake(_root(run) / "data" / "lake"), Lake(into / "data" / "lake")
    versions: dict[str, int | None] = {}
    for line in lake_log.table_lines(Path(run["folder"]) / "tables.jsonl"):
        name, version = line["table"], line["version"]
        if line["op"] == "write":
            before = line.get("version_before", (version or 0) - 1)  # lines of older records lack it
            version = before if before is not None and before >= 0 else None
        known = versions.setdefault(name, version)
        # an old version may be read after the newest one; what stood there when the run began is the highest before its
        # first write
        is_newer = line["op"] == "read" and version is not None and known is not None and version > known
        if is_newer and name not in run["tables_written"]:
            versions[name] = version
    began, models = run["created_at"], lake.data / "models"
    for name in lake.tables():
        version = versions[name] if name in versions else lake[name].version_at(began)
        if version is not None:
            lake[name].link(then, version=version)
    for folder in models.iterdir() if models.is_dir() else ():
        if folder.is_dir() and provenance.made_before(folder, began) and not _leads_out(folder, lake.data):
            ignore = partial(_links_out, lake.data)
            shutil.copytree(folder, then.data / "models" / folder.name, copy_function=os.link, ignore=ignore)
    prices = lake.data / "prices.toml"
    if prices.is_file() and not _leads_out(prices, lake.data):
        shutil.copy2(prices, then.data / "prices.toml")


def _links_out(top: Path, folder: str, names: list[str]) -> list[str]:
    return [name for name in names if _leads_out(Path(folder) / name, top)]


def _leads_out(path: Path, top: Path) -> bool:
    """Say whether a path is a link to something outside of a folder.

    Such a thing is no part of a rerun, and a warning names it.
    """
    if not path.is_symlink() or path.resolve().is_relative_to(top.resolve()):
        return False
    warnings.warn(f"{path} is a link out of {top}; the rerun does without it.", stacklevel=2)
    return True


def _answers(run: dict[str, Any], into: Path) -> Path | None:
    """Write the answers that the run got, for the replay engine; null if it asked for none."""
    asked = [told for told in run.get("servers", []) if "models" in told]
    if not asked:
        return None
    rows = pl.DataFrame()
    if written := run["tables_written"].get("training_data_raw"):
        columns = ["custom_id", "status", "error", "llm_output", "finish_reason", "prompt_tokens", "completion_tokens"]
        columns += ["logprob_mean", "model_returned", "tool_calls"]
        lake = Lake(_root(run) / "data" / "lake")
        where = {"run_id": run["run_id"]}
        rows = lake["training_data_raw"].read(columns=columns, where=where, version=written["version"])
    path = into / "answers.jsonl"
    path.write_bytes(
        json.dumps({"connections": _connections(run["servers"])}).encode() + b"\n" + rows.write_ndjson().encode()
    )
    return path


def _connections(servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each server said each time that the run connected, which response_format was decided on then, and what probes showed."""
    found: list[dict[str, Any]] = []
    for told in servers:
        if "models" in told:
            about = {name: told["about"].get(name) for name in ("engine", "response_format")}
            found.append({"base_url": told["base_url"], "models": told["models"], **about, "replayed": None})
            found[-1]["isolation"] = []
        else:
            here = [one for one in found if one["base_url"] == told.get("base_url", one["base_url"])]
            if "form" in told:
                here[-1]["replayed"] = [told["form"], told["why"]]
            if "also" in told:
                here[-1]["models"] = [*here[-1]["models"], told["also"]]
            if "isolation" in told:
                here[-1]["isolation"].append(told["isolation"])
    return found


@contextmanager
def _code_as_it_was(run: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """A worktree with the commit and the uncommitted changes of a run, and the folder of its package.

    Removed afterwards.
    """
    mine = Path(__file__).resolve().parents[2]
    commit, told = run["code"].get("commit"), run["code"].get("checkout")
    here = Path(told) if told and Path(told).is_dir() else provenance.checkout_of(mine)
    if here is None or commit is None:
        yield mine, _same_package(run, mine, "it ran outside git" if commit is None else "this is no git checkout")
        return
    folder = _root(run) / "papermill_runs" / ".reruns" / f"code-{Path(run['folder']).name}-{secrets.token_hex(2)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    added = _git(here, "worktree", "add", "--detach", "--quiet", str(folder), commit)
    if added.returncode:
        raise PrerequisiteError(
            f"commit {commit} of {run['run_id']} is not in {here}: {added.stderr.strip()}; fetch it and try again."
        )
    try:
        patch = Path(run["folder"]) / "code.diff"
        if patch.is_file():
            applied = _git(folder, "apply", "--binary", "--whitespace=nowarn", str(patch.resolve()))
            if applied.returncode:
                raise PrerequisiteError(
                    f"code.diff of {run['run_id']} does not apply to {commit}: {applied.stderr.strip()}."
                )
        if (folder / "arislab" / "__main__.py").is_file():
            _installed(folder)
            yield folder, folder
        else:  # notebooks of somebody else's repository
            yield folder, _same_package(run, mine, "its checkout has no package")
    finally:
        _git(here, "worktree", "remove", "--force", str(folder))


def _same_package(run: dict[str, Any], mine: Path, why: str) -> Path:
    if run["code"].get("package_sha256") != provenance.package_sha256():
        raise PrerequisiteError(
            f"the code of {run['run_id']} cannot be had: {why}, and the arislab that is installed now is another one."
        )
    return mine


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)


def _installed(folder: Path) -> None:
    """Let a worktree on PYTHONPATH count as the installed arislab: its entry points are those of its own commit."""
    import tomllib

    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"arislab-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: arislab\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = project.get("entry-points", {})
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def _inside(path: str, run: dict[str, Any]) -> str | None:
    """The place of a file inside the checkout in which a run ran; null if it lay elsewhere, or nobody knows."""
    if run["code"].get("commit") is None:
        return None
    if checkout := run["code"].get("checkout"):
        return path[len(checkout) + 1 :] if path.startswith(f"{checkout}/") else None
    return "notebooks/" + path.rpartition("/notebooks/")[2] if "/notebooks/" in path else None  # an older record


def _phase(run: dict[str, Any], checkout: Path) -> str:
    """The notebook of a run in the code as it was."""
    path = run["notebook"]["path"]
    if (inside := _inside(path, run)) and (checkout / inside).is_file():
        return str(checkout / inside)
    if Path(path).is_file() and files.of_file(Path(path))["sha256"] == run["notebook"]["sha256"]:
        return str(path)
    raise PrerequisiteError(
        f"the notebook of {run['run_id']} ({path}) is gone, or was changed and is in no commit; restore it."
    )


def _task_as_it_was(run: dict[str, Any], into: Path) -> Path:
    target = into / "tasks" / f"{Path(run['task']['path']).stem or 'task'}.py"
    target.parent.mkdir()
    shutil.copy2(Path(run["folder"]) / "task.py", target)
    return target


def first_difference(table: str, before: pl.DataFrame, now: pl.DataFrame) -> str | None:
    """Say where two frames of a table first differ: column, key of the row, both values; null if they are equal."""
    one, other = canonical(table, before), canonical(table, now)
    if missing := sorted(set(one.columns) ^ set(other.columns)):
        where = "now" if missing[0] in other.columns else "before"
        return f"column {missing[0]!r} has values only {where}"
    keys = [k for k in tables.contract(table).key if k in one.columns]
    if one.height != other.height or (keys and not one.select(keys).equals(other.select(keys), null_equal=True)):
        left, right = ((a.join(b, on=keys, how="anti") if keys else a) for a, b in ((one, other), (other, one)))
        alone = left if left.height else right
        which = f"; only {'before' if left.height else 'now'}: {_key(alone, keys, 0)}" if keys and alone.height else ""
        return f"{one.height:,} rows before, {other.height:,} now{which}"
    for name in one.columns:
        if column_sha256(one[name]) != column_sha256(other[name]):
            same = one[name].eq_missing(other[name])
            row = next((i for i, equal in enumerate(same.to_list()) if not equal), 0)
            return f"row {_key(one, keys, row)}, column {name!r}: {short(one[name][row])} before, {short(other[name][row])} now"
    return None


def _key(frame: pl.DataFrame, keys: list[str], row: int) -> str:
    return ", ".join(f"{k}={frame[k][row]!r}" for k in keys) or f"number {row}"
