"""The ledger of a folder of batches: what was intended, and what was done, in SQLite.

This module does not know servers or requests.
"""

import sqlite3
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError

_TABLE = """
create table if not exists shards (
  shard text not null, attempt integer not null, server text not null, path text not null, n integer not null,
  state text not null, file_id text, batch_id text, changed_at text not null default current_timestamp,
  primary key (shard, attempt, server)
)"""


class Ledger:
    """Shards and what was intended and done with them; every change is on disk before the next call goes out."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(folder / "ledger.sqlite", timeout=60, isolation_level=None)
            self.db.execute("pragma synchronous = full")
            self.db.execute(_TABLE)
        except (OSError, sqlite3.OperationalError) as error:
            raise PrerequisiteError(
                f"cannot write the batch ledger in {folder} ({error}); choose another folder with --root."
            ) from None
        self.db.row_factory = sqlite3.Row

    def open_shard(self, shard: str, server: str, path: Path, n: int) -> dict[str, Any]:
        """Return the newest attempt at a shard; one that brought no answer at all (fruitless) is followed by a new one."""
        row = self.db.execute(
            "select * from shards where shard = ? and server = ? order by attempt desc", (shard, server)
        ).fetchone()
        attempt = 1 if row is None else row["attempt"] + (row["state"] == "fruitless")
        if row is None or attempt != row["attempt"]:
            self.db.execute(
                "insert into shards (shard, attempt, server, path, n, state) values (?, ?, ?, ?, ?, 'planned')",
                (shard, attempt, server, str(path), n),
            )
            row = self.db.execute(
                "select * from shards where shard = ? and server = ? and attempt = ?", (shard, server, attempt)
            ).fetchone()
        return dict(row)

    def note(self, row: dict[str, Any], **changes: str | None) -> None:
        """Write changed columns of an attempt, and into ``row``."""
        row.update(changes)
        names = ", ".join(f"{name} = ?" for name in changes)
        self.db.execute(
            f"update shards set {names}, changed_at = current_timestamp where shard = ? and attempt = ? and server = ?",
            (*changes.values(), row["shard"], row["attempt"], row["server"]),
        )
