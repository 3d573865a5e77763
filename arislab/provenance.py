"""Where a run comes from: code and environment; and what must never stand in its record: secrets.

This module does not know what a run is; it looks at the machine and returns plain dicts.
"""

import hashlib
import json
import os
import platform
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib import metadata

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8  # shorter values are words such as "true"; cutting them out would wreck the record


def code(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the state of the git checkout around a folder, and the uncommitted changes as a binary diff.

    Source files that git does not know yet are part of the diff, as new ones. Without git or a commit the state says so with nulls.
    """
    checkout = checkout_of(folder)
    if checkout is None:
        return {"commit": None, "dirty": None, "untracked": []}, b""
    commit = _git(checkout, "rev-parse", "--verify", "HEAD")
    diff = _git(checkout, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff") or b""
    kinds = ["*.py", "*.ipynb", "arislab/*"]
    listed = _git(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", *kinds) or b""
    untracked = sorted(name.decode() for name in listed.split(b"\0") if name)
    for name in untracked:
        new = ["diff", "--no-index", "--binary", "--no-color", "--no-ext-diff", "/dev/null", name]
        diff += _git(checkout, *new, fine=(0, 1)) or b""
    branch = _git(checkout, "symbolic-ref", "--short", "-q", "HEAD")
    state = {
        "checkout": str(checkout),
        "commit": commit.decode().strip() if commit else None,
        "branch": branch.decode().strip() if branch else None,
        "dirty": bool(diff or _git(checkout, "status", "--porcelain")),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
        "untracked": untracked,
    }
    return state, diff


def package_sha256() -> str:
    """Return a digest of arislab's own source files: what ran, whatever git says."""
    base = Path(__file__).resolve().parent
    files = sorted(p for p in base.rglob("*") if p.suffix in (".py", ".js", ".css", ".json") and "model" not in p.parts)
    sha = hashlib.sha256()
    for path in files:
        sha.update(f"{path.relative_to(base).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()


def checkout_of(folder: Path) -> Path | None:
    """Return the top of the git checkout around a folder; null if there is none."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(top.decode().strip()) if top else None


def _git(folder: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> bytes | None:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode in fine else None


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


def _name_and_version(found: "metadata.Distribution") -> tuple[str, str]:
    """Of an installed package; its own properties parse the whole README each time, which costs a second in all."""
    head = (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version): *(.+?)\s*$", head, re.MULTILINE))
    return fields.get("Name") or found.metadata["Name"], fields.get("Version") or found.version


def made_before(path: Path, at: str) -> bool:
    """Say whether a file was last changed before a time, ISO 8601 with an offset."""
    return path.stat().st_mtime < datetime.fromisoformat(at).timestamp()


def secrets_of(variables: dict[str, str]) -> list[str]:
    """Return what must not be written: lines of the values of variables named …KEY…, …TOKEN…, …SECRET… or …PASSWORD….

    Values under 8 characters and paths that exist are no secrets.
    """
    found: set[str] = set()
    for name, value in variables.items():
        if _SECRET.search(name) and not (value.startswith("/") and Path(value).exists()):
            found.update(line.strip() for line in value.splitlines())
    return sorted((v for v in found if len(v) >= _SHORTEST_SECRET), key=len, reverse=True)


def without(value: Any, hidden: list[str]) -> Any:
    """Return text, or lists and dicts of text, with each secret replaced by ``[hidden]``."""
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, "[hidden]")
        return value
    if isinstance(value, dict):
        return {without(key, hidden): without(item, hidden) for key, item in value.items()}
    return [without(item, hidden) for item in value] if isinstance(value, (list, tuple)) else value


def hide_in(path: Path, hidden: list[str]) -> str | None:
    """Return the text of a file without secrets; null if it holds none, or is not there."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    if path.suffix == ".ipynb":
        try:
            plain = json.loads(text)
        except ValueError:
            plain = None
        if plain is not None:
            cleaned = without(plain, hidden)
            return None if cleaned == plain else json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n"
    cleaned = without(text, hidden)
    return None if cleaned == text else cleaned
