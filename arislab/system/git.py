"""Asking git about a folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes] | None":
    """Run git in a folder and return what became of it; null where there is no git."""
    import subprocess  # listing runs does without it

    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            # else `git status` would write the index, and stand in the way of whoever commits
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        return None


def output(folder: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> bytes | None:
    """Return what git prints; null where there is no git, or it ends with a code that is not fine."""
    done = run(folder, *arguments)
    return done.stdout if done is not None and done.returncode in fine else None


def checkout_of(folder: Path) -> Path | None:
    """Return the top of the git checkout around a folder; null if there is none."""
    top = output(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(top.removesuffix(b"\n"))) if top else None
