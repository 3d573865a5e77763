"""Names that stand for one of the models, and for another one later: ``candidate-evaluation@champion``.

Clients ask by the alias; each request is answered by the model that it names when the request comes, and the answer
says which one that was. A batch is resolved once, when its lines are checked, and stays with that to its end, over
restarts too.
"""

import sqlite3
import time

from arislab.server.database import Database, Record


class Aliases:
    """The aliases of a server; on disk when ``switch`` returns.

    Args:
        database: The server's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = {row["alias"]: row for row in database.query("select * from aliases order by alias")}

    def resolve(self, name: str) -> str:
        """Return the model that an alias names now; any other name as it is."""
        row = self._rows.get(name)
        return str(row["model"]) if row else name

    def rows(self) -> list[Record]:
        """Return alias, model, previous (null: none) and since (Unix time) of each."""
        return list(self._rows.values())

    def switch(self, alias: str, model: str, expected: set[str | None] | None) -> Record | None:
        """Let an alias name a model from now on; null where it names none of the expected ones, and nothing changed.

        Args:
            alias: Its name.
            model: Name of the model.
            expected: What it may name until now, null for nothing; null: anything.
        """

        def write(db: sqlite3.Connection) -> Record | None:
            row = db.execute("select model, previous, since from aliases where alias = ?", (alias,)).fetchone()
            current = row["model"] if row else None
            if expected is not None and current not in expected:
                return None
            previous = row["previous"] if row and current == model else current
            since = row["since"] if row and current == model else int(time.time())
            db.execute("insert or replace into aliases values (?, ?, ?, ?)", (alias, model, previous, since))
            return {"alias": alias, "model": model, "previous": previous, "since": since}

        made = self._database.write(write).result()
        if made is not None:
            self._rows = dict(sorted({**self._rows, alias: made}.items()))
        return made
