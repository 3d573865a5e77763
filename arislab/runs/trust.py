"""Whose code a record is: running a record again runs it, and a foreign record is a stranger's code.

``signing`` knows the key and the digest that it signs; here are the files that the digest covers, and the words.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from arislab.records import digests as file_digests
from arislab.records import find as records
from arislab.records.record import record_sha256
from arislab.runs import signing
from arislab.runs.parameters import as_text

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
    # its supervisor was killed: no list of files was written
    is_open = not raw.get("files") and raw.get("status") in records.OPEN
    for name in _EXECUTED:
        if is_open and name == "notebook.ipynb":
            continue
        path, recorded = folder / name, _recorded(raw, name, is_open=is_open)
        if not path.is_symlink() and not path.exists():
            if recorded is not None:
                return f"{name} is gone"
            continue
        if path.is_symlink():
            return f"{name} is a link"
        if recorded is None:
            return f"{name} was added after the record was signed"
        if change := file_digests.change(path, recorded, after="the record was signed"):
            return f"{name} {change}"
    return None


def _recorded(raw: dict[str, Any], name: str, *, is_open: bool) -> dict[str, Any] | None:
    """What a record says of a file; one that ended without a verdict knows only its task file, changes and lock."""
    if not is_open:
        listed: dict[str, Any] | None = raw.get("files", {}).get(name)
        return listed
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


def refusal(run: dict[str, Any], why: str) -> str:
    """Return the message for a record whose code is not run: why, what would run, and what to do."""
    lines = "".join(f"\n  {line}" for line in would_run(run))
    return (
        f"{run['run_id']} is not run: {why}, and running a record runs its code on this machine, as you. "
        f"It would run{lines}\n"
        "Read these, then give --trust. (Records are signed with the key of whoever ran them since this version.)"
    )
