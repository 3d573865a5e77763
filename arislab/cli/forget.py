"""``arislab forget``: a candidate is taken out of a root; what is done stands in ``forgetting``."""

import getpass
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from arislab.cli.options import Root, open_lake
from arislab.errors import PrerequisiteError
from arislab.system.text import print

if TYPE_CHECKING:
    from arislab.forgetting import Plan


def forget(
    candidates: Annotated[
        list[str] | None, typer.Argument(metavar="CANDIDATE_ID", help="Who; none: complete what was cut off.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who asked for it; default: your user name.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the receipt.")] = "asked to be forgotten",
    root: Root = None,
    *,
    group: Annotated[bool, typer.Option("--group", help="Also the others of their group, who may be copies.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only said, and asked at a terminal.")] = False,
) -> None:
    """Remove a candidate from tables and their older versions, batches, records, reviews and exports.

    It can't be undone. A receipt without their data stays, and they can't be imported again. Exit code 1 if a place
    still holds something.
    """
    from arislab import forgetting

    lake = open_lake(root)
    planned = forgetting.plan(lake, candidates or [], group=group)
    print("\n".join(_said(planned)))
    if not (planned.n or planned.left or forgetting.unfinished(lake)):
        print("0 places hold it")
        return
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            print("nothing was changed; --yes does it")
            raise typer.Exit(2)
        if not typer.confirm("Forget them? It cannot be undone.", default=False):
            raise typer.Exit(2)
    receipt = forgetting.forget(lake, planned, by=by or _user(), reason=reason)
    for server, n in receipt["servers"].items():
        print(f"server {server} was sent {n:,} requests about them; what it keeps is beyond this root: delete it there")
    for one in receipt["left"]:
        print(f"still held: {one['place']}: {one['why']}", file=sys.stderr)
    n_left = len(receipt["left"])
    print(f"{n_left:,} places hold it; receipt {receipt['receipt']} in {lake.data / 'forgotten'}")
    if n_left:
        raise typer.Exit(1)


def _said(planned: "Plan") -> Iterator[str]:
    """What goes, and what should be done about what was learned from it."""
    from arislab.forgetting.person import is_telling

    person = planned.person
    yield f"{len(person.names):,} candidates with {len(person.ids):,} requests and pairs; {planned.n:,} traces go:"
    yield from (f"  {n:>7,}  {place}" for place, n in planned.places.items())
    for version, role in planned.adapters:
        next_step = "train again without (`arislab run finetune`), then" if role == "trained" else "to be rid of it:"
        yield f"adapter {version}: {role}; {next_step} `arislab retire {version}`"
    yield from (f"example set {name} shows them; `arislab run icl` chooses anew" for name in planned.sets)
    for name in (name for name in person.names if not is_telling(name)):
        yield f"{name!r} may stand anywhere by chance: as a name it is sought only where a field says so"
    if planned.group:
        yield f"of their group, and not forgotten (--group takes them along): {', '.join(planned.group)}"
    for name, heir in person.heirs.items():
        yield f"{heir!r} has the same profile as {name!r}: the answers are theirs as well, and stay"
    if person.n_shared:
        yield f"{person.n_shared:,} of their texts stand in what others own, too, and stay there"
    yield from (f"stays: {place}: {why}" for place, why in planned.left.items())


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise PrerequisiteError("nobody knows who you are here; say --by NAME.") from None
