"""What a ledger and its server hold of requests that must go: where they are on their way, and what is counted after.

The lines themselves are taken out by whoever forgets; this module only knows where they lie, and what counts them.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from arislab.batch.ledger import OPEN


def on_their_way(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the batches of a ledger that are not settled and hold requests, with how many of them.

    Args:
        folder: Of the ledger.
        names: custom_ids.
    """
    sql = (
        "select coalesce(batch_id, shard), count(*) from shards join lines on shard_id = shards.id "
        f"where state in {OPEN} and custom_id in (select value from json_each(?)) group by 1 order by 1"
    )
    with _opened(folder / "ledger.sqlite") as db:
        return dict(db.execute(sql, (json.dumps([*names]),)).fetchall()) if db else {}


def elsewhere(folder: Path, names: Iterable[str], *, own: str | None) -> dict[str, int]:
    """Return the servers that were sent requests and keep their files themselves, with how many requests.

    Args:
        folder: Of the ledger.
        names: custom_ids.
        own: Identity of the server under this folder; null: there is none.
    """
    sql = (
        "select server, count(*) from shards join lines on shard_id = shards.id where server is not ? "
        "and custom_id in (select value from json_each(?)) group by 1 order by 1"
    )
    with _opened(folder / "ledger.sqlite") as db:
        return dict(db.execute(sql, (own, json.dumps([*names]))).fetchall()) if db else {}


def recount(folder: Path) -> None:
    """Make a ledger, and the server under its folder, count what their files hold now."""
    with _opened(folder / "ledger.sqlite") as db:
        for number, path in db.execute("select id, path from shards").fetchall() if db else ():
            sent = folder / "requests" / Path(path).name  # not where it lay: the root may have moved
            n_bytes = sent.stat().st_size if sent.is_file() else None
            db.execute(
                "update shards set n = (select count(*) from lines where shard_id = shards.id), "
                "bytes = coalesce(?, bytes) where id = ? and state in ('collected', 'fruitless')",
                (n_bytes, number),
            )
    with _opened(folder / "server" / "server.db") as db:
        for name, n_bytes in db.execute("select id, bytes from files").fetchall() if db else ():
            path = folder / "server" / "files" / name
            if path.is_file() and path.stat().st_size != n_bytes:
                db.execute("update files set bytes = ? where id = ?", (path.stat().st_size, name))


def identity(folder: Path) -> str | None:
    """Return the identity of the server under a folder; null if there is none."""
    with _opened(folder / "server" / "server.db") as db:
        row = db.execute("select value from meta where name = 'instance'").fetchone() if db else None
    return str(row[0]) if row else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database; a false value where there is none."""
    if not path.is_file():
        yield None  # type: ignore[misc]
        return
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        yield db
