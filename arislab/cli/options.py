"""Options that several commands share, and the lake of a root."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.system.paths import enter

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", help="Folder for data/ and papermill_runs/; default: the lab around. --lake URL: tables elsewhere."
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Its id, the start or the last four characters of it, or a phase.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run it although it is not signed with your key; running a record runs its code."),
]


def open_lake(root: Path | None, *, collected: bool = False) -> Any:
    """Return the lake of a root; rows that a command writes name the time of the command.

    Args:
        root: Null: the one that holds here.
        collected: Fold first what people decided and journals still hold: for commands that read reviews.
    """
    from arislab.lake import Lake

    enter(root)
    lake = Lake(run_id=f"cli-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    if collected:
        lake.collect()
    return lake


Seed = Annotated[int, typer.Option("--seed", help="Base of every random choice.")]
