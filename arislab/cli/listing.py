"""``arislab runs``: the list of runs.

The one verb that does not go through the other verbs' command-line library: loading that takes longer than listing ten
thousand runs.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from arislab.records import find as records
from arislab.records import words
from arislab.system.paths import enter
from arislab.system.text import one_line, print

_COLUMNS = 120


def main(arguments: Sequence[str]) -> None:
    """Print the recorded runs, newest first.

    Args:
        arguments: What follows ``arislab runs``.

    Raises:
        ParameterError: A condition that cannot be read, or no run has what is sorted by.
        SystemExit: 2 and the usage, for an option that does not exist.
    """
    given = _parser().parse_args(arguments)
    base = enter(given.root)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a list is no place to fail for a letter
    rows = records.select(base, where=given.where, sort=given.sort, limit=given.n + 1)
    more, rows = len(rows) > given.n, rows[: given.n]
    if given.as_json:
        print(json.dumps(rows, indent=1, default=str))
        return
    if not rows:
        why = "no run fulfils that" if given.where else "no runs yet: `arislab demo`, or `arislab run PHASE`"
        print(f"{why} (looked in {base / 'papermill_runs'})", file=sys.stderr)
    lines = [_line(row) for row in rows]
    if more:
        lines.append(f"and more: -n N lists so many, --where filters; newest first in {base / 'papermill_runs'}")
    if lines:
        print("\n".join(lines))


def _line(row: dict[str, Any]) -> str:
    """One run on a line, whose end is left out where it does not fit; the id, which names the phase too, is whole."""
    took = f"{row['duration_s']:7.1f} s" if row["duration_s"] is not None else "        –"
    begin = f"{one_line(row['run_id']):<30} {one_line(row['status']):<11} {took}  "
    left = max(0, _COLUMNS - len(begin))
    if row["status"] in ("ok", *records.OPEN):
        return begin + words.line(row["headline"], columns=left)
    why = one_line(row["reason"] or "")
    return begin + (why if len(why) <= left else f"{why[: left - 1]}…"[:left])


class _Help(argparse.HelpFormatter):
    """As the other verbs write it."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = "Usage: ") -> None:
        super().add_usage(usage, actions, groups, prefix)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arislab runs",
        description="List the recorded runs, newest first.",
        epilog="One or two of them: arislab runs show RUN, diff RUN RUN, export RUN; each has --help.",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--root", metavar="DIR", help="folder of data/ and papermill_runs/; default: the lab around")
    parser.add_argument(
        "--where", metavar="SQL", default="", help="condition: columns, parameters, headline numbers by name"
    )
    parser.add_argument(
        "--sort", metavar="NAME", default="", help="column or headline number to sort by, largest first"
    )
    parser.add_argument("-n", metavar="N", type=_positive, default=50, help="most runs to list; default 50")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
