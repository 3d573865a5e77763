"""Running a recorded run again from nothing but its record.

A rerun has the code (commit and uncommitted changes, in a worktree of its own), the parameters, and the input tables at
their versions (the tables' logs cut there, in a folder of its own); nothing of the real lake is touched. This module
runs other commits of arislab by their own command line, so it knows of them only ``arislab run`` and ``run.json``.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from arislab import __version__
from arislab.errors import PrerequisiteError
from arislab.lake import Lake
from arislab.lake import log as lake_log
from arislab.records import find as records
from arislab.records.digests import of_json
from arislab.records.files import root_of
from arislab.records.outputs import INJECTED
from arislab.runs import provenance
from arislab.runs.parameters import as_text, notebook_json
from arislab.runs.progress import Step, read_line
from arislab.runs.trust import foreign, refusal
from arislab.runs.verify import lake_of
from arislab.system import files, git

_LAST_LINES = 50


def rerun(
    run: dict[str, Any],
    *,
    into: Path,
    replay: bool = True,
    allow_drift: bool = False,
    trust: bool = False,
    tell: Callable[[Step], object] | None = None,
) -> dict[str, Any]:
    """Run a recorded run again in a root of its own, and return the new record.

    Args:
        run: A record from ``records.find``.
        into: Folder that becomes the root; it must not exist.
        replay: Give the recorded answers again; False asks the model anew.
        allow_drift: Run although the environment is another than the recorded one.
        trust: Run although the record is not signed with this user's key, or was changed since.
        tell: Gets where the run is, as far as its own code says it; null: nobody watches.

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
            f"the environment is not the one of {run['run_id']}: {'; '.join(lines[:5])}{more}. "
            f"Install {run['folder']}/env.lock, or run again with --allow-drift."
        )
    into.mkdir(parents=True)
    _lake_as_it_was(run, into)
    with _code_as_it_was(run) as (checkout, package):
        command = [sys.executable, "-m", "arislab", "run", _phase(run, checkout, into), "--root", str(into)]
        for name, value in run["parameters_passed"].items():
            command += ["-p", name, as_text(value)]
        if run["task"] is not None and not _inside(run["task"]["path"], run):
            command += ["-p", "task", str(_task_as_it_was(run, into))]
        # neither the root nor the run nor the lake of whoever calls this: the tables lie in the new root
        own = ("ARISLAB_TASKS", "ARISLAB_EXAMPLES", "ARISLAB_LAKE")
        env = {k: v for k, v in os.environ.items() if not k.startswith("ARISLAB_R") and k not in own}
        env |= {"PYTHONPATH": str(package), "ARISLAB_RERUN_OF": run["run_id"], "ARISLAB_ROOT": str(into)}
        if (examples := Path(run["folder"]) / "examples.jsonl").is_file():
            env["ARISLAB_EXAMPLES"] = str(examples)  # their own file may be another now, or gone
        if replay and (answers := _answers(run, into)):
            env["ARISLAB_REPLAY"] = str(answers)
        exit_code, said = _watched(command, checkout, env, tell)
    made = records.as_json(into)
    if len(made) != 1:
        last_lines = said.splitlines()[-3:]
        raise PrerequisiteError(f"the run could not be run again (exit code {exit_code}): {' / '.join(last_lines)}")
    return records.read(Path(made[0]["folder"]))


def _watched(
    command: list[str], folder: Path, env: dict[str, str], tell: Callable[[Step], object] | None
) -> tuple[int, str]:
    """Run a command to its end, tell the steps that it prints, and return its exit code and what it said last."""
    printed = deque[str](maxlen=_LAST_LINES)
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    printed.append(line)
                    if tell is not None and (step := read_line(line)):
                        tell(step)
                process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
        errors.seek(0)
        return process.returncode, errors.read().strip() or "".join(printed).strip()


def drift(run: dict[str, Any]) -> list[str]:
    """Return how this environment differs from a run's, a line a package.

    The version of arislab is part of the code, not of this.
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


def _lake_as_it_was(run: dict[str, Any], into: Path) -> None:
    """Make the tables that a run touched what they were then, and give it the adapters that there were."""
    lake, then = lake_of(run), Lake(into / "data" / "lake")
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
        # hidden: checkpoints, with which the training would not be repeated
        is_adapter = folder.is_dir() and not folder.name.startswith(".")
        if is_adapter and provenance.made_before(folder, began) and not _leads_out(folder, lake.data):
            ignore = partial(_links_out, lake.data)
            # hard links: weights are large, and nobody writes into an adapter that is there
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
    asked = [server for server in run.get("servers", []) if "models" in server]
    if not asked:
        return None
    lake, parts = lake_of(run), []
    for table, (name, *more) in _ANSWERS.items():
        if written := run["tables_written"].get(table):
            where = {"run_id": run["run_id"]}
            rows = lake[table].read(columns=[name, *_ANSWER, *more], where=where, version=written["version"])
            parts.append(rows.rename({name: "custom_id"}))
    path = into / "answers.jsonl"
    recorded = "".join(rows.write_ndjson() for rows in parts)
    path.write_bytes(json.dumps({"connections": _connections(run["servers"])}).encode() + b"\n" + recorded.encode())
    return path


_ANSWER = (
    "status", "error", "llm_output", "finish_reason", "prompt_tokens", "completion_tokens", "first_token_logprobs",
    "model_returned",
)  # fmt: skip
_ANSWERS = {
    "training_data_raw": ("custom_id", "logprob_mean", "logprob_tail", "logprob_window", "tool_calls"),
    "judgements": ("request_id",),
}
"""Tables of answers: the column that names the request, and what they know of an answer beside ``_ANSWER``."""


def _connections(servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each server said whenever the run connected, and what was decided, probed and timed there."""
    connections: list[dict[str, Any]] = []
    for entry in servers:
        if "models" in entry:
            about = {name: entry["about"].get(name) for name in ("engine", "response_format")}
            connections.append({"base_url": entry["base_url"], "models": entry["models"], **about, "replayed": None})
            connections[-1]["aliases"] = entry.get("aliases", {})
            connections[-1] |= {"isolation": [], "seconds": []}
        else:
            here = [one for one in connections if one["base_url"] == entry.get("base_url", one["base_url"])]
            if "form" in entry:
                here[-1]["replayed"] = [entry["form"], entry["why"]]
            if "also" in entry:
                here[-1]["models"] = [*here[-1]["models"], entry["also"]]
            if "isolation" in entry:
                here[-1]["isolation"].append(entry["isolation"])
            if "seconds" in entry:
                here[-1]["seconds"].append(entry["seconds"])
    return connections


@contextmanager
def _code_as_it_was(run: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """A worktree with the commit and the uncommitted changes of a run, and the folder of its package.

    Removed afterwards.
    """
    mine = Path(__file__).resolve().parents[2]
    commit, checkout = run["code"].get("commit"), run["code"].get("checkout")
    here = Path(checkout) if checkout and Path(checkout).is_dir() else git.checkout_of(mine)
    if here is None or commit is None:
        yield mine, _same_package(run, mine, "it ran outside git" if commit is None else "this is no git checkout")
        return
    folder = root_of(run) / "papermill_runs" / ".reruns" / f"code-{Path(run['folder']).name}-{secrets.token_hex(2)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if why := _git(here, "worktree", "add", "--detach", "--quiet", str(folder), commit):
        raise PrerequisiteError(f"commit {commit} of {run['run_id']} is not in {here}: {why}; fetch it and try again.")
    try:
        patch = Path(run["folder"]) / "code.diff"
        apply = ("apply", "--binary", "--whitespace=nowarn", str(patch.resolve()))
        if patch.is_file() and (why := _git(folder, *apply)):
            raise PrerequisiteError(f"code.diff of {run['run_id']} does not apply to {commit}: {why}.")
        if (folder / "arislab" / "__main__.py").is_file():
            _installed(folder)
            yield folder, folder
        else:  # notebooks of somebody else's repository
            yield folder, _same_package(run, mine, "its checkout has no package")
    finally:
        # by force: the run has left files there
        _git(here, "worktree", "remove", "--force", str(folder))


def _same_package(run: dict[str, Any], mine: Path, why: str) -> Path:
    if run["code"].get("package_sha256") == provenance.package_sha256():
        return mine
    needed = f"{__version__} is here, {run['code'].get('package_version', 'an earlier one')} is needed"
    raise PrerequisiteError(
        f"the code of {run['run_id']} cannot be had: {why}, and the arislab that is installed now is another one "
        f"({needed}); install the one that it ran with."
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says to an order that it did not follow; null if it did."""
    done = git.run(folder, *arguments)
    if done is None:
        return "git is not installed"
    return (done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}") if done.returncode else None


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


def _phase(run: dict[str, Any], checkout: Path, into: Path) -> str:
    """The notebook of a run in the code as it was: of the commit, as it still stands, or out of the record."""
    path = run["notebook"]["path"]
    if (inside := _inside(path, run)) and (checkout / inside).is_file():
        return str(checkout / inside)
    if Path(path).is_file() and files.of_file(Path(path))["sha256"] == run["notebook"]["sha256"]:
        return str(path)
    if (source := _source_of(run)) is not None:
        kept = into / "notebooks" / Path(path).name
        kept.parent.mkdir()
        kept.write_text(json.dumps(source, ensure_ascii=False), encoding="utf-8")
        return str(kept)
    raise PrerequisiteError(
        f"the notebook of {run['run_id']} ({path}) is gone, or was changed and is in no commit, and the one in the "
        "record has other cells than the run had; restore it."
    )


def _source_of(run: dict[str, Any]) -> dict[str, Any] | None:
    """The notebook that a run was made of, out of the executed one; null if its code cells are not those of then."""
    path = Path(run["folder"]) / "notebook.ipynb"
    if not path.is_file():
        return None
    executed = notebook_json(path)
    cells = [cell for cell in executed["cells"] if INJECTED not in cell.get("metadata", {}).get("tags", ())]
    for cell in cells:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    sources = [[cell.get("id"), "".join(cell["source"])] for cell in cells if cell["cell_type"] == "code"]
    return executed | {"cells": cells} if of_json(sources) == run["notebook"].get("source_sha256") else None


def _task_as_it_was(run: dict[str, Any], into: Path) -> Path:
    target = into / "tasks" / f"{Path(run['task']['path']).stem or 'task'}.py"
    target.parent.mkdir()
    shutil.copy2(Path(run["folder"]) / "task.py", target)
    return target
