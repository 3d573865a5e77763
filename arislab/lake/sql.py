"""One SELECT over the newest version of the tables, answered by DuckDB, which can reach nothing else."""

import re

import polars as pl

from arislab.errors import LakeError
from arislab.lake import log, opening
from arislab.lake.places import Place

_READER = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # else a name in the query could be a variable of this program
    "lock_configuration": "true",  # the last one: after it the query cannot take any of these back
}
"""Settings of DuckDB under which a query can read the tables that it is given, and nothing else."""
_READS = ("SELECT", "EXPLAIN", "MULTI")  # MULTI: how DuckDB takes a PIVOT


def answer(lake: Place, query: str) -> pl.DataFrame:
    """Return the answer to one SELECT over the tables of a lake.

    Raises:
        LakeError: The query is more or other than a SELECT, or cannot be answered; the message is DuckDB's, with the
            tables that exist.
    """
    import duckdb

    names = opening.names(lake)
    with duckdb.connect() as connection:
        for setting, value in _READER.items():
            connection.execute(f"set {setting} = {value}")
        try:
            kinds = [statement.type.name for statement in connection.extract_statements(query)]
            if len(kinds) != 1 or kinds[0] not in _READS:
                raise LakeError(
                    f"cannot answer {query!r}: it is {' + '.join(kinds) or 'empty'}. Give one SELECT; rows are written "
                    "by phases, `arislab import` and the panel, and files are read by `arislab import`."
                )
            for name in names:
                if re.search(rf"\b{name}\b", query, re.IGNORECASE):  # others are not opened, nor noted as read
                    table = opening.open_version(lake / name)
                    # not as a pyarrow dataset, which cannot compare the texts of rows that were merged (string_view)
                    connection.register(name, opening.frame(name, table))
                    log.note("read", name, version=table.version(), rows=None, sql=query)
            answer: pl.DataFrame = connection.sql(query).pl()
        except (duckdb.Error, pl.exceptions.PolarsError) as error:
            known = ", ".join(names) or "no table yet; run `arislab demo`"
            if opening.DAMAGED.search(str(error)):
                known += "; if a data file is damaged, `arislab doctor` names it and the way back"
            raise LakeError(f"cannot answer {query!r}: {str(error).splitlines()[0]}. Tables: {known}.") from None
        return answer
