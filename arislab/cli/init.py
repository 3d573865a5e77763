"""``arislab init``: a lab of one's own, and what a newer arislab changes in it."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import paths
from arislab.system.text import print

_HINTS = {
    "edited": "edited here, and the template is another one now; take over by hand what you want of it, and say so "
    "with --keep PLACE:",
    "in the way": "not added, as a file of yours has the place; take over by hand what you want, and say so with "
    "--keep PLACE:",
    "removed": "removed here, and not added again",
    "dropped": "no template any more; yours stays where it is",
}


def init(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The lab; with --update, default the one around.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PLACE", help="With --update: an edited file that stays as it is; repeat it."),
    ] = None,
    *,
    update: Annotated[
        bool, typer.Option("--update", help="Renew what nobody edited, show what else a newer arislab changed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --update: say it, change nothing.")] = False,
    no_git: Annotated[bool, typer.Option("--no-git", help="Make no git repository.")] = False,
) -> None:
    """Make a folder a lab: notebooks, tasks, data and records of one study; --update brings it up to date."""
    from arislab import __version__, lab
    from arislab.lab import repository

    if not update:
        if folder is None or keep or dry_run:
            raise ParameterError("init needs DIR, the folder to make; --keep and --dry-run go with --update.")
        made = lab.init(folder)
        _tell(made)
        print(f"{folder} is a lab of arislab {__version__}: {sum(c.state == 'new' for c in made)} files")
        places = [change.place for change in made if change.state in ("new", "unchanged")]
        for line in [] if no_git else repository.begin(folder.resolve(), places):
            print(line)
        print(f"next: cd {folder}; arislab demo --until curate; arislab lab; its README.md has more")
        return
    where = folder or paths.lab()
    if where is None:
        raise PrerequisiteError(f"there is no lab around {Path.cwd()}; give its folder: arislab init --update DIR.")
    done = lab.changes(where) if dry_run else lab.update(where, keep=[place.removeprefix("./") for place in keep or ()])
    _tell(done)
    counts = ", ".join(f"{n} {state}" for state, n in Counter(change.state for change in done).items())
    print(f"{where}: {counts}" + (" (nothing was changed)" if dry_run else f"; templates of arislab {__version__}"))


def _tell(changes: list) -> None:  # type: ignore[type-arg]  # of Change: importing it would load the room for --help
    for change in changes:
        if change.state != "unchanged":
            hint = f": {_HINTS[change.state]}" if change.state in _HINTS else ""
            print(f"{change!r}{hint}")
        if change.diff:
            print("".join(f"    {line}\n" for line in change.diff.splitlines()))
