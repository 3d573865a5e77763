"""Making a lab, and taking over what a newer arislab changed, without ever writing over what people have.

For each template three contents count: as the lab has it, as it was taken over (``.arislab/templates/<place>.orig``),
and as the installed arislab has it. A file that is renewed is written before its ``.orig``: a kill between the two
leaves a file that is the new template already, which the next update sees.
"""

import difflib
import errno
import secrets
import time
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

from arislab import __version__
from arislab.errors import ParameterError, PrerequisiteError
from arislab.lab import templates
from arislab.system import files
from arislab.system.paths import MARKER, is_lab, usable

KEPT = Path(".arislab") / "templates"
REPLACED = Path(".arislab") / "replaced"
_MARK = """\
# This folder is a lab of arislab: notebooks, data/ and papermill_runs/ here belong together.
# `arislab init --update` takes over what a newer arislab changed in the files that nobody edited.
arislab = "{version}"  # whose templates were taken over last
"""

State = Literal["unchanged", "new", "renewed", "edited", "removed", "in the way", "dropped"]


@dataclass(frozen=True)
class Change:
    """What became of one template."""

    place: str
    """In the lab, with ``/`` between folders."""
    state: State
    """unchanged since it was taken over; new or renewed in the lab; edited in the lab, and the template is another one
    now; removed from the lab; in the way: something of the user's has the place of a new template; or dropped: no
    template any more, and left where it is."""
    diff: str = ""
    """Of edited: from the template that was taken over to the one of now. Of in the way: from the user's file to the
    template. A notebook as its cells."""

    def __repr__(self) -> str:
        return f"{self.state:<10} {self.place}"


def init(folder: Path) -> list[Change]:
    """Make a folder a lab; what stands in it already stays as it is.

    Args:
        folder: Made if absent.

    Returns:
        One a template.

    Raises:
        PrerequisiteError: It is a lab already, or cannot be written.
    """
    folder = usable(folder, "the lab")
    if (folder / MARKER).exists():
        raise PrerequisiteError(f"{folder} is a lab already: arislab init --update {folder}")
    done = _take_over(folder, templates.shipped(), keep=())
    for name in ("data", "papermill_runs"):
        (folder / name).mkdir(exist_ok=True)
    return done


def changes(folder: Path) -> list[Change]:
    """Say what ``update`` would do in a lab, and do nothing; one a template.

    Raises:
        PrerequisiteError: It is no lab, or one of a newer arislab.
    """
    folder, shipped = _checked(folder), templates.shipped()
    states = (_change(folder, place, _content(folder / place), new) for place, new in shipped.items())
    return [*states, *_dropped(folder, shipped)]


def update(folder: Path, *, keep: Collection[str] = ()) -> list[Change]:
    """Renew in a lab what nobody edited there, add what is new, and leave the rest; one change a template.

    A file with other bytes that is renewed nevertheless (a notebook with outputs) is copied to ``.arislab/replaced``
    first.

    Args:
        folder: The lab.
        keep: Places of edited files whose new template is not asked about again: the lab's own stands.

    Raises:
        ParameterError: A place in ``keep`` is of no template.
        PrerequisiteError: It is no lab, one of a newer arislab, or cannot be written.
    """
    shipped = templates.shipped()
    if unknown := sorted(set(keep) - set(shipped)):
        raise ParameterError(f"--keep {unknown[0]!r} is no template of a lab; one is: {', '.join(shipped)}.")
    return _take_over(_checked(folder), shipped, keep=keep)


def _checked(folder: Path) -> Path:
    folder = usable(folder, "the lab")
    if not (folder / MARKER).is_file():
        if is_lab(folder):
            raise PrerequisiteError(f"{folder} is a checkout of arislab itself: git brings its notebooks up to date.")
        raise PrerequisiteError(f"{folder} is no lab: it has no {MARKER}; `arislab init {folder}` makes it one.")
    if (last := _version_of(folder)) is not None and last > Version(__version__):
        raise PrerequisiteError(
            f"{folder} has templates of arislab {last}, and {__version__} is installed: it would take them back. "
            f"Install {last} or newer first."
        )
    return folder


def _version_of(folder: Path) -> Version | None:
    """The arislab whose templates a lab took over last; null where the marker, which people may edit, names none."""
    try:
        return Version(str(tomllib.loads((folder / MARKER).read_text(encoding="utf-8")).get("arislab")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidVersion):
        return None


def _take_over(folder: Path, shipped: Mapping[str, bytes], *, keep: Collection[str]) -> list[Change]:
    # two updates of one second have a folder each
    second = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    done, before = [], folder / REPLACED / f"{second}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, new in shipped.items():
            mine = _content(folder / place)  # once: what is judged is what is set aside
            change = _change(folder, place, mine, new)
            if change.state == "renewed" and mine is not None and mine != _kept(folder, place):
                files.keep(before / place, mine)
            if change.state in ("new", "renewed"):
                files.keep(folder / place, new)
            if change.state in ("new", "renewed") or place in keep or _is_new(place, mine, new):
                files.keep(_orig(folder, place), new)
            done.append(change)
        for change in _dropped(folder, shipped):  # said once
            _orig(folder, change.place).unlink()
            done.append(change)
        # last: a folder in which it was cut off is no lab yet, and `init` goes on
        files.keep(folder / MARKER, _MARK.format(version=__version__).encode())
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {error.filename or folder} ({error.strerror}); give another folder, or mend that and "
            "run it again: it goes on."
        ) from None
    return done


def _is_new(place: str, mine: bytes | None, new: bytes) -> bool:
    return mine is not None and templates.is_same(place, mine, new)


def _change(folder: Path, place: str, mine: bytes | None, new: bytes) -> Change:
    before = _kept(folder, place)
    if _is_new(place, mine, new):
        return Change(place, "unchanged")
    if not _is_taken(folder, folder / place):
        return Change(place, "new" if before is None else "removed")
    if before is None:
        return Change(place, "in the way", _diff(place, mine, new, of="yours", to="arislab's"))
    if templates.is_same(place, before, new):
        return Change(place, "unchanged")
    if mine is not None and templates.is_same(place, mine, before):
        return Change(place, "renewed")
    return Change(place, "edited", _diff(place, before, new, of="before", to="now"))


def _diff(place: str, one: bytes | None, other: bytes, *, of: str, to: str) -> str:
    old = None if one is None else templates.as_lines(place, one)
    now = templates.as_lines(place, other)
    if old is None or now is None:
        return f"{place}: here is no text file, or the template is none"
    lines = difflib.unified_diff(old, now, f"{place} ({of})", f"{place} ({to})", lineterm="", n=2)
    return "\n".join(lines) or f"{place}: another file, with the same lines"


def _orig(folder: Path, place: str) -> Path:
    return folder / KEPT / f"{place}.orig"


def _kept(folder: Path, place: str) -> bytes | None:
    return _content(_orig(folder, place))


def _is_taken(folder: Path, path: Path) -> bool:
    """Say whether something stands at a place in the lab, or a file where a folder on the way to it would be."""
    above = [one for one in path.parents if one != folder and one.is_relative_to(folder)]
    return path.is_symlink() or path.exists() or any(one.exists() and not one.is_dir() for one in above)


def _dropped(folder: Path, shipped: Mapping[str, bytes]) -> list[Change]:
    kept = (path.relative_to(folder / KEPT).as_posix() for path in sorted((folder / KEPT).rglob("*.orig")))
    places = (place.removesuffix(".orig") for place in kept)
    return [Change(place, "dropped") for place in places if place not in shipped]


def _content(path: Path) -> bytes | None:
    """Bytes of a plain file; null where there is none: a folder or a link is the user's own."""
    if path.is_symlink():
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return None
        raise
