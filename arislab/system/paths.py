"""Where everything lies: the lab, its notebooks, the root folder of ``data/`` and ``papermill_runs/``, and the lake.

A lab is a folder that ``arislab init`` made (it has ``arislab.toml``), or a checkout of arislab itself. This module
loads nothing but the standard library.
"""

import hashlib
import os
import re
from pathlib import Path

from arislab.errors import PrerequisiteError

_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\[\]\\^|*?]|%[0-9A-Fa-f]{2}|[\ud800-\udfff]")
"""What Delta Lake cannot have in the path of a table, or would read as a pattern or as another character."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LAKE = re.compile(r"(s3a?|gs|az|adl|abfss?)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._=+-]+)+")
"""A lake by URL: scheme, bucket or container, path; what it has no place for (user, query, escapes) cannot be in it."""
_CONTAINER = re.compile(r"(abfss?://)[A-Za-z0-9-]+@(?=[A-Za-z0-9])")
"""Azure's form container@account.dfs.core.windows.net, which names no user."""
_LONGEST = 3_500
"""Bytes of a root's path: the files below it need the rest of the system's 4,096."""

MARKER = "arislab.toml"
"""The file that makes a folder a lab."""
_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE / "templates" if (_PACKAGE / "templates").is_dir() else _PACKAGE.parent
"""Folder with the ``notebooks`` and ``data`` that this arislab came with: templates in a wheel, else its checkout."""

RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-(\w+?)-([0-9a-f]{4})(?![0-9a-f])")
"""Name of a run: time of its start (UTC), phase, 4 hex."""


def is_lab(folder: Path) -> bool:
    """Say whether a folder is a lab: one that ``arislab init`` made, or a checkout of arislab."""
    if (folder / MARKER).is_file():
        return True
    project = folder / "pyproject.toml"
    return project.is_file() and 'name = "arislab"' in project.read_text(encoding="utf-8", errors="replace")


def lab() -> Path | None:
    """Return the lab around the working directory, else the checkout that arislab runs from, else null."""
    return next(filter(is_lab, [Path.cwd(), *Path.cwd().parents, _PACKAGE.parent]), None)


def root() -> Path:
    """Return the folder of ``data/`` and ``papermill_runs/``: $ARISLAB_ROOT, else the lab."""
    if given := os.environ.get("ARISLAB_ROOT"):
        return usable(given, "ARISLAB_ROOT")
    if (here := lab()) is None:
        raise PrerequisiteError(
            f"there is no lab around {Path.cwd()}: `arislab init DIR` makes one; --root or ARISLAB_ROOT names a folder."
        )
    return here


def is_url(place: object) -> bool:
    """Say whether a place is a URL, not a folder.

    Example:
        >>> is_url("s3://bucket/lab"), is_url("data/lake")
        (True, False)
    """
    return isinstance(place, str) and _URL.match(place) is not None


def lake(top: Path | None = None) -> str:
    """Return where the tables lie: the URL $ARISLAB_LAKE, else ``data/lake`` of a root; default the one here."""
    given = os.environ.get("ARISLAB_LAKE")
    return lake_url(given, "ARISLAB_LAKE") if given else str((top or root()) / "data" / "lake")


def journals(place: str, top: Path | None = None) -> Path:
    """Return the folder of what people decided and nobody folded into a lake yet: in it, or for a URL in a root.

    Args:
        place: URL or folder of the lake.
        top: The root; default that here.
    """
    if not is_url(place):
        return Path(place) / "review"
    # readable, and another one for each lake
    name = f"{re.sub(r'[^A-Za-z0-9.]+', '_', place)}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    return (top or root()) / "data" / "review" / name


def as_url(place: str) -> str:
    """Return the URL of a place that is one, or a folder."""
    return place if is_url(place) else Path(place).as_uri()


def lake_url(given: str, name: str) -> str:
    """Return the URL of a lake in an object store, without a slash at its end, or say what in it is in the way.

    Args:
        given: As the user wrote it.
        name: Of the option or variable that gave it, for the message.

    Example:
        >>> lake_url("s3://bucket/lab/", "--lake")
        's3://bucket/lab'
    """
    text = given.strip().rstrip("/")
    if _LAKE.fullmatch(_CONTAINER.sub(r"\1", text)) and ".." not in text.split("/"):
        return text
    # not as it was written: before an @ or in a query may stand a key
    what = "no URL (a folder is named by --root)" if not is_url(text) else "none that a lake can have"
    raise PrerequisiteError(
        f"{name} got {text if text.isalnum() else _shown(text)!r}, {what}. Give s3://BUCKET/PATH, gs://BUCKET/PATH, "
        "az://CONTAINER/PATH or abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, of letters, digits and . _ = + -; "
        "keys and endpoint come from AWS_…, GOOGLE_… or AZURE_… variables. Nothing was made."
    )


def _shown(text: str) -> str:
    """A URL without what may be a key."""
    return re.sub(r"(?<=://)[^/]*@", "[hidden]@", re.split(r"[?#]", text, maxsplit=1)[0])


def enter_lake(url: str) -> str:
    """Make ``--lake`` the lake of this process and of the kernels that it starts."""
    os.environ["ARISLAB_LAKE"] = lake_url(url, "--lake")
    return os.environ["ARISLAB_LAKE"]


def without_lake(words: list[str]) -> list[str]:
    """Take ``--lake URL`` out of a command line and make that the lake of this process and of those that it starts.

    Every verb has it: it stands for the variable ARISLAB_LAKE, which says to all of them where the tables lie.

    Raises:
        PrerequisiteError: It is no URL of a lake.
    """
    rest = iter(words)
    left: list[str] = []
    for word in rest:
        if word == "--":
            return [*left, word, *rest]
        if word == "--lake":
            enter_lake(next(rest, ""))
        elif word.startswith("--lake="):
            enter_lake(word.removeprefix("--lake="))
        else:
            left.append(word)
    return left


def notebooks() -> Path:
    """Return the folder of the notebooks: of the root if that is a lab, else of the lab, else those that came along."""
    given = os.environ.get("ARISLAB_ROOT")
    labs = (folder for folder in (given and Path(given), lab()) if folder and is_lab(folder))
    return next((folder / "notebooks" for folder in labs if (folder / "notebooks").is_dir()), SHIPPED / "notebooks")


def enter(folder: Path | str | None) -> Path:
    """Make ``--root`` the root of this process and of the kernels that it starts."""
    if folder is not None:
        os.environ["ARISLAB_ROOT"] = str(made(usable(folder, "--root")))
    return root()


def made(folder: Path) -> Path:
    """Make a folder of a root, with those above it, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --root."
        ) from None
    return folder


def usable(given: Path | str, name: str) -> Path:
    """Return the whole path of a folder in which tables can lie, or say what in it is in the way; nothing is made.

    Args:
        given: As the user wrote it; ``~`` and ``~/…`` are the home folder.
        name: Of the option or variable that gave it, for the message.
    """
    text = str(given)
    if _URL.match(text):
        raise PrerequisiteError(
            f"{name} {_shown(text)!r} is a URL; a root is a folder on this machine so far. Give a folder; a "
            "lake by URL is named by --lake or ARISLAB_LAKE. Nothing was made."
        )
    path = Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)
    path = path if "\0" in text else path.resolve()
    if bad := _UNUSABLE.search(str(path)):
        raise PrerequisiteError(
            f"{name} {str(path)!r} holds {bad[0]!r}, with which Delta Lake cannot store a table. Give a folder "
            "without control characters, [ ] \\ ^ | * ? and % before two hex digits (spaces, umlauts and quotes are "
            "fine); nothing was made."
        )
    if len(os.fsencode(path)) > _LONGEST:
        raise PrerequisiteError(
            f"{name} is {len(os.fsencode(path)):,} bytes long; the files below it need it to be shorter than "
            f"{_LONGEST:,}. Give another folder; nothing was made."
        )
    return path
