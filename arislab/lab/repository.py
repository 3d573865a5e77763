"""The git repository of a lab: its commit stands in every record, and notebooks go into it without their outputs."""

import os
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from arislab import __version__
from arislab.system import git
from arislab.system.paths import MARKER

STRIP = '--keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info.version"'
"""Options of nbstripout: ids stay, since records name cells by them."""


def begin(folder: Path, places: Collection[str]) -> list[str]:
    """Make a lab a git repository with a first commit, unless it stands in one; return what was done, a line each.

    Outputs of notebooks are stripped on their way into a commit, where nbstripout is installed; the files keep theirs.

    Args:
        folder: The lab.
        places: Its files that came with arislab: they alone are committed, since what else a folder holds (keys, data)
            is for its owner to commit.
    """
    if git.run(folder, "--version") is None:
        return ["git is not installed: records of this lab name no commit"]
    if (outer := git.checkout_of(folder)) is not None:
        return [f"this is part of the repository {outer}: records name its commits; commit the lab there"]
    if (made := git.run(folder, "init", "--quiet")) is None or made.returncode:
        return [f"git init failed: {made.stderr.decode(errors='replace').strip() if made else 'no git'}"]
    return [*_strip(folder), *_commit(folder, places)]


def _strip(folder: Path) -> list[str]:
    if find_spec("nbstripout") is None:
        return ["nbstripout is not installed: commits hold outputs of notebooks (pip install nbstripout, init again)"]
    git.run(folder, "config", "filter.nbstripout.clean", f'"{sys.executable}" -m arislab.lab.strip {STRIP}')
    git.run(folder, "config", "filter.nbstripout.smudge", "cat")
    return ["notebooks are committed without outputs (nbstripout, see .gitattributes)"]


def _commit(folder: Path, places: Collection[str]) -> list[str]:
    if not git.output(folder, "config", "user.email"):
        return [
            "nothing is committed, as git knows no user.email: git add -A && git commit, then records name a commit"
        ]
    git.run(folder, "add", "--", MARKER, ".arislab", *places)
    # a key for signatures may ask for a password, and the lab is no place for hooks of other projects
    quiet = ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")
    done = git.run(folder, *quiet, "commit", "--quiet", "-m", f"A lab of arislab {__version__}")
    if done is None or done.returncode:
        return [f"nothing is committed: {done.stderr.decode(errors='replace').strip() if done else 'no git'}"]
    head = (git.output(folder, "rev-parse", "--short", "HEAD") or b"").decode().strip()
    lines = [f"first commit {head}: records name the commit that they ran from"]
    if others := (git.output(folder, "status", "--porcelain", "-z") or b"").split(b"\0")[:-1]:
        first = os.fsdecode(others[0][3:])
        lines.append(f"not committed: {len(others)} that were here before, such as {first}; git add what belongs here")
    return lines
