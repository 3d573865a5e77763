"""Where a run comes from: code, task file and environment.

This module does not know what a run is; it looks at the machine and returns plain dicts.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arislab import __version__
from arislab import task as task_files
from arislab.errors import PrerequisiteError, TaskError
from arislab.system import git

if TYPE_CHECKING:
    from importlib import metadata


def code(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the state of the git checkout around a folder, and the uncommitted changes as a binary diff.

    Source files that git does not know yet are part of the diff, as new ones; a virtual environment is none of them
    (env.lock names what is in it). Without git or a commit the state says so with nulls.
    """
    checkout = git.checkout_of(folder)
    if checkout is None:
        return {"commit": None, "dirty": None, "untracked": []}, b""
    commit = git.output(checkout, "rev-parse", "--verify", "HEAD")
    diff = git.output(checkout, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff") or b""
    kinds = ["*.py", "*.ipynb", "arislab/*"]
    listed = git.output(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", *kinds) or b""
    names = sorted(name.decode() for name in listed.split(b"\0") if name)
    environments = {
        folder for folder in {f for n in names for f in Path(n).parents} if _is_environment(checkout, folder)
    }
    untracked = [name for name in names if environments.isdisjoint(Path(name).parents)]
    for name in untracked:
        new = ["diff", "--no-index", "--binary", "--no-color", "--no-ext-diff", "/dev/null", name]
        # 1: they differ, as any file does from /dev/null
        diff += git.output(checkout, *new, fine=(0, 1)) or b""
    branch = git.output(checkout, "symbolic-ref", "--short", "-q", "HEAD")
    state = {
        "checkout": str(checkout),
        "commit": commit.decode().strip() if commit else None,
        "branch": branch.decode().strip() if branch else None,
        "dirty": bool(diff or git.output(checkout, "status", "--porcelain")),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
        "untracked": untracked,
    }
    return state, diff


def _is_environment(checkout: Path, folder: Path) -> bool:
    return (checkout / folder / "pyvenv.cfg").is_file()


def package() -> dict[str, Any]:
    """Return version and digest of the arislab that runs."""
    return {"package_version": __version__, "package_sha256": package_sha256()}


def package_sha256() -> str:
    """Return a digest of arislab's own source files: what ran, whatever git says."""
    base = Path(__file__).resolve().parents[1]
    # the embedded model is weights, no code; a wheel's templates are what labs start from, and no part of a checkout's
    apart = (base / "tiny" / "model", base / "templates")
    kinds = (".py", ".js", ".css", ".json")
    files = sorted(p for p in base.rglob("*") if p.suffix in kinds and not any(map(p.is_relative_to, apart)))
    sha = hashlib.sha256()
    for path in files:
        sha.update(f"{path.relative_to(base).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()


def environment() -> tuple[dict[str, Any], str]:
    """Return interpreter, machine and digest of the lock, and the lock: one ``name==version`` a line."""
    from importlib import metadata

    names = {"==".join(_name_and_version(d)) for d in metadata.distributions()}
    lock = "".join(f"{name}\n" for name in sorted(names, key=str.lower))
    state = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpus": os.cpu_count(),
        "lock_sha256": hashlib.sha256(lock.encode()).hexdigest(),
        "n_packages": len(names),
    }
    return state, lock


def _name_and_version(package: "metadata.Distribution") -> tuple[str, str]:
    """Of an installed package; its own properties parse the whole README each time, which costs a second in all."""
    head = (package.read_text("METADATA") or package.read_text("PKG-INFO") or "").partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version): *(.+?)\s*$", head, re.MULTILINE))
    return fields.get("Name") or package.metadata["Name"], fields.get("Version") or package.version


def task(in_force: Mapping[str, Any], notebooks: Path) -> tuple[dict[str, Any] | None, str]:
    """Return path and digest of the task file, and its text; null and no text where there is no parameter ``task``."""
    if "task" not in in_force:
        return None, ""
    try:
        path, source = task_files.find(str(in_force["task"]), notebooks=notebooks)
    except TaskError as error:
        raise PrerequisiteError(str(error)) from None
    return {"name": path.stem, "path": str(path), "sha256": hashlib.sha256(source.encode()).hexdigest()}, source


def made_before(path: Path, at: str) -> bool:
    """Say whether a file was last changed before a time, ISO 8601 with an offset."""
    return path.stat().st_mtime < datetime.fromisoformat(at).timestamp()
