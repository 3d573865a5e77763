"""A person taken out of all files of a root: first said, then done, then searched for again.

    data/forgotten/20261128-3fa2.json    the receipt: begun, then complete, or what is left
    data/lake/.forgetting.json           who, while it is under way; who is cut off goes on from it

What is done twice is the same as done once, so a killed forgetting is run again from the start. This module does not
know what lies in a file (contents) nor who it is (person).
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arislab.batch import forgetting as batches
from arislab.errors import LakeError, ParameterError, PrerequisiteError, closest
from arislab.forgetting import contents
from arislab.forgetting.person import Person, gather, learned
from arislab.lake import Lake, receipts, shrunk, storage
from arislab.records import files as run_files
from arislab.runs import resealing
from arislab.system import files
from arislab.system.paths import is_url

_PLACES = ("data", "papermill_runs", "notebooks")
_LOCKS = ("papermill_runs/.locks/*", "data/lake/.locks/*", "data/**/server/lock")
_SIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Plan:
    """What goes if a person is forgotten."""

    person: Person
    places: dict[str, int]
    """Table, folder or run to how many rows, lines or texts of theirs it holds."""
    left: dict[str, str]
    """File to why it stays as it is."""
    adapters: list[tuple[str, str]]
    """Version of a model and the role that a row of theirs had in its training."""
    sets: list[str]
    """Sets of in-context examples that show some."""
    group: list[str]
    """Other candidates of their groups, who are not forgotten."""

    @property
    def n(self) -> int:
        """All places together."""
        return sum(self.places.values())


def unfinished(lake: Lake) -> Person | None:
    """Return who was being forgotten when it was cut off; null if nobody was."""
    path = _state(lake)
    if not path.is_file():
        return None
    state = json.loads(path.read_bytes())["person"]
    return Person(**state | {"texts": [(probe, whole) for probe, whole in state["texts"]]})


def plan(lake: Lake, names: Sequence[str], *, group: bool = False) -> Plan:
    """Return what goes if candidates are forgotten; nothing is changed.

    Args:
        lake: Of the root.
        names: candidate_id of each.
        group: Also the other candidates of their groups.

    Raises:
        ParameterError: The lake knows no such candidate and nobody of that name was forgotten.
        PrerequisiteError: A forgetting of others was cut off, or the lake is one by URL.
    """
    if is_url(lake.path):
        raise PrerequisiteError(
            f"nobody can be forgotten in {lake.path}: it rewrites data files in their place, which is done in folders "
            "only. Copy the lake to a folder with your store's own tool, forget them there (without --lake), put it "
            "back, and delete the store's older copies. Nothing was changed."
        )
    cut_off = unfinished(lake)
    if cut_off is not None and names and set(names) - set(cut_off.names):
        raise PrerequisiteError(
            "the forgetting of another candidate was cut off; `arislab forget` without a name completes it first."
        )
    person, others = (cut_off, []) if cut_off is not None else _sought(lake, list(names), group=group)
    places, left = _search(lake, person)
    adapters, sets = learned(Path(lake.path), person)
    return Plan(person, places, left, adapters, sets, others)


def _sought(lake: Lake, names: list[str], *, group: bool) -> tuple[Person, list[str]]:
    """Who is forgotten, and who of their groups is not."""
    if not names:
        raise ParameterError("nobody is named: arislab forget CANDIDATE_ID.")
    known = lake["candidates"].read(columns=["candidate_id", "group_id"])
    gone = receipts.forgotten(lake.data, names)
    if strange := [name for name in names if name not in known["candidate_id"] and name not in gone]:
        which = closest(strange[0], known["candidate_id"].to_list())
        raise ParameterError(f"there is no candidate {strange[0]!r} in this lake; {which}. Nothing was forgotten.")
    groups = known.filter(known["candidate_id"].is_in(names))["group_id"].to_list()
    others = known.filter(known["group_id"].is_in(groups) & ~known["candidate_id"].is_in(names))["candidate_id"]
    everyone = sorted({*names, *(others if group else ())})
    receipt = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
    return gather(Path(lake.path), everyone, receipt), [] if group else sorted(others)


def forget(lake: Lake, planned: Plan, *, by: str, reason: str) -> dict[str, Any]:
    """Do what was planned, and return the receipt.

    Args:
        lake: Of the root.
        planned: From ``plan``.
        by: Who asked for it.
        reason: Why.

    Raises:
        PrerequisiteError: A run, a server or a review is at work, or requests about them are on their way; nothing was
            changed.
        LakeError: A table is damaged; nothing was changed.
    """
    person, folder = planned.person, Path(lake.path)
    with _alone(lake):
        state = _begun(lake, planned, by=by, reason=reason)
        receipt = state["receipt"]
        receipts.keep(lake.data, receipt)
        left, links = dict[str, str](), dict[int, int]()
        for table in _tables(lake):
            for path in _inside(table):
                _rewritten(path, person, left, links, table=table.name)
            try:
                shrunk.renew(table, person.leaf)
            except LakeError as error:
                left[_place(lake, table)] = str(error)
        for path in _files(lake):
            _rewritten(path, person, left, links)
        for ledger in _ledgers(lake):
            batches.recount(ledger)
        tables = sorted({table.name for table in _tables(lake)} & receipt["places"].keys())
        for run, seen in state["records"].items():
            resealing.reseal(Path(run), seen, person.receipt, at=receipt["begun_at"], tables=tables)
        after, still = _search(lake, person)
        left = still | {place: why for place, why in left.items() if place not in still}
        left |= dict.fromkeys(after, "it still holds some; run this again")
        if n := sum(links.values()):
            left["files elsewhere"] = f"{n:,} hard links from outside of this root still lead to what was rewritten"
        kept = [{"place": person.text(place)[0], "why": why} for place, why in sorted(left.items())]
        ended = {"status": "incomplete" if kept else "complete", "ended_at": _now(), "left": kept}
        receipts.keep(lake.data, receipt | ended)
        if folder.is_dir():
            _state(lake).unlink()
            files.sync(folder)
    return dict(receipt | ended)


def _begun(lake: Lake, planned: Plan, *, by: str, reason: str) -> dict[str, Any]:
    """What is needed to go on after a kill; on disk before anything is changed."""
    path = _state(lake)
    if path.is_file():
        return dict(json.loads(path.read_bytes()))
    person, ledgers = planned.person, _ledgers(lake)
    for ledger in ledgers:
        if waiting := batches.on_their_way(ledger, person.ids):
            name, n = next(iter(waiting.items()))
            raise PrerequisiteError(
                f"{n:,} requests about them are on their way in batch {name}; collect or cancel it first (`arislab "
                f"batch status --folder {ledger}`). Nothing was forgotten."
            )
    for table in _tables(lake):
        shrunk.refuse_damage(table)
    salt = receipts.salt(lake.data)
    elsewhere: Counter[str] = Counter()
    for ledger in ledgers:
        elsewhere.update(batches.elsewhere(ledger, person.ids, own=batches.identity(ledger)))
    receipt = {
        "receipt": person.receipt,
        "status": "begun",
        "begun_at": _now(),
        "by": person.text(by)[0],
        "reason": person.text(reason)[0],
        "salt": salt,
        "digests": [receipts.digest(salt, name) for name in person.names],
        "places": {person.text(place)[0]: n for place, n in planned.places.items()},
        "adapters": [{"version": version, "role": role} for version, role in planned.adapters],
        "example_sets": planned.sets,
        "servers": dict(elsewhere),
        "n_shared_texts": person.n_shared,
    }
    runs = [path.parent for base in _roots(lake) for path in sorted((base / "papermill_runs").glob("*/run.json"))]
    records = {str(run): seen for run in runs if (seen := resealing.witness(run)) is not None}
    state = {"person": asdict(person), "receipt": receipt, "records": records}
    with files.written(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(state).encode())
    return state


def _search(lake: Lake, person: Person) -> tuple[dict[str, int], dict[str, str]]:
    """Where something of theirs is, with how much, and which files cannot be rewritten."""
    found, left = Counter[str](), dict[str, str]()
    for table in _tables(lake):
        for path in _inside(table):
            found[_place(lake, table)] += _counted(path, person, left, table=table.name)
        with contextlib.suppress(LakeError):
            found[_place(lake, table)] += shrunk.renew(table, person.leaf, is_dry=True)
    for path in _files(lake):
        place = _place(lake, path)
        found[place] += _counted(path, person, left)
        inside = str(path.relative_to(lake.data.parent))
        if person.text(inside)[1]:
            left[inside] = "its name holds it; rename it"
    return {place: n for place, n in sorted(found.items()) if n}, left


def _counted(path: Path, person: Person, left: dict[str, str], *, table: str = "") -> int:
    try:
        return contents.without(path, person, table=table)
    except (contents.Kept, OSError) as error:
        left[str(path)] = str(error)
    return 0


def _rewritten(path: Path, person: Person, left: dict[str, str], links: dict[int, int], *, table: str = "") -> None:
    try:
        before = path.stat()
        if contents.without(path, person, table=table, is_dry=False) and before.st_nlink > 1:
            links[before.st_ino] = before.st_nlink - 1 if path.stat().st_ino != before.st_ino else 0
    except (contents.Kept, OSError) as error:
        left[str(path)] = str(error)


def _roots(lake: Lake) -> list[Path]:
    """The root, and those of reruns that lie in it."""
    root = lake.data.parent
    return [root, *sorted(path.parent.parent for path in root.glob("papermill_runs/.reruns/*/data/lake"))]


def _tables(lake: Lake) -> list[Path]:
    return [log.parent for base in _roots(lake) for log in sorted((base / "data" / "lake").glob("*/_delta_log"))]


def _inside(table: Path) -> list[Path]:
    """Data files of a table, and what was set aside or left behind there; not its log, which goes by them."""
    commits, checkpoints = storage.log_of(table)
    log = {*commits.values(), *(path for some in checkpoints.values() for path in some)}
    every = (path for path in table.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in every if path not in log and path.name != "_last_checkpoint")


def _ledgers(lake: Lake) -> list[Path]:
    return [path.parent for base in _roots(lake) for path in sorted((base / "data").rglob("ledger.sqlite"))]


def _files(lake: Lake) -> Iterator[Path]:
    """All other files of a root: not those of tables, locks, links, and what a database keeps beside itself."""
    root, tables = lake.data.parent, _tables(lake)
    for top in _PLACES:
        for folder, _, names in os.walk(root / top):
            where = Path(folder)
            if where == lake.data / receipts.FOLDER or where.name == ".locks":
                continue
            if any(where.is_relative_to(table) for table in tables):
                continue
            for name in sorted(names):
                path = where / name
                is_side = name.endswith(_SIDE) and (where / name.rpartition("-")[0]).is_file()
                if path.is_file() and not path.is_symlink() and not is_side and path != _state(lake):
                    yield path


def _place(lake: Lake, path: Path) -> str:
    """Table, folder or run, as a person knows it."""
    inside = path.relative_to(lake.data.parent)
    if inside.parts[:2] == ("data", "lake") and inside.parts[2] != "review":
        return inside.parts[2]
    return "/".join(inside.parts[: 2 if inside.parts[0] == "papermill_runs" else 3])


def _state(lake: Lake) -> Path:
    return Path(lake.path) / receipts.UNDER_WAY


@contextlib.contextmanager
def _alone(lake: Lake) -> Iterator[None]:
    """Hold all that runs, servers, writers and reviewers hold while they are at work.

    Raises:
        PrerequisiteError: One of them is.
    """
    root = lake.data.parent
    with contextlib.ExitStack() as held:
        paths = [
            *root.glob("papermill_runs/.locks/*"),
            *lake.data.rglob("server/lock"),
            *root.glob("data/lake/.locks/*"),
        ]
        paths += [*lake.review.rglob("*.jsonl"), *lake.review.rglob("*.votes")]
        for path in sorted(path for path in paths if path.is_file()):
            file = held.enter_context(files.opened(path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PrerequisiteError(
                    f"{path.relative_to(root)} is held: a run, a server or a review is at work in this root. End it, "
                    "then run this again. Nothing was forgotten."
                ) from None
        for base in sorted(root.glob("papermill_runs/*/run.json")):
            if run_files.seen(run_files.read(base.parent))["status"] in run_files.OPEN:
                raise PrerequisiteError(f"run {base.parent.name} is not over; end it first. Nothing was forgotten.")
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
